"""The independent checker proves what is right and refuses all that was changed."""

import ast
import json
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch

PATH = Path(__file__).parents[2] / "certificates" / "check.py"
spec = spec_from_file_location("check", PATH)
check = module_from_spec(spec)
spec.loader.exec_module(check)


def parts(path):
    """Arrays, header and weights of a certificate."""
    arrays = check.read(path)
    return arrays, json.loads(str(arrays["header"])), check.read(path.with_name("weights.npz"))


def margin(arrays, header, weights, hashed=True):
    """Check; `hashed`: as by somebody who fits the header's sums to what they have changed."""
    if hashed:
        header["weights"] = check.sha256(weights)
        header["boxes"] = check.sha256({k: v for k, v in arrays.items() if k.startswith(("low.", "high."))})
        header["automaton"] = automaton_digest(arrays)
    return check.Checker({**arrays, "header": np.array(json.dumps(header))}, weights).run()


def automaton_digest(arrays):
    from length_gen.datamodules.automaton.windows import Automaton

    return Automaton(*(arrays[name] for name in ("windows", "source", "target", "wanted"))).digest()


def test_imports_numpy_alone():
    names = {name.split(".")[0] for node in ast.walk(ast.parse(PATH.read_text()))
             for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else
                          [node.module] if isinstance(node, ast.ImportFrom) else [])}
    assert names - set(sys.stdlib_module_names) == {"numpy"}


def test_the_command(certified):
    def run(*paths):
        return subprocess.run([sys.executable, "-I", PATH, *paths], capture_output=True, text=True)

    done = run(certified, certified.with_name("weights.npz"))
    assert done.returncode == 0 and "least margin" in done.stdout and "assuming" in done.stdout
    assert (refused := run(certified, PATH)).returncode == 1 and "cannot be read" in refused.stdout
    wrong = run("no.npz", "no.npz", "--library", "torch", "--device", "nowhere")
    assert wrong.returncode == 2 and "torch on nowhere cannot compute here" in wrong.stderr.splitlines()[-1]


def test_proves_the_margin_that_the_prover_found(certified):
    arrays, header, weights = parts(certified)
    found = margin(arrays, header, weights, hashed=False)
    assert found > 0 and found == pytest.approx(header["least_margin"], rel=0.05)


def test_other_libraries_prove_the_same(certified):
    """PyTorch stands for all that have NumPy's names; the arrays that it makes are its own."""
    arrays, _, weights = parts(certified)
    found = check.Checker(arrays, weights, torch, torch.asarray, 10 * check.CELLS).run()
    assert found == pytest.approx(check.Checker(arrays, weights).run(), rel=1e-9)


@pytest.mark.parametrize("what", ["weights", "boxes", "automaton"])
def test_refuses_what_is_not_what_the_header_names(certified, what):
    arrays, header, weights = parts(certified)
    if what == "weights":
        weights["backbone.norm_f.weight"] *= 2
    elif what == "boxes":
        arrays["low.0"] = arrays["low.0"] * 2
    else:
        arrays["wanted"][np.flatnonzero(arrays["wanted"] >= 0)[0]] = -1
    with pytest.raises(check.Refused, match="are not th"):
        margin(arrays, header, weights, hashed=False)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("end", ["low", "high"])
def test_refuses_a_box_that_is_narrowed(certified, layer, end):
    arrays, header, weights = parts(certified)
    low, high = arrays[f"low.{layer}"], arrays[f"high.{layer}"]
    for widest in np.argsort((high - low).ravel())[-3:]:
        changed = dict(arrays)
        half = changed[f"{end}.{layer}"] = changed[f"{end}.{layer}"].copy()
        half.ravel()[widest] = (low.ravel()[widest] + high.ravel()[widest]) / 2
        with pytest.raises(check.Refused, match=f"layer {layer}: the (boxes are not inductive|start is not)"):
            margin(changed, header, weights)


def test_refuses_a_missing_edge(certified):
    arrays, header, weights = parts(certified)
    decided = np.flatnonzero(arrays["wanted"][arrays["source"]] >= 0)
    read = np.flatnonzero(arrays["wanted"][arrays["source"]] < 0)
    for edge in (decided[5], read[5], read[-1]):
        changed = {**arrays, **{name: np.delete(arrays[name], edge) for name in ("source", "target")}}
        with pytest.raises(check.Refused, match="are not those"):
            margin(changed, header, weights, hashed=False)
        if edge == decided[5]:
            with pytest.raises(check.Refused, match=r"missing|has none"):
                margin(changed, header, weights)


def test_a_window_may_forget_an_old_token_and_not_know_one_again_nor_forget_the_newest(certified):
    arrays, header, weights = parts(certified)
    found, windows = margin(arrays, header, weights), arrays["windows"]
    edge = np.flatnonzero((windows[arrays["source"]] >= 0).all(1))[0]  # not from the root
    node, source = arrays["target"][edge], arrays["source"][edge]
    for row, place, wrong in ((node, 0, ""), (source, 1, "do not overlap"), (node, -1, "the first window is not")):
        changed = windows.copy()
        changed[row, place] = -1
        if not wrong:
            assert margin({**arrays, "windows": changed}, header, weights) == pytest.approx(found, rel=1e-9)
        else:
            with pytest.raises(check.Refused, match=wrong):
                margin({**arrays, "windows": changed}, header, weights)


def test_refuses_exchanged_head_rows(certified):
    arrays, header, weights = parts(certified)
    first, second = np.unique(arrays["wanted"][arrays["wanted"] >= 0])[[0, -1]]
    weights["lm_head.weight"][[first, second]] = weights["lm_head.weight"][[second, first]]
    with pytest.raises(check.Refused, match="weights are not"):
        margin(arrays, header, weights, hashed=False)
    with pytest.raises(check.Refused, match="not proved to be the choice"):
        margin(arrays, header, weights)


def test_refuses_ten_times_the_unit(certified):
    arrays, header, weights = parts(certified)
    with pytest.raises(check.Refused):
        margin(arrays, {**header, "unit": 10 * header["unit"]}, weights)
    assert margin(arrays, {**header, "unit": header["unit"] / 10}, weights) > 0


def test_refuses_a_layer_left_out_and_a_floor_of_zero(certified):
    arrays, header, weights = parts(certified)
    settings = header["settings"]
    for changed, reason in (({**settings, "floors": settings["floors"][:1]}, "leaves layers out"),
                            ({**settings, "floors": [2.0, 0.0]}, "no floor")):
        with pytest.raises(check.Refused, match=reason):
            margin(arrays, {**header, "settings": changed}, weights)
