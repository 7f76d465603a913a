"""Several processes on the CPU (gloo) mean the same as one, however they are started."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning import Callback

from length_gen.lightning_modules.provenance import CHECKPOINT
from length_gen.lightning_modules.runs.checkpoints import load_checkpoint
from length_gen.lightning_modules.training.callbacks.last_checkpoint import AGREEMENT, REQUEUE
from length_gen.lightning_modules.training.callbacks.peers import LINE
from length_gen.tools import UserError
from tests.commands import ROOT, TINY, run, start, wait_for

UNEVEN = ["--model.schedule", "constant", "--evaluation.problems", "5", "--evaluation.problems_at_longest", "3",
          "--evaluation.validation_problems", "3", "--data.validation_rows", "5", "--trainer.logger.version"]
FSDP = ["--config", str(ROOT / "configs/trainer/fsdp.yaml")]


class Fails(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 2:
            raise UserError("this rank has failed")


def free_port():
    """Of those that the system gives to nobody on its own, so that it is likely to be free still when it is used."""
    while True:
        port = random.SystemRandom().randrange(10_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            return str(port)


def torchrun(rank, world, port):
    """Variables that torchrun gives each process."""
    return {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "GROUP_RANK": "0",
            "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def slurm(rank, world, port):
    """Variables that srun gives each process."""
    return {"SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NTASKS": world, "SLURM_NTASKS_PER_NODE": world,
            "SLURM_NODEID": "0", "SLURM_NODELIST": "localhost", "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_ID": "4242",
            "SLURM_JOB_NAME": "train", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def start_ranks(world, *options, cwd, by=torchrun, errors=()):
    """`fit` in `world` processes; rank r also gets the options in errors[r]."""
    port = free_port()
    return [start("fit", *TINY, "--trainer.devices", str(world), *options, *dict(errors).get(rank, ()), cwd=cwd,
                  **by(str(rank), str(world), port)) for rank in range(world)]


def run_ranks(*arguments, **keywords):
    commands = start_ranks(*arguments, **keywords)
    codes = [command.wait(200) for command in commands]
    for command in commands:
        command.kill()
    assert codes == [0] * len(codes), [command.stderr[-2000:] for command in commands]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One run of 6 steps by one process, and others that must be the same."""
    folder, last = tmp_path_factory.mktemp("distributed"), ["--ckpt_path", "runs/add/half/checkpoints/last.ckpt"]
    for options in (["one"], ["half", "--trainer.max_steps", "3"]):
        result = run("fit", *TINY, *UNEVEN, *options, cwd=folder)
        assert result.returncode == 0, result.stderr[-3000:]
    run_ranks(2, "--trainer.strategy", "ddp", *UNEVEN, "two", cwd=folder, by=slurm)
    run_ranks(2, *FSDP, *UNEVEN, "sharded", "--trainer.max_steps", "3", cwd=folder)
    run_ranks(4, "--trainer.strategy", "ddp", *UNEVEN, "four", "--ckpt_path",
              "runs/add/sharded/checkpoints/last.ckpt", cwd=folder)
    run_ranks(2, *FSDP, *UNEVEN, "sharded_rest", *last, cwd=folder)
    return folder


def state(folder, name):
    return torch.load(folder / f"runs/add/{name}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "four", "sharded_rest"])
def test_weights_and_stream_are_those_of_one_process(folder, name):
    """`four` began with two processes that shared the parameters out, `sharded_rest` with one process."""
    one, other = state(folder, "one"), state(folder, name)
    assert one["TrajectoryDataModule"]["trajectories"] == other["TrajectoryDataModule"]["trajectories"] > 24
    assert torch.equal(one["TrajectoryDataModule"]["learnt"], other["TrajectoryDataModule"]["learnt"])
    assert one["state_dict"].keys() == other["state_dict"].keys()
    for key, tensor in one["state_dict"].items():
        assert (tensor - other["state_dict"][key]).abs().max() < 1e-5, key


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two", "four", "sharded_rest"])
def test_uneven_shares_of_problems_add_up(folder, name):
    one, other = (json.loads((folder / f"runs/add/{name}/metrics.json").read_text()) for name in ("one", name))
    assert name != "two" or one["train_tokens"] == other["train_tokens"]
    assert one["validation_loss"] == pytest.approx(other["validation_loss"], rel=1e-5)
    for a, b in zip(one["records"], other["records"], strict=True):
        assert a == {**b, "token_accuracy": pytest.approx(b["token_accuracy"], abs=0.02)}
    assert {r["problems"] for r in other["records"]} <= {5, 3}


@pytest.mark.slow
def test_only_one_rank_writes(folder):
    for name in ("two", "four", "sharded_rest"):
        names = sorted(path.name.partition(".")[0] for path in (folder / f"runs/add/{name}").iterdir())
        assert names.count("events") == 1 and names.count("metrics") == 1
    assert len(list((folder / "runs/add").iterdir())) == 6


def shell(*options, cwd, **variables) -> subprocess.CompletedProcess:
    """As a user calls it, without torchrun: the first process starts the others."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), **variables}
    return subprocess.run([sys.executable, str(ROOT / "run.py"), "fit", *TINY, "--trainer.devices", "2",
                           "--trainer.strategy", "ddp", *options], cwd=cwd, env=environment, text=True,
                          capture_output=True, timeout=600)


@pytest.mark.slow
def test_the_error_of_all_ranks_is_one_line(tmp_path):
    result = shell("--data.batch_size", "1", cwd=tmp_path)
    assert result.returncode != 0 and "batch_size 1 cannot be shared by 2 devices" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_a_port_in_use_is_one_line(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = shell(cwd=tmp_path, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(taken.getsockname()[1]))
    assert result.returncode == 2 and "give another port" in result.stderr, result.stderr[-2000:]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("failing", [0, 1])
def test_the_error_of_one_rank_ends_all(tmp_path, failing):
    """In the third step, while the other waits for its gradients."""
    commands = start_ranks(2, "--trainer.strategy", "ddp", "--trainer.max_steps", "100000", cwd=tmp_path,
                           errors={failing: [f"--trainer.callbacks+={__name__}.Fails"]}.items())
    codes = [command.wait(200) for command in commands]
    for command in commands:
        command.kill()
    assert None not in codes and 0 not in codes
    assert "this rank has failed" in commands[failing].stderr
    assert "error: another process of this run has ended" in commands[1 - failing].stderr
    assert "Traceback" not in commands[1 - failing].stderr


class Evaluates(Callback):
    """Shows by a file that the evaluation after the training begins, in which rank SLEEPS does nothing for long."""

    def on_train_end(self, trainer, pl_module):
        (Path(trainer.log_dir) / f"evaluates{trainer.global_rank}").touch()
        if os.environ.get("SLEEPS") == str(trainer.global_rank):
            time.sleep(1000)


@pytest.mark.slow
@pytest.mark.parametrize("accelerator", ["cpu", pytest.param("gpu", marks=pytest.mark.skipif(
    torch.cuda.device_count() < 2, reason="needs two GPUs"))])
@pytest.mark.parametrize(("killed", "sleeps"), [(0, None), (1, None), (0, 1), (1, 1)])
def test_where_one_rank_is_killed_the_other_ends_and_what_was_saved_is_there(tmp_path, accelerator, killed, sleeps):
    """In the training; in the evaluation, where the other asks nobody anything; and where it waits for this one."""
    long = [] if sleeps else ["--trainer.max_steps", "100000", "--checkpoint.every_n_steps", "2",
                              "--trainer.val_check_interval", "1000"]
    commands = start_ranks(2, "--trainer.strategy", "ddp", "--trainer.accelerator", accelerator, *long,
                           f"--trainer.callbacks+={__name__}.Evaluates", cwd=tmp_path,
                           by=lambda *given: torchrun(*given) | {"SLEEPS": str(sleeps)})
    run_of, other = tmp_path / "runs/add/version_0", commands[1 - killed]
    checkpoint = wait_for(run_of / CHECKPOINT, command=other)
    if sleeps:
        for rank in range(2):
            wait_for(run_of / f"evaluates{rank}", command=other)
        assert other.wait(2) is None
    begun = time.monotonic()
    commands[killed].send(signal.SIGKILL)
    code = other.wait(60)
    seconds = time.monotonic() - begun
    for command in commands:
        command.kill()
    assert code == 2 and seconds < 30, other.stderr[-2000:]
    assert other.stderr.count(f"error: {LINE}") == 1 and "Traceback" not in other.stderr, other.stderr[-2000:]
    step = load_checkpoint(checkpoint)["global_step"]
    assert step == 6 if sleeps else step >= 2
    if sleeps:  # it has nothing left to train
        return
    rest = run_of.with_name("rest")
    result = run("fit", *TINY, "--trainer.max_steps", str(step + 2), "--ckpt_path", str(checkpoint),
                 "--trainer.logger.version", rest.name, cwd=tmp_path)
    assert result.returncode == 0 and load_checkpoint(rest / CHECKPOINT)["global_step"] == step + 2, result.stderr


def test_sigterm_to_one_rank_stops_all_after_the_same_step(tmp_path):
    endless = ["--trainer.max_steps", "100000", "--trainer.val_check_interval", "1000", "--checkpoint.every_n_steps",
               "2"]
    commands = start_ranks(2, "--trainer.strategy", "ddp", *endless, cwd=tmp_path)
    checkpoint = wait_for(tmp_path / "runs/add/version_0/checkpoints/last.ckpt", command=commands[0])
    commands[1].send(signal.SIGTERM)
    codes = [command.wait(200) for command in commands]
    for command in commands:
        command.kill()
    assert codes == [REQUEUE] * 2, [command.stderr[-2000:] for command in commands]
    assert load_checkpoint(checkpoint)["global_step"] % AGREEMENT == 0
