"""A mistake of the user, or a memory that is full, gets one line."""

import pytest
import torch

from length_gen.lightning_modules.model import TrajectoryModel
from tests.commands import ROOT, TINY, run


def test_the_line_is_all_that_a_process_says(tmp_path):
    result = run("fit", *TINY, "--model.learning_speed", "1", cwd=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "learning_speed" in result.stderr.strip().splitlines()[-1] and not list(tmp_path.iterdir())


MIXTURE = ["fit", "--config", str(ROOT / "configs/mixture.yaml")]
WEIGHTS = next((ROOT / "results/models").rglob("*.ckpt"))


@pytest.mark.parametrize(("arguments", "message"), [
    (["test"], "there is no run with a checkpoint"),
    (["test", "--ckpt_path", "none.ckpt"], "there is no checkpoint none.ckpt"),
    (["test", "--config", str(ROOT / "configs/add.yaml"), "--ckpt_path", "none.ckpt"], "is no checkpoint none.ckpt"),
    (["fit", *TINY, "--data.task.max_length", "0"], "length 0 is not allowed"),
    (["fit", *TINY, "--evaluation.lengths", "[5,3]"], "do not increase"),
    (["fit", *TINY, "--data.task", "HanoiRecursive", "--data.task.max_length", "2", "--evaluation.lengths", "[2,30]"],
     "length 30 is not allowed: hanoi_recursive goes"),
    (["fit", *TINY, "--data.row_length", "64"], "cannot hold one trajectory"),
    (["test", "--config", str(ROOT / "configs/add.yaml")], "test needs a trained model: give --ckpt_path"),
    (["fit", "--config", "none.yaml"], "there is no configuration file none.yaml"),
    (["reproduce", "figure2"], "reproduce needs cell, as in `python run.py reproduce table1 mamba/multiplication`; "),
    (["sweep"], "sweep needs file, as in `python run.py sweep configs/sweeps/addition.yaml --parallel 2`; sweep --he"),
    (["train"], "there is no command train: expected fit, validate, test, rollout, "),
    (["fit", *TINY, "--config", str(ROOT / "README.md")], "README.md is not YAML"),
    (["fit", *TINY, "--checkpoint", str(WEIGHTS)], "is no text, and a YAML file is expected there"),
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
def test_a_mistake_gets_one_line(arguments, message, tmp_path, refused):
    assert message in refused(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("method", "at", "message"), [
    ("training_step", 0, "a training step of 4 rows x 512 tokens a device does not fit in its memory: give a"),
    ("backward", 1, "--data.batch_size or --data.row_length, with --trainer.accumulate_grad_batches for as many"),
    ("on_validation_epoch_end", 0, "an evaluation of 64 rows side by side does not fit in the device's memory: give")],
    ids=["forward", "backward", "evaluation"])
def test_a_memory_that_is_full_gets_one_line(method, at, message, monkeypatch, refused):
    """The memory of a GPU, which PyTorch's own exception tells."""
    calls, plain = [], getattr(TrajectoryModel, method)

    def fills_the_memory(self, *arguments, **options):
        calls.append(method)
        if len(calls) > at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return plain(self, *arguments, **options)

    monkeypatch.setattr(TrajectoryModel, method, fills_the_memory)
    assert message in refused("fit", *TINY)


@pytest.mark.parametrize(("command", "message"), [
    (["rollout", "--prompt", "1+2"], "the rollout does not fit in the device's memory: give --evaluation.decoding"),
    (["test", "--evaluation.verify_lengths", "[6]"], "a smaller --evaluation.batch_size (or --evaluation.verify_probl"),
], ids=lambda value: value[0])
def test_a_memory_that_is_full_without_training(trained, command, message, monkeypatch, refused):
    def fills_the_memory(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(TrajectoryModel, "on_load_checkpoint", fills_the_memory)
    assert message in refused(*command, cwd=trained[0])


def test_checkpoints_that_do_not_fit(trained, tmp_path, refused):
    folder, _ = trained
    checkpoint = folder / "runs/add/version_0/checkpoints/last.ckpt"
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(checkpoint.read_bytes()[:2000])
    cases = [(["--config", str(ROOT / "configs/add.yaml"), "--ckpt_path", str(torn)], "not a whole checkpoint"),
             (["--config", str(ROOT / "configs/mult.yaml"), "--ckpt_path", str(checkpoint)], "task 'addition'"),
             (["--config", str(ROOT / "configs/add.yaml"), "--data.task.style", "paper", "--ckpt_path",
               str(checkpoint)], "vocabulary")]
    for arguments, message in cases:
        assert message in refused("test", *arguments)


@pytest.mark.parametrize(("config", "options", "message"), [
    ("mult.yaml", [], "the checkpoint is of task 'addition', the configuration of task 'multiplication': give the"),
    ("add.yaml", ["--model.backbone.d_model", "32"], "the checkpoint's backbone is not the configuration's: ")])
def test_checkpoints_that_do_not_fit_a_sharded_model(trained, tmp_path, config, options, message):
    checkpoint = trained[0] / "runs/add/version_0/checkpoints/last.ckpt"
    result = run("fit", "--config", str(ROOT / "configs" / config), "--config", str(ROOT / "configs/trainer/fsdp.yaml"),
                 *TINY[2:], *options, "--trainer.devices", "1", "--ckpt_path", str(checkpoint), cwd=tmp_path)
    assert result.returncode == 2 and f"error: {message}" in result.stderr, result.stderr[-2000:]
    assert "Traceback" not in result.stderr


def test_a_prompt_that_is_no_problem(trained, refused):
    assert "not a problem of addition" in refused("rollout", "--prompt", "12-3", cwd=trained[0])
