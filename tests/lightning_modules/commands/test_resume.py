"""Runs that end before their time, by an interrupt, a signal, a kill or a full disk, and what goes on from them."""

import json
import os
import resource
import shutil
import signal
import sys
from pathlib import Path

import pytest
from lightning import Callback

from benchmarks import kill
from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.runs.checkpoints import load_checkpoint
from length_gen.lightning_modules.training.callbacks import REQUEUE, last_checkpoint
from tests.commands import TINY, run, same_weights, start, wait_for


def test_resume_goes_on_exactly(tmp_path, monkeypatch):
    """6 steps at once equal 3 steps, a checkpoint, and 3 more in the same folder, also where states are passed on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    fit = ["fit", *TINY, "--model.schedule", "constant", "--evaluation.evaluators", "[verify]",
           "--model.state_passing", "0.5", "--model.state_noise", "0.1"]
    for options in ([], ["--trainer.max_steps", "3"], ["--ckpt_path", "last"]):
        main([*fit, *options])
    whole, resumed = (tmp_path / f"runs/add/version_{v}/checkpoints/last.ckpt" for v in (0, 1))
    assert not (tmp_path / "runs/add/version_2").exists()
    assert load_checkpoint(whole)["TrajectoryDataModule"]["trajectories"] > 24
    same_weights(whole, resumed)


ENDLESS = ["--model.schedule", "constant", "--checkpoint.every_n_steps", "1", "--trainer.val_check_interval", "1000",
           "--trainer.max_steps"]


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
    for _ in range(3):  # as of a scheduler that sends it to all processes of a job, and of those that pass it on
        command.send(signal.SIGTERM)
    assert command.wait(100) == REQUEUE
    assert "go on with" in command.stdout + command.stderr and "Traceback" not in command.stderr
    load_checkpoint(checkpoint)


def test_sigterm_during_a_validation_ends_it_at_once(tmp_path):
    """The training up to it is saved."""
    command = start("fit", *TINY, "--trainer.val_check_interval", "4", "--evaluation.validation_problems", "2000",
                    "--evaluation.validation_lengths", "[30]", "--trainer.callbacks+=benchmarks.kill.Mark",
                    cwd=tmp_path)
    validation = wait_for(tmp_path / "validation", command=command)
    command.send(signal.SIGTERM)
    assert command.wait(200) == REQUEUE, command.stderr[-3000:]
    assert validation.exists()  # its end would have removed the mark
    assert "the training is saved" in command.stdout + command.stderr and "Traceback" not in command.stderr
    assert load_checkpoint(tmp_path / "runs/add/version_0/checkpoints/last.ckpt")["global_step"] == 4


class Killed(Callback):
    """SIGKILL once the second checkpoint is written but not in its place, in a validation, or after the training."""

    def __init__(self, moment: str):
        self.moment, self.saved = moment, 0

    def setup(self, trainer, pl_module, stage):
        plain = last_checkpoint.replace

        def replace(*arguments, **options):
            self.saved += 1
            self.die("save" if self.saved == 2 else "")
            plain(*arguments, **options)

        last_checkpoint.replace = replace

    def on_validation_epoch_end(self, trainer, pl_module):
        self.die("validation")

    def on_train_end(self, trainer, pl_module):
        self.die("evaluation")

    def die(self, moment):
        if self.moment == moment:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("way", "moments"), [(("packed", "0"), ("save", "evaluation")),
                                               pytest.param(("padded", "2"), ("validation",),
                                                            marks=pytest.mark.slow)])
def test_kills_at_three_moments_change_nothing(tmp_path, way, moments):
    whole = kill.start(tmp_path / "whole", way, 12)
    assert whole.wait(200) == 0, whole.stderr[-3000:]
    for moment in moments:
        callback = f"{{class_path: {__name__}.Killed, init_args: {{moment: {moment}}}}}"
        killed = kill.start(tmp_path / "killed", way, 12, f"--trainer.callbacks+={callback}")
        assert killed.wait(200) == -signal.SIGKILL, killed.stderr[-3000:]
    resumed = kill.start(tmp_path / "killed", way, 12)
    assert resumed.wait(200) == 0 and kill.same(tmp_path / "whole", tmp_path / "killed"), resumed.stderr[-3000:]


def test_the_checkpoint_before_is_taken_where_the_last_is_torn(trained, tmp_path, refused):
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
    assert "is not a whole checkpoint" in refused("fit", *TINY, "--ckpt_path", "last")


class Full(Callback):
    """A disk that takes no file of more than 40 KiB, for this process."""

    def setup(self, trainer, pl_module, stage):
        resource.setrlimit(resource.RLIMIT_FSIZE, (40 << 10, 40 << 10))


def test_a_full_disk_keeps_the_checkpoint_before(trained, tmp_path):
    shutil.copytree(trained[0] / "runs", tmp_path / "runs")
    checkpoint = tmp_path / "runs/add/version_0/checkpoints/last.ckpt"
    before, earlier = checkpoint.read_bytes(), checkpoint.with_name("previous.ckpt")
    result = run("fit", *TINY, "--trainer.logger.version", "version_0", "--ckpt_path", str(earlier),
                 f"--trainer.callbacks+={__name__}.Full", cwd=tmp_path)
    assert result.returncode == 2 and "is still the one before: make room" in result.stderr, result.stderr[-3000:]
    assert "Traceback" not in result.stderr and checkpoint.read_bytes() == before
    assert {path.name for path in checkpoint.parent.iterdir()} == {"last.ckpt", "previous.ckpt", "validated"}


def test_a_finished_run_that_goes_on_keeps_its_validation_loss(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    losses = []
    for options in ([], ["--ckpt_path", "last"]):
        main(["fit", *TINY, "--evaluation.evaluators", "[verify]", *options])
        losses.append(json.loads(Path("runs/add/version_0/metrics.json").read_text())["validation_loss"])
    assert losses[0] == losses[1] > 0
