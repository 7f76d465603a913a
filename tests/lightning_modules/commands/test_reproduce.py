"""`reproduce`: from a cell of the paper's tables to a trained model beside the paper's number."""

import json
import shutil
from pathlib import Path

import pytest

from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.commands.reproduce import reproduce
from length_gen.tools import UserError

PAPER = Path(__file__).parents[3] / "results" / "paper.yaml"


def queue(folder):
    """A sweep like the paper's, of a model that trains in seconds."""
    file = folder / "small.yaml"
    file.write_text("""
results: results/addition_2
options: >-
  --config configs/add.yaml --data.task.max_length 2 --data.row_length 128 --data.batch_size 2 --trainer.max_steps 2
  --model.backbone.n_layer 1 --model.backbone.d_model 16 --evaluation.lengths [2,3] --evaluation.problems 3
  --evaluation.problems_at_longest 2 --evaluation.evaluators [verify] --evaluation.validation_lengths []
grid: {model: {paper_mamba: --trainer.accelerator cpu}}
seeds: [1]
""")
    return str(file)


@pytest.mark.slow
def test_a_cell_is_trained_once_and_shown_beside_the_paper(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reproduce("figure2", "mamba/addition", queue=queue(tmp_path), paper=str(PAPER))
    result = tmp_path / "results/addition_2/paper_mamba_seed1.json"
    record = next(r for r in json.loads(result.read_text())["records"] if r["length"] == 2 and not r["variant"])
    before, shown = result.stat().st_mtime_ns, capsys.readouterr().out
    assert record["problems"] == 3 and record["exact_match"] == 0  # of a model that has seen 4 rows
    assert "mamba/addition, seed 1, is not there: it is trained, which takes about 0 minutes" in shown
    assert f"departs from the paper: the head of {tmp_path}/small.yaml" in shown
    assert "1,000 (100%)" in shown and "0% (0\N{EN DASH}56) 3" in shown  # Wilson: z^2 / (n + z^2) = 3.84 / 6.84
    reproduce("figure2", "mamba/addition", queue=queue(tmp_path), paper=str(PAPER))
    assert result.stat().st_mtime_ns == before
    assert "is done and not trained again: move" in capsys.readouterr().out


def test_a_dry_run_tells_what_a_cell_takes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reproduce("figure2", "mamba/addition", queue=queue(tmp_path), paper=str(PAPER), dry_run=True)
    shown = capsys.readouterr().out
    assert "is not there: training it takes about 0 minutes" in shown
    assert "python run.py fit" in shown and "--data.task.max_length 2" in shown
    assert not (tmp_path / "results").exists() and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("table, cell, seed, said", [
    ("table9", "mamba/addition", 1, "there is no table9: expected table1, table2, figure2"),
    ("table2", "mamba/addition", 1, "table2 has no cell mamba/addition: expected one of mamba/hanoi_recursive"),
    ("figure2", "lstm/addition", 1, "no recipe for lstm/addition with seed 1: expected mamba/addition with seed 1; or"),
    ("figure2", "mamba/addition", 7, "no recipe for mamba/addition with seed 7")])
def test_a_cell_that_is_not_there_is_one_line(tmp_path, table, cell, seed, said):
    with pytest.raises(UserError, match=said.replace("(", r"\(").replace(")", r"\)")):
        reproduce(table, cell, seed, queue=queue(tmp_path), paper=str(PAPER))


def test_the_paper_s_numbers_are_looked_for_where_one_stands(tmp_path, monkeypatch, capsys):
    shutil.copy(PAPER, tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["reproduce", "table1", "mamba/addition"])
    assert "there is no file results/paper.yaml with the paper's numbers" in capsys.readouterr().err
