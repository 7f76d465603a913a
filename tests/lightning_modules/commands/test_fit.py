"""The command line as a user meets it: what it prints, and what it leaves in the working folder."""

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from length_gen.datamodules.stream import TrajectoryStream
from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules.commands.main import main
from tests.commands import TINY, run, start


def test_fit_leaves_its_results(trained):
    folder, result = trained
    run_folder = folder / "runs/add/version_0"
    records = json.loads((run_folder / "metrics.json").read_text())["records"]
    assert {r["evaluator"] for r in records} == {"rollout", "verify"} and {r["problems"] for r in records} == {2}
    assert (run_folder / "curve.png").stat().st_size > 10_000
    assert (run_folder / "config.yaml").is_file() and (run_folder / "checkpoints/last.ckpt").is_file()
    assert "exact match" in result.stdout


def test_tensorboard_reads_a_run(trained, capsys):
    from tensorboard import main  # noqa: F401  (what the command imports)
    from tensorboard.program import TensorBoard

    board = TensorBoard()
    board.configure(argv=["tensorboard", "--inspect", "--logdir", str(trained[0] / "runs")])
    assert board.main() == 0
    assert "accuracy by length" in capsys.readouterr().out


def test_tensorboard_names_the_command_that_shows_its_trace_step_by_step(trained, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = trained
    events = EventAccumulator(str(folder / "runs/add/version_0"), {"tensors": 0}).Reload()
    text = events.Tensors("sample trace/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert "- **prompt** " in text and "- **≠ reference** " in text
    command = re.search(r"^As a page to step through: `python run.py (.*)`$", text, re.M)[1]
    result = run(*shlex.split(command.replace("trace.html", str(tmp_path / "trace.html"))), cwd=folder)
    assert result.returncode == 0 and "first error: token " in result.stdout, result.stderr[-3000:]
    question = re.search(r"- \*\*prompt\*\* (.*)", text)[1]
    assert f'"question":"{question}"' in (tmp_path / "trace.html").read_text()


def test_test_takes_the_newest_run(trained):
    folder, _ = trained
    result = run("test", cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    first, again = (json.loads((folder / "runs/add/version_0" / name).read_text())
                    for name in ("metrics.json", "test/metrics.json"))
    assert first["records"] == again["records"]
    assert first["train_loss"] > 0 and not first["diverged"]
    assert all(first[name] == pytest.approx(again[name]) for name in ("train_loss", "train_tokens"))
    assert sorted(p.name for p in folder.iterdir()) == ["runs"]


@pytest.mark.parametrize("options", [[], ["--ckpt_path", "last"], ["--ckpt_path=last"]], ids=" ".join)
def test_rollout_of_a_typed_problem(trained, options, monkeypatch, capsys):
    monkeypatch.chdir(trained[0])
    monkeypatch.setattr(sys, "argv", ["run.py"])
    main(["rollout", "--prompt", "12+39", *options])
    assert "expected 51" in capsys.readouterr().out


def test_a_token_that_is_none_is_told_in_one_line(trained, refused):
    line = refused("rollout", "--prompt", "1+2", "--around", "100000", cwd=trained[0])
    assert line.startswith("error: there is no token 100000 to show: the trace has ")


def test_analyze_says_whether_the_horizon_is_bounded(trained):
    folder, _ = trained
    result = run("analyze", "--lengths", "[5,10,20,40]", cwd=folder)
    assert result.returncode == 0 and "verdict: bounded" in result.stdout, result.stderr[-3000:]
    rows = json.loads((folder / "runs/analysis/addition_interactive_local.json").read_text())["records"]
    assert [(row["length"], row["variant"]) for row in rows] == [
        (length, variant) for length in (5, 10, 20, 40) for variant in ("", "n + m")]
    assert (folder / "runs/analysis/addition_interactive_local.png").stat().st_size > 10_000


@pytest.mark.slow
def test_runs_side_by_side_have_folders_of_their_own(tmp_path):
    """Two at once choose a folder for themselves; of two that are given the same one, one is told so."""
    few = ["fit", *TINY, "--trainer.max_steps", "1", "--evaluation.evaluators", "[verify]"]
    commands = [start(*few, cwd=tmp_path) for _ in range(2)]
    commands += [start(*few, "--trainer.logger.version", "mine", cwd=tmp_path) for _ in range(2)]
    codes = [command.wait(200) for command in commands]
    assert codes[:2] == [0, 0] and sorted(codes[2:]) == [0, 2], [c.stderr[-1000:] for c in commands]
    assert "mine holds another run" in commands[2 + codes[2:].index(2)].stderr
    folders = sorted((tmp_path / "runs/add").iterdir())
    assert [f.name for f in folders] == ["mine", "version_0", "version_1"]
    for folder in folders:
        assert len(list(folder.glob("events*"))) == 1 and (folder / "metrics.json").is_file()


def test_a_task_of_ones_own_in_the_working_folder(tmp_path, monkeypatch, capsys):
    code = "from length_gen.datamodules.tasks import Addition\n\n\nclass OwnSums(Addition):\n    name = 'own_sums'\n"
    (tmp_path / "own_sums.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    main(["analyze", "--config", "configs/add.yaml", "--data.task", "own_sums.OwnSums", "--lengths", "[1,2]"])
    assert "horizon of own_sums, interactive" in capsys.readouterr().out
    assert (tmp_path / "runs/analysis/own_sums_interactive_local.json").is_file()


def test_a_run_whose_loss_is_no_number_leaves_its_results(tmp_path, monkeypatch):
    """Its loss is NaN from the second step on; strict JSON, which knows no NaN."""
    def no_number(name):
        raise AssertionError(f"{name} is not JSON")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    main(["fit", *TINY, "--model.learning_rate", "1e30", "--trainer.gradient_clip_val", "null"])
    content = json.loads(Path("runs/add/version_0/metrics.json").read_text(), parse_constant=no_number)
    assert content["diverged"] and content["train_loss"] is None
    stream = TrajectoryStream(Addition(5), 42)
    assert content["train_tokens"] == sum(len(stream[i].ids) for i in range(content["stream"]["trajectories"]))
    assert [(r["length"], r["exact_match"], r["problems"]) for r in content["records"]] == [(2, 0, 2)] * 4
