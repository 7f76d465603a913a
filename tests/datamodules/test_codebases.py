import itertools
import re

import pytest

from datamodules.codebases import check, check_limits, code_base
from tests.agents import UNSANDBOXED
from tools import UserError
from tools.sandbox import Limits, Sandbox


@pytest.fixture(scope="module")
def box():
    with Sandbox(check_limits(Limits()), UNSANDBOXED) as box:
        yield box


def calls(files: dict[str, bytes]) -> dict[str, set[str]]:
    """Who calls whom, read from the text of the files."""
    return {name.removesuffix(".py"): set(re.findall(r"^    (f\w+)\(", text.decode(), re.MULTILINE))
            for name, text in files.items()}


def on_paths(graph: dict[str, set[str]], node: str = "main", path: tuple[str, ...] = ()) -> set[str]:
    """All functions on any path from main to foo, by walking every path."""
    if node == "foo":
        return {*path, node}
    return set().union(*(on_paths(graph, callee, (*path, node)) for callee in graph[node]), set())


def edited(files: dict[str, bytes], names: set[str], callers: set[str]) -> dict[str, bytes]:
    """v10 as the last argument: another fix than the scripted agents'."""
    result = dict(files)
    for name in callers:
        text = files[f"{name}.py"].decode()
        for target in names:
            text = re.sub(rf"(^|def |    )({target}\([^)]*)\)", r"\1\2, v10)", text, flags=re.MULTILINE)
        result[f"{name}.py"] = text.encode()
    return result


@pytest.mark.parametrize("n", [2, 3, 9, 60])
def test_a_code_base_is_what_it_says(n):
    code = code_base("a", n)
    files = code.files()
    graph = calls(files)
    assert len(files) == n and {"main.py", "foo.py"} <= files.keys() and code_base("a", n).files() == files
    assert all(re.fullmatch(r"main|foo|f\d{1,3}", name) for name in graph)
    assert code.to_fix() == on_paths(graph) - {"main"}
    reached, grown = {"main"}, True
    while grown:
        more = reached.union(*(graph[name] for name in reached))
        grown, reached = more != reached, more
    assert reached == graph.keys()  # nothing is dead code
    assert "v10 = " in files["main.py"].decode() and "print(v10)" in files["foo.py"].decode()
    others = "".join(text.decode() for name, text in files.items() if name not in ("main.py", "foo.py"))
    assert "v10" not in others


def test_seeds_and_sizes_share_nothing():
    texts = [code_base(seed, n).files()["main.py"] for seed, n in itertools.product(("1", "2"), (8, 9))]
    assert len(set(texts)) == 4
    for n in (0, 1, 1001):
        with pytest.raises(UserError, match=r"2 .main and foo. to 1000"):
            code_base("1", n)


def test_the_largest_runs(box):
    code = code_base("1", 1000)
    names = code.to_fix()
    assert check(code, edited(code.files(), names, {*names, "main"}), box).fixed


@pytest.mark.parametrize("seed", range(6))
def test_any_fix_is_right_and_no_half_fix(box, seed):
    code = code_base(str(seed), 12)
    files, names = code.files(), code.to_fix()
    fixed = edited(files, names, {*names, "main"})
    verdict = check(code, fixed, box)
    assert verdict.fixed and verdict.needless == () and verdict.reason == ""
    assert check(code, files, box).reason == "exit status 1"
    for name in names:
        assert not check(code, {**fixed, f"{name}.py": files[f"{name}.py"]}, box).fixed
        assert not check(code, {file: text for file, text in fixed.items() if file != f"{name}.py"}, box).fixed


def test_what_only_looks_fixed_is_not(box):
    code = code_base("3", 6)
    files, value = code.files(), code.functions["main"].declared["v10"]
    foo, main = files["foo.py"].decode(), files["main.py"].decode()
    cheats = {"a constant in foo": {"foo.py": foo.replace("print(v10)", f"print({value})")},
              "no print": {"foo.py": foo.replace("print(v10)", "pass")},
              "exit": {"foo.py": "import os\nos._exit(0)\n" + foo},
              "no declaration": {"main.py": main.replace("v10 =", "v11 =")},
              "two declarations": {"main.py": main.replace(f"v10 = {value}", f"v10 = {value}\n    v10 = {value}")},
              "endless": {"foo.py": "while True: pass\n"}}
    with Sandbox(Limits(seconds=0.5), UNSANDBOXED) as quick:
        for name, changes in cheats.items():
            verdict = check(code, files | {k: v.encode() for k, v in changes.items()}, quick)
            assert not verdict.fixed and verdict.reason, name
    assert not check(code, {}, box).fixed
    unusual = check(code, files | {"foo.py": b"import builtins\n" + foo.replace("v10", "builtins.v10").encode(),
                                   "main.py": main.replace(f"v10 = {value}", f"v10 = {value}\n    import builtins\n"
                                                           "    builtins.v10 = v10").encode()}, box)
    assert unusual.fixed  # however it does so


def test_needless_edits_are_reported(box):
    code = code_base("5", 20)
    files, names = code.files(), code.to_fix()
    other = next(name for name in files if name.removesuffix(".py") not in {*names, "main"})
    left = edited(files, names, {*names, "main"}) | {other: files[other] + b"# a note\n", "new.py": b""}
    verdict = check(code, left, box)
    assert verdict.fixed and verdict.needless == tuple(sorted((other, "new.py")))
