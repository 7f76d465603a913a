import json
from pathlib import Path

import pytest

from lightning_modules import sweep as module
from lightning_modules.sweep import read_sweep, sweep
from tools import UserError

SWEEPS = sorted((Path(__file__).parents[2] / "configs/sweeps").glob("*.yaml"))
TWO = """
results: results/tiny
options: --config {config} --trainer.accelerator cpu
grid:
  size: {{good: --trainer.max_steps 1, bad: --trainer.max_steps one}}
seeds: [1]
"""


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_the_sweeps_that_come_along(path):
    cells = read_sweep(path)
    assert len(cells) >= 10 and all("--seed_everything" in cell.options for cell in cells)
    assert len({cell.result for cell in cells}) == len(cells)


def test_all_combinations_in_order(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("results: out\noptions: --a 1\ngrid:\n  x: {p: --x 1, q: ''}\n  y: {r: --y '2 3'}\nseeds: [4, 5]\n")
    cells = read_sweep(path)
    assert [cell.name for cell in cells] == ["p_r_seed4", "p_r_seed5", "q_r_seed4", "q_r_seed5"]
    assert cells[0].options == ("--a", "1", "--x", "1", "--y", "2 3", "--seed_everything", "4")


def test_one_failing_cell_does_not_stop_the_others_and_finished_ones_are_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("tiny.yaml").write_text(TWO.format(config="x.yaml"))
    ran = []

    def run_cell(cell, folder, device):
        ran.append(cell.name)
        if cell.name.startswith("bad"):
            return False
        cell.result.parent.mkdir(parents=True, exist_ok=True)
        cell.result.write_text(json.dumps({"records": []}))
        return True

    monkeypatch.setattr(module, "run_cell", run_cell)
    for _ in range(2):
        with pytest.raises(UserError, match=r"1 of . cells failed: bad_seed1"):
            sweep("tiny.yaml")
    assert ran == ["good_seed1", "bad_seed1", "bad_seed1"]
    assert "runs/sweeps/tiny/bad_seed1.log" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "message"), [
    ("a: 1", "is not a sweep"), ("results: [", "is not YAML"),
    ("results: x\ngrid: {a: 1}", "labels with their options"),
    ("results: x\nseeds: [a]", "whole numbers"), ("results: x\nseeds: [1, 1]", "the same name")])
def test_files_that_are_no_sweeps(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_sweep(tmp_path / "s.yaml")
