"""How tests start whole commands."""

import time
from pathlib import Path

import torch

from benchmarks import kill
from benchmarks.processes import Command, from_imported

ROOT = Path(__file__).parents[1]
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


def run_ranks(function, *arguments, world=2):
    """`function(rank, *arguments)` of each rank in a process of its own; raises where one does not end well."""
    from_imported()
    torch.multiprocessing.start_processes(function, arguments, world, start_method="forkserver")


def wait_for(*paths, command=None):
    """Until one of the files is there, which is returned, or the command has ended."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and (command is None or command.wait(0.02) is None):
        for path in paths:
            if path.exists():
                return path
    raise AssertionError(f"none of {paths} came up: {command and command.stderr[-2000:]}")


def same_weights(one, other):
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    assert all(kill.equal(a[key], b[key]) for key in ("global_step", "TrajectoryDataModule", "state_dict"))
