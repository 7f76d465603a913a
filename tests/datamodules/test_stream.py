import itertools
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datamodules.datamodule import TimedLoader, TrajectoryDataModule
from datamodules.stream import RankSampler, RowStream, collate
from datamodules.tasks import Addition, Multiplication
from datamodules.tokens import Kind
from tools import UserError


def rows(stream, indices):
    return [stream[i] for i in indices]


@pytest.mark.parametrize("packed", [True, False])
def test_rows_are_a_pure_function_of_seed_and_index(packed):
    first, second = (RowStream(Addition(5), 7, 256, packed) for _ in range(2))
    for i in (5, 0, 3):
        for a, b in zip(first[i], second[i], strict=True):
            assert np.array_equal(a, b)


def test_neighbouring_seeds_share_no_row():
    seen = [tuple(RowStream(Addition(5), seed, 256, True)[i][0]) for seed in (42, 43) for i in range(20)]
    assert len(set(seen)) == 40


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_one_stream(world):
    shares = [list(itertools.islice(RankSampler(8, rank, world), 32 // world)) for rank in range(world)]
    assert sorted(itertools.chain(*shares)) == list(range(8, 40))
    # Each step of the ranks together is the same global batch.
    assert sorted(i for share in shares for i in share[: 8 // world]) == list(range(8, 16))


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_the_batches(workers):
    data = TrajectoryDataModule(Addition(5), batch_size=4, row_length=256, num_workers=workers, seed=3)
    batches = list(itertools.islice(data.train_dataloader(), 3))
    stream = RowStream(Addition(5), 3, 256, True)
    for b, batch in enumerate(batches):
        expected = collate(rows(stream, range(4 * b, 4 * b + 4)))
        assert torch.equal(batch["tokens"], expected["tokens"]) and torch.equal(batch["kinds"], expected["kinds"])


def test_packed_rows_have_no_padding_and_start_with_a_question():
    batch = collate(rows(RowStream(Multiplication(10), 0, 640, True), range(8)))
    assert batch["tokens"].shape == (8, 641)
    assert not (batch["kinds"] == Kind.PADDING).any()
    assert (batch["kinds"][:, 0] == Kind.PROMPT).all()


def test_padded_rows_are_whole_trajectories_in_multiples_of_64():
    batch = collate(rows(RowStream(Addition(5), 0, 640, False), range(8)))
    assert batch["tokens"].shape[1] % 64 == 1
    assert ((batch["kinds"] == Kind.END).sum(1) == 1).all()


@pytest.mark.parametrize(("settings", "message"), [
    ({"row_length": 128}, "cannot hold one trajectory"), ({"row_length": 100}, "multiple of 64: try 128"),
    ({"batch_size": 0}, "batch_size 0")])
def test_impossible_settings(settings, message):
    with pytest.raises(UserError, match=message):
        TrajectoryDataModule(Addition(5), **settings)


def test_more_ranks_than_validation_rows():
    data = TrajectoryDataModule(Addition(5), validation_rows=3)
    data.trainer = SimpleNamespace(global_rank=1, world_size=4)
    with pytest.raises(UserError, match="validation_rows 3 cannot be shared by 4 devices"):
        data.val_dataloader()


def test_a_loader_knows_how_long_it_was_waited_for():
    def slow(rows):
        time.sleep(0.02)
        return rows

    loader = TimedLoader(range(10), batch_size=2, collate_fn=slow)
    for _ in loader:
        time.sleep(0.01)  # what is done with a batch does not count
    assert loader.waited >= 0.1
