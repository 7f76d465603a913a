"""`certify`: its exit codes, what it says and writes."""

import hashlib
import json

import numpy as np
import pytest

import length_gen.lightning_modules.commands.certify as command
from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.lightning_modules.commands.main import FUNCTIONS
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.runs.load import Run
from length_gen.tools import UserError
from tests.exact import automaton, exact_copy, flawed_copy, task


@pytest.fixture
def run(tmp_path, monkeypatch):
    """`certify` of a model, in a run's folder; the windows are those of many sampled trajectories."""
    monkeypatch.setattr(command, "automaton", lambda task, order, most, variants: automaton(order))
    monkeypatch.setattr(command, "source_digest", lambda task, variants: "0" * 64)

    def certify(model, **settings):
        data = TrajectoryDataModule(task(), seed=7)
        command.certify(Run(tmp_path, model, data, Decoding()), **{"window": 6, "longest_window": 6, **settings})

    return certify


def test_certified(run, tmp_path, capsys):
    record = tmp_path / "results" / "copy.json"
    run(exact_copy(), check=True, record=str(record))  # exit code 0
    said = capsys.readouterr().out
    assert "certified in float32" in said and "343 of 343 decisions proved" in said and "check.py" in said
    verdict = json.loads((tmp_path / "certificate" / "verdict.json").read_text())
    assert verdict == json.loads(record.read_text())
    assert (verdict["outcome"], verdict["task"], verdict["seed"], verdict["model"]) == ("certified", "copy", 7,
                                                                                       "mamba 2x64")
    assert float(verdict["checker_margin"]) == pytest.approx(verdict["least"], rel=0.05)
    content = (tmp_path / "certificate" / "certificate.npz").read_bytes()
    assert verdict["certificate_sha256"] == hashlib.sha256(content).hexdigest()
    assert verdict["certificate_bytes"] == len(content)


def test_a_precision_that_is_named_is_the_one(run, tmp_path, capsys):
    run(exact_copy(), precision="float64")
    assert "certified in float64" in capsys.readouterr().out
    verdict = json.loads((tmp_path / "certificate" / "verdict.json").read_text())
    assert (verdict["precision"], verdict["unit"]) == ("float64", 2.0**-53)


def test_what_the_checker_does_not_prove_does_not_count(run, tmp_path, monkeypatch, capsys):
    told = []

    def checked(path, device):
        told.append(json.loads(str(np.load(path)["header"]))["unit"])
        if told[-1] > 2.0**-40:
            raise UserError("certificates/check.py does not prove it: refused")
        return 1.0, "9.9"

    monkeypatch.setattr(command, "checked", checked)
    run(exact_copy(), check=True)
    assert told == [2.0**-24, 2.0**-53] and "certified in float64" in capsys.readouterr().out
    assert json.loads(str(np.load(tmp_path / "certificate" / "certificate.npz")["header"]))["unit"] == 2.0**-53
    with pytest.raises(SystemExit) as ended:
        run(exact_copy(), check=True, precision="float32", seconds=1e-6)
    assert ended.value.code == 3 and "does not prove it: refused" in capsys.readouterr().out
    assert not (tmp_path / "certificate" / "certificate.npz").exists()


def test_refuted(run, tmp_path, capsys):
    (tmp_path / "certificate").mkdir()
    (tmp_path / "certificate" / "certificate.npz").write_text("of a model before it")
    with pytest.raises(SystemExit) as ended:
        run(flawed_copy())
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "h h p1.right@copy p1.read@copy j comes j; the model says a" in said and "confirmed by a rollout" in said
    assert not (tmp_path / "certificate" / "certificate.npz").exists()
    assert json.loads((tmp_path / "certificate" / "verdict.json").read_text())["counterexample"]["expected"] == "j"


def test_unknown(run, capsys):
    with pytest.raises(SystemExit) as ended:
        run(exact_copy(dt_floor=0.0), seconds=1e-6)
    assert ended.value.code == 3 and "no floor under its step sizes" in capsys.readouterr().out


@pytest.mark.parametrize(("settings", "message"), [
    ({"precision": "float16"}, "expected real, float64, float32"), ({"window": 0}, "windows of 0 to 6 tokens"),
    ({"window": 9}, "windows of 9 to 6 tokens"), ({"variants": ["n x 1"]}, "no variant 'n x 1'")])
def test_what_is_not_possible_is_told(run, settings, message):
    with pytest.raises(UserError, match=message):
        run(None, **settings)


def test_it_is_a_command():
    assert FUNCTIONS["certify"] == (command.certify, True)
