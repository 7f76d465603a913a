"""Options and files of benchmarks."""

import json

import pytest
import torch

from length_gen.lightning_modules.provenance import origin
from length_gen.lightning_modules.reporting.measurements import Records, arguments


def given(monkeypatch, words=""):
    monkeypatch.setattr("sys.argv", ["some.py", *words.split()])
    return arguments("What it does.", lambda options: "some" + "_cpu" * options.small, rounds=(3, "of what"),
                     small=False, batches=[1, 8], digits=[int], seed=int, models=({"lstm": 1, "gru": 2}, "which"),
                     worker=(str, None))


def test_options_are_of_the_types_of_their_defaults(monkeypatch, capsys):
    assert vars(given(monkeypatch)) == {
        "rounds": 3, "small": False, "batches": [1, 8], "digits": None, "seed": None, "models": ["lstm", "gru"],
        "worker": None, "out": "results/benchmarks/some.json"}
    words = "--rounds 4 --small --batches 2 --digits 3 4 --seed 5 --models gru --worker x"
    assert vars(given(monkeypatch, words)) == {
        "rounds": 4, "small": True, "batches": [2], "digits": [3, 4], "seed": 5, "models": ["gru"], "worker": "x",
        "out": "results/benchmarks/some_cpu.json"}
    assert given(monkeypatch, "--out a.json").out == "a.json"
    for words in ("--rounds x", "--models mamba", "--help"):
        with pytest.raises(SystemExit):
            given(monkeypatch, words)
    said = capsys.readouterr()
    assert "invalid int value: 'x'" in said.err and "invalid choice: 'mamba'" in said.err
    assert "What it does." in said.out and "of what" in said.out and "--worker" not in said.out


def test_a_file_is_begun_anew_or_keeps_what_others_have_measured(tmp_path, capsys):
    path, own = tmp_path / "some.json", origin(torch.device("cpu"))
    theirs = {"command": "a", "commit": "1", "device": "d", "versions": {}}
    path.write_text(json.dumps({**theirs, "seed": 3, "targets": {}, "records": [{"what": "x"}, {"what": "y"}]}))
    Records(path, key=["what"], targets={"t": 1}).add({"what": "z"})
    Records(path, key=["what", "n"], targets={"t": 2}).add({"what": "x", "n": 2})
    kept = Records(path, key=["what"], targets={"t": 2})
    kept.add({"what": "y", "n": 3000.0})
    assert json.loads(path.read_text()) == {**own, "targets": {"t": 2}, "records": [
        {**theirs, "seed": 3, "what": "x"}, {"what": "y", "n": 3000.0, **own}, {"what": "z", **own},
        {"what": "x", "n": 2, **own}]}
    kept.show()
    assert "3,000" in capsys.readouterr().out
    anew = Records(path, seed=1)
    anew.add({"what": "w"}, seconds=2)
    assert json.loads(path.read_text()) == {**own, "seed": 1, "seconds": 2, "records": [{"what": "w"}]}
    Records(None).add({"what": "w"})
