"""The command line as a user meets it: each test runs it in a process of its own."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import kill
from benchmarks.processes import Command
from length_gen.datamodules.stream import TrajectoryStream
from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.model import TrajectoryModel
from length_gen.lightning_modules.runs.checkpoints import load_checkpoint
from length_gen.lightning_modules.training.callbacks import REQUEUE

ROOT = Path(__file__).parent.parent
TINY = ["--config", str(ROOT / "configs/add.yaml"), "--trainer.max_steps", "6", "--trainer.accelerator", "cpu",
        "--trainer.val_check_interval", "3", "--evaluation.lengths", "[2,4]", "--evaluation.problems", "2",
        "--evaluation.problems_at_longest", "2", "--evaluation.validation_lengths", "[2]",
        "--evaluation.validation_problems", "2", "--data.batch_size", "4", "--data.validation_rows", "4",
        "--model.backbone.n_layer", "1", "--model.backbone.d_model", "16", "--trainer.enable_progress_bar", "false"]


def start(*arguments, cwd, **variables):
    return Command(arguments, cwd, COLUMNS="100", **variables)


def run(*arguments, cwd, **variables):
    command = start(*arguments, cwd=cwd, **variables)
    command.returncode = command.wait(200)
    command.kill()
    assert command.returncode is not None, "it hangs"
    return command


def wait_for(*paths, command=None):
    """Until one of the files is there, which is returned, or the command has ended."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and (command is None or command.wait(0.02) is None):
        for path in paths:
            if path.exists():
                return path
    raise AssertionError(f"none of {paths} came up: {command and command.stderr[-2000:]}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    result = run("fit", *TINY, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result


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
def test_rollout_of_a_typed_problem(trained, options):
    folder, _ = trained
    result = run("rollout", "--prompt", "12+39", *options, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "expected 51" in result.stdout


def test_analyze_says_whether_the_horizon_is_bounded(trained):
    folder, _ = trained
    result = run("analyze", "--lengths", "[5,10,20,40]", cwd=folder)
    assert result.returncode == 0 and "verdict: bounded" in result.stdout, result.stderr[-3000:]
    rows = json.loads((folder / "runs/analysis/addition_interactive_local.json").read_text())["records"]
    assert [(row["length"], row["variant"]) for row in rows] == [
        (length, variant) for length in (5, 10, 20, 40) for variant in ("", "n + m")]
    assert (folder / "runs/analysis/addition_interactive_local.png").stat().st_size > 10_000


@pytest.mark.parametrize("settings", [[], ["--model.state_passing", "0.5", "--model.state_noise", "0.1"]])
def test_resume_goes_on_exactly(settings, tmp_path):
    """6 steps at once equal 3 steps, a checkpoint, and 3 more in the same folder."""
    short, constant = tmp_path, ["--model.schedule", "constant", "--evaluation.evaluators", "[verify]", *settings]
    assert run("fit", *TINY, *constant, cwd=short).returncode == 0
    assert run("fit", *TINY, *constant, "--trainer.max_steps", "3", cwd=short).returncode == 0
    result = run("fit", *TINY, *constant, "--ckpt_path", "last", cwd=short)
    assert result.returncode == 0, result.stderr[-3000:]
    whole, resumed = (short / f"runs/add/version_{v}/checkpoints/last.ckpt" for v in (0, 1))
    assert not (short / "runs/add/version_2").exists()
    assert load_checkpoint(whole)["TrajectoryDataModule"]["trajectories"] > 24
    same_weights(whole, resumed)


ENDLESS = ["--model.schedule", "constant", "--checkpoint.every_n_steps", "1", "--trainer.val_check_interval", "1000",
           "--trainer.max_steps"]


def same_weights(one, other):
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    assert all(kill.equal(a[key], b[key]) for key in ("global_step", "TrajectoryDataModule", "state_dict"))


def test_an_interrupt_leaves_a_checkpoint_that_resumes(tmp_path):
    """Ctrl-C between two steps, then a resume: the weights of the run that was let alone."""
    command = start("fit", *TINY, *ENDLESS, "100000", cwd=tmp_path)
    checkpoint = wait_for(tmp_path / "runs/add/version_0/checkpoints/last.ckpt", command=command)
    command.send(signal.SIGINT)
    assert command.wait(100) == 0
    assert "go on with: python run.py fit --config" in command.stdout + command.stderr
    assert "Traceback" not in command.stderr
    more = str(load_checkpoint(checkpoint)["global_step"] + 3)
    assert run("fit", *TINY, *ENDLESS, more, "--ckpt_path", "last", cwd=tmp_path).returncode == 0
    assert run("fit", *TINY, *ENDLESS, more, cwd=tmp_path).returncode == 0
    same_weights(*(tmp_path / f"runs/add/version_{v}/checkpoints/last.ckpt" for v in (0, 1)))


def test_sigterm_saves_and_asks_to_be_run_again(tmp_path):
    command = start("fit", *TINY, *ENDLESS, "100000", cwd=tmp_path)
    checkpoint = wait_for(tmp_path / "runs/add/version_0/checkpoints/last.ckpt", command=command)
    command.send(signal.SIGTERM)
    assert command.wait(100) == REQUEUE
    assert "go on with" in command.stdout + command.stderr and "Traceback" not in command.stderr
    load_checkpoint(checkpoint)


def test_sigterm_during_a_validation_ends_it_at_once(tmp_path):
    """The validation would take minutes; the training up to it is saved."""
    command = start("fit", *TINY, "--trainer.val_check_interval", "4", "--evaluation.validation_problems", "2000",
                    "--evaluation.validation_lengths", "[30]", cwd=tmp_path)
    checkpoint = wait_for(tmp_path / "runs/add/version_0/checkpoints/last.ckpt", command=command)
    time.sleep(1)
    command.send(signal.SIGTERM)
    assert command.wait(20) == REQUEUE, command.stderr[-3000:]
    assert "the training is saved" in command.stdout + command.stderr and "Traceback" not in command.stderr
    assert load_checkpoint(checkpoint)["global_step"] == 4


@pytest.mark.parametrize(("way", "moments"), [(("packed", "0"), ("save", "evaluation")),
                                               (("padded", "2"), ("validation",))])
def test_kills_at_three_moments_change_nothing(tmp_path, way, moments):
    """SIGKILL while a checkpoint is written, in a validation, and in the evaluation at the end."""
    whole = kill.start(tmp_path / "whole", way, 12)
    assert whole.wait(200) == 0, whole.stderr[-3000:]
    at = kill.trial(tmp_path / "killed", way, 12, 1.0, random.Random(0), moments)
    assert [moment for moment, _ in at] == list(moments) and kill.same(tmp_path / "whole", tmp_path / "killed")


def test_the_checkpoint_before_is_taken_where_the_last_is_torn(trained, tmp_path):
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    folder = tmp_path / "runs/add/version_0/checkpoints"
    torn = (folder / "last.ckpt").read_bytes()[:-1000]
    (folder / "last.ckpt").write_bytes(torn)
    result = run("fit", *TINY, "--ckpt_path", "last", cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "last.ckpt is not a whole checkpoint" in result.stderr
    assert f"taking the one before it: {Path('runs/add/version_0/checkpoints/previous.ckpt')}, of step 3" \
        in result.stderr
    same_weights(trained[0] / "runs/add/version_0/checkpoints/last.ckpt", folder / "last.ckpt")
    for name in ("last.ckpt", "previous.ckpt"):
        (folder / name).write_bytes(torn)
    result = run("fit", *TINY, "--ckpt_path", "last", cwd=tmp_path)
    assert result.returncode == 2 and "is not a whole checkpoint" in result.stderr


def test_runs_side_by_side_have_folders_of_their_own(tmp_path):
    """Four at once choose a folder for themselves; of two that are given the same one, one is told so."""
    few = ["fit", *TINY, "--trainer.max_steps", "1", "--evaluation.evaluators", "[verify]"]
    commands = [start(*few, cwd=tmp_path) for _ in range(4)]
    commands += [start(*few, "--trainer.logger.version", "mine", cwd=tmp_path) for _ in range(2)]
    codes = [command.wait(200) for command in commands]
    assert codes[:4] == [0] * 4 and sorted(codes[4:]) == [0, 2], [c.stderr[-1000:] for c in commands]
    assert "mine holds another run" in commands[4 + codes[4:].index(2)].stderr
    folders = sorted((tmp_path / "runs/add").iterdir())
    assert [f.name for f in folders] == ["mine", *(f"version_{i}" for i in range(4))]
    for folder in folders:
        assert len(list(folder.glob("events*"))) == 1 and (folder / "metrics.json").is_file()


def test_a_full_disk_keeps_the_checkpoint_before(trained, tmp_path):
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    checkpoint = tmp_path / "runs/add/version_0/checkpoints/last.ckpt"
    before, earlier = checkpoint.read_bytes(), checkpoint.with_name("previous.ckpt")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    small = ["bash", "-c", 'ulimit -f 40; exec "$@"', "bash", sys.executable, str(ROOT / "run.py")]
    result = subprocess.run([*small, "fit", *TINY, "--trainer.logger.version", "version_0", "--ckpt_path",
                             str(earlier)], cwd=tmp_path, env=environment, text=True,
                            capture_output=True, timeout=300)
    assert result.returncode == 2 and "is still the one before: make room" in result.stderr, result.stderr[-3000:]
    assert "Traceback" not in result.stderr and checkpoint.read_bytes() == before
    assert {path.name for path in checkpoint.parent.iterdir()} == {"last.ckpt", "previous.ckpt", "validated"}


BAD = {
    "no run": (["test"], "there is no run with a checkpoint"),
    "no checkpoint": (["test", "--config", str(ROOT / "configs/add.yaml"), "--ckpt_path", "none.ckpt"],
                      "there is no checkpoint none.ckpt"),
    "wrong key": (["fit", *TINY, "--model.learning_speed", "1"], "learning_speed"),
    "length 0": (["fit", *TINY, "--data.task.max_length", "0"], "length 0 is not allowed"),
    "lengths do not grow": (["fit", *TINY, "--evaluation.lengths", "[5,3]"], "do not increase"),
    "length beyond the task's": (["fit", *TINY, "--data.task", "HanoiRecursive", "--data.task.max_length", "2",
                                  "--evaluation.lengths", "[2,30]"], "length 30 is not allowed: hanoi_recursive goes"),
    "row too short": (["fit", *TINY, "--data.row_length", "64"], "cannot hold one trajectory"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_gets_one_line(case, tmp_path):
    arguments, message = BAD[case]
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_task_of_ones_own_in_the_working_folder(tmp_path, monkeypatch, capsys):
    code = "from length_gen.datamodules.tasks import Addition\n\n\nclass OwnSums(Addition):\n    name = 'own_sums'\n"
    (tmp_path / "own_sums.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    main(["analyze", "--config", "configs/add.yaml", "--data.task", "own_sums.OwnSums", "--lengths", "[1,2]"])
    assert "horizon of own_sums, interactive" in capsys.readouterr().out
    assert (tmp_path / "runs/analysis/own_sums_interactive_local.json").is_file()


MIXTURE = ["fit", "--config", str(ROOT / "configs/mixture.yaml")]
PICTURE = next((ROOT / "docs").rglob("*.png"))


@pytest.mark.parametrize(("arguments", "message"), [
    (["test", "--ckpt_path", "none.ckpt"], "there is no checkpoint none.ckpt"),
    (["test", "--config", str(ROOT / "configs/add.yaml")], "test needs a trained model: give --ckpt_path"),
    (["fit", "--config", "none.yaml"], "there is no configuration file none.yaml"),
    (["train"], "there is no command train: expected fit, validate, test, rollout, export, analyze, report, sweep, co"),
    (["fit", *TINY, "--config", str(ROOT / "README.md")], "README.md is not YAML"),
    (["fit", *TINY, "--checkpoint", str(PICTURE)], "is no text, and a YAML file is expected there"),
    (["fit", *TINY, "--data.task", "Sums"], "data.task: there is no class Sums; expected"),
    (["fit", *TINY, "--model.backbone", "Mambo"], "model.backbone: there is no class Mambo; expected"),
    (["fit", *TINY, "--data.task", "sums.Sums"], "sums.Sums cannot be imported: No module named 'sums'; searched: /"),
    (["fit", *TINY, "--model.backbone", "mambo.Mambo"], "No module named 'mambo'; searched: /"),
    ([*MIXTURE, "--data.task.tasks", "[{class_path: Sums}]"], "there is no class Sums; expected"),
    ([*MIXTURE, "--data.task.weights", "[0,0]"], "give numbers from 0 on, not all 0"),
    (["fit", *TINY, "--evaluation.lengths", "[]"], "evaluation lengths [] are not allowed: give at least one"),
    (["fit", *TINY, "--evaluation.evaluators", "[]"], "evaluation evaluators [] are not allowed: give at least one"),
    (["fit", *TINY, "--model.learning_rate", "0"], "learning_rate 0 has no cosine down from it: give a number above 0"),
    (["analyze", *TINY[:2], "--lengths", "[]"], "lengths [] with 50 problems leave nothing to analyze: expected at"),
    (["analyze", *TINY[:2], "--problems", "0"], "with 0 problems leave nothing to analyze: expected at least one"),
    ([*MIXTURE, "--data.task.weights", "[-1,2]"], "give numbers from 0 on, not all 0"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_more_mistakes_get_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and error.startswith("error: ") and message in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("method", "at", "message"), [
    ("training_step", 0, "a training step of 4 rows x 512 tokens a device does not fit in its memory: give a"),
    ("backward", 1, "--data.batch_size or --data.row_length, with --trainer.accumulate_grad_batches for as many"),
    ("on_validation_epoch_end", 0, "an evaluation of 64 rows side by side does not fit in the device's memory: give")],
    ids=["forward", "backward", "evaluation"])
def test_a_memory_that_is_full_gets_one_line(method, at, message, tmp_path, monkeypatch, capsys):
    """The memory of a GPU, which PyTorch's own exception tells."""
    calls, plain = [], getattr(TrajectoryModel, method)

    def fills_the_memory(self, *arguments, **options):
        calls.append(method)
        if len(calls) > at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return plain(self, *arguments, **options)

    monkeypatch.setattr(TrajectoryModel, method, fills_the_memory)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with pytest.raises(SystemExit) as ended:
        main(["fit", *TINY])
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert ended.value.code == 2 and error.startswith("error: ") and message in error


@pytest.mark.parametrize(("command", "message"), [
    (["rollout", "--prompt", "1+2"], "the rollout does not fit in the device's memory: give --evaluation.decoding"),
    (["test", "--evaluation.verify_lengths", "[6]"], "a smaller --evaluation.batch_size (or --evaluation.verify_probl"),
], ids=lambda value: value[0])
def test_a_memory_that_is_full_without_training(trained, command, message, monkeypatch, capsys):
    def fills_the_memory(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(TrajectoryModel, "on_load_checkpoint", fills_the_memory)
    monkeypatch.chdir(trained[0])
    monkeypatch.setattr(sys, "argv", ["run.py"])
    with pytest.raises(SystemExit):
        main(command)
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_finished_run_that_goes_on_keeps_its_validation_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    losses = []
    for options in ([], ["--ckpt_path", "last"]):
        main(["fit", *TINY, "--evaluation.evaluators", "[verify]", *options])
        losses.append(json.loads(Path("runs/add/version_0/metrics.json").read_text())["validation_loss"])
    assert losses[0] == losses[1] > 0


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


def test_checkpoints_that_do_not_fit(trained, tmp_path):
    folder, _ = trained
    checkpoint = folder / "runs/add/version_0/checkpoints/last.ckpt"
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(checkpoint.read_bytes()[:2000])
    cases = [(["--config", str(ROOT / "configs/add.yaml"), "--ckpt_path", str(torn)], "not a whole checkpoint"),
             (["--config", str(ROOT / "configs/mult.yaml"), "--ckpt_path", str(checkpoint)], "task 'addition'"),
             (["--config", str(ROOT / "configs/add.yaml"), "--data.task.style", "paper", "--ckpt_path",
               str(checkpoint)], "vocabulary")]
    for arguments, message in cases:
        result = run("test", *arguments, cwd=tmp_path)
        assert result.returncode != 0 and message in result.stderr, result.stderr[-2000:]
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("config", "options", "message"), [
    ("mult.yaml", [], "the checkpoint is of task 'addition', the configuration of task 'multiplication': give the"),
    ("add.yaml", ["--model.backbone.d_model", "32"], "the checkpoint's backbone is not the configuration's: ")])
def test_checkpoints_that_do_not_fit_a_sharded_model(trained, tmp_path, config, options, message):
    checkpoint = trained[0] / "runs/add/version_0/checkpoints/last.ckpt"
    result = run("fit", "--config", str(ROOT / "configs" / config), "--config", str(ROOT / "configs/trainer/fsdp.yaml"),
                 *TINY[2:], *options, "--trainer.devices", "1", "--ckpt_path", str(checkpoint), cwd=tmp_path)
    assert result.returncode == 2 and f"error: {message}" in result.stderr, result.stderr[-2000:]
    assert "Traceback" not in result.stderr


def test_a_prompt_that_is_no_problem(trained):
    result = run("rollout", "--prompt", "12-3", cwd=trained[0])
    assert result.returncode == 2 and "not a problem of addition" in result.stderr
    assert "Traceback" not in result.stderr
