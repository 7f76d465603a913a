"""Two processes on the CPU (gloo) mean the same as one."""

import json

import pytest
import torch

from tests.test_run import TINY, run

PAIR = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
UNEVEN = ["--model.schedule", "constant", "--evaluation.problems", "5", "--evaluation.problems_at_longest", "3",
          "--evaluation.validation_problems", "3", "--trainer.logger.version"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distributed")
    for options in (["one"], ["two", *PAIR], ["half", "--trainer.max_steps", "3"],
                    ["rest", *PAIR, "--ckpt_path", "runs/add/half/checkpoints/last.ckpt"]):
        result = run("fit", *TINY, *UNEVEN, *options, cwd=folder)
        assert result.returncode == 0, result.stderr[-3000:]
    return folder


def state(folder, name):
    return torch.load(folder / f"runs/add/{name}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("name", ["two", "rest"])
def test_weights_and_stream_are_those_of_one_process(folder, name):
    """`rest` began with one process and went on with two."""
    one, other = state(folder, "one"), state(folder, name)
    assert one["TrajectoryDataModule"]["rows"] == other["TrajectoryDataModule"]["rows"] == 24
    for key, tensor in one["state_dict"].items():
        assert (tensor - other["state_dict"][key]).abs().max() < 1e-5, key


def test_uneven_shares_of_problems_add_up(folder):
    one, two = (json.loads((folder / f"runs/add/{name}/metrics.json").read_text()) for name in ("one", "two"))
    assert one["train_tokens"] == two["train_tokens"]
    for a, b in zip(one["records"], two["records"], strict=True):
        assert a == {**b, "token_accuracy": pytest.approx(b["token_accuracy"], abs=0.02)}
    assert {r["problems"] for r in two["records"]} <= {5, 3}


def test_only_one_rank_writes(folder):
    names = sorted(path.name.partition(".")[0] for path in (folder / "runs/add/two").iterdir())
    assert names.count("events") == 1 and names.count("metrics") == 1
    assert sorted(path.name for path in (folder / "runs/add").iterdir()) == ["half", "one", "rest", "two"]


def test_the_error_of_a_rank_ends_all_in_one_line(tmp_path):
    result = run("fit", *TINY, *PAIR, "--data.batch_size", "3", cwd=tmp_path)
    assert result.returncode != 0 and "batch_size 3 cannot be shared by 2 devices" in result.stderr
    assert "Traceback" not in result.stderr
