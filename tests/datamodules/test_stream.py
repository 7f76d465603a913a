import hashlib
import itertools
import random
from collections import Counter
from types import SimpleNamespace

import lightning
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from length_gen.datamodules.datamodule import TimedLoader, TrajectoryDataModule
from length_gen.datamodules.stream import ALIGNMENT, Counting, Item, TrajectoryStream, collate, pack
from length_gen.datamodules.tasks import (
    Addition,
    Copy,
    HanoiIterative,
    HanoiRecursive,
    LogicalGraph,
    Mixture,
    Multiplication,
    Reverse,
    Sort,
    Turing,
)
from length_gen.datamodules.tokens import END, Kind
from length_gen.datamodules.training_counts import TrainingCounts
from length_gen.tools import UserError

TASKS = [Addition(5), Multiplication(10), HanoiIterative(4), LogicalGraph(8), Turing("palindrome", 6)]
ROWS = {"addition": 512, "multiplication": 768, "hanoi_iterative": 1280, "logical_graph": 1024,
        "turing_palindrome": 768}


def fit_loop():
    """Of a trainer that has not begun."""
    return lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).fit_loop


def batches(task, count, **settings):
    data = TrajectoryDataModule(task, **{"batch_size": 8, "row_length": ROWS.get(task.name, 768), "num_workers": 0}
                                | settings)
    return list(itertools.islice(data.train_dataloader(), count)), data


def trajectories(task, batch):
    """What stands in the rows of a batch, each up to its end token."""
    found = []
    for tokens, kinds in zip(batch["tokens"].tolist(), batch["kinds"].tolist(), strict=True):
        names = task.vocabulary().decode([token for token, kind in zip(tokens, kinds, strict=True)
                                          if kind != Kind.PADDING])
        while names:
            end = names.index(END) + 1
            found.append(tuple(names[:end]))
            names = names[end:]
    return found


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("mistakes", [0.0, 0.5])
def test_what_is_learnt_is_what_the_task_draws(task, mistakes):
    """Every drawn trajectory stands once in the rows, to its end; none is cut, drawn again or left out."""
    found, data = batches(task, 6, seed=3, mistakes=mistakes)
    stream = TrajectoryStream(task, 3, mistakes=mistakes)
    for b, batch in enumerate(found):
        size = data.batch_trajectories
        drawn = [tuple(task.vocabulary().decode(stream[b * size + i].ids)) for i in range(size)]
        assert Counter(trajectories(task, batch)) == Counter(drawn)
        assert batch["whole"].all() and len(batch["lengths"]) == size
        data.seen.add(batch)
    # The lengths are the task's own, counted without the stream.
    summary = data.seen.summary()
    drawn = Counter()
    for i in range(6 * size):
        problem = task.sample_training(random.Random(f"training/3/{i}"))
        drawn[problem.variant, str(problem.length)] += 1
    shares = {(variant, length): both for variant, lengths in summary["drawn_and_learnt"].items()
              for length, both in lengths.items()}
    assert shares.keys() == drawn.keys() and summary["cut_share"] == 0
    for cell, (share, learnt) in shares.items():
        assert share == learnt == pytest.approx(drawn[cell] / drawn.total(), abs=1e-5)


def test_the_streams_of_these_seeds_stay_as_they_are():
    """Results name the version of the stream: what changes these needs another one."""
    seen = hashlib.sha256()
    for task in [*TASKS, Sort(5), Reverse(5, "paper"), HanoiRecursive(4, "paper"), Addition(3, setting="no_tool")]:
        for noise in ({}, {"mistakes": 0.5}, {"corrupted": 0.1}):
            for item in map(TrajectoryStream(task, 42, **noise if task.setting == "interactive" else {}).__getitem__,
                            range(5)):
                seen.update(item.ids.tobytes() + item.kinds.tobytes())
        seen.update(repr(batches(task, 1, batch_size=3)[0][0]["tokens"].tolist()).encode())
    assert seen.hexdigest()[:16] == "e092fa4f268f8fa9"


def test_items_are_a_pure_function_of_seed_and_index():
    first, second = (TrajectoryStream(Addition(5), 7) for _ in range(2))
    for i in (5, 0, 3):
        assert np.array_equal(first[i].ids, second[i].ids) and np.array_equal(first[i].kinds, second[i].kinds)
    seen = [tuple(TrajectoryStream(Multiplication(10), seed)[i].ids) for seed in (42, 43) for i in range(50)]
    assert len(set(seen)) == 100


def test_a_finite_training_set_is_the_first_trajectories_of_the_stream_drawn_evenly():
    data = TrajectoryDataModule(Addition(3), batch_size=8, seed=5, trajectories=3)
    endless, few = TrajectoryStream(Addition(3), 5), data.train_dataloader().dataset.stream
    numbers = {endless[i].ids.tobytes(): i for i in range(3)}
    drawn = Counter(numbers[few[i].ids.tobytes()] for i in range(600))
    assert set(drawn) == {0, 1, 2} and all(150 < count < 250 for count in drawn.values())  # 200 +- 4.3 deviations
    assert few[7].ids.tobytes() == few[7].ids.tobytes()
    assert data.val_dataloader().dataset.stream.trajectories is None


@pytest.mark.parametrize("world", [2, 3, 4, 7])
def test_ranks_share_the_rows_of_one_batch(world):
    def of_rank(rank, world):
        data = TrajectoryDataModule(Addition(5), batch_size=8, row_length=256, num_workers=0)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=world, fit_loop=fit_loop(),
                                       strategy=SimpleNamespace(root_device=torch.device("cpu")))
        return list(itertools.islice(data.train_dataloader(), 2)), next(iter(data.val_dataloader()))

    (whole, held_out), shares = of_rank(0, 1), [of_rank(rank, world) for rank in range(world)]
    for b, batch in enumerate([*whole, held_out]):
        parts = [[*train, validation][b] for train, validation in shares]
        for name in ("tokens", "kinds"):
            rows = torch.cat([part[name] for part in parts])
            filled = rows[(torch.cat([part["kinds"] for part in parts]) != Kind.PADDING).any(1)]
            assert sorted(filled.tolist()) == sorted(batch[name].tolist())
        assert all(torch.equal(part["lengths"], batch["lengths"]) for part in parts)  # counted on any rank
        assert all(torch.equal(part["size"], batch["size"]) for part in parts)


@pytest.mark.parametrize("task", [Addition(5), Mixture([Copy(4), LogicalGraph(6)])], ids=lambda task: task.name)
def test_a_run_goes_on_with_other_numbers_of_processes(task):
    """Step by step its ranks together have the trajectories that are drawn by hand, each once, whole, on one rank."""
    steps, position = [], None
    for world, count in ((2, 2), (1, 1), (4, 2), (3, 2)):  # so many steps of so many ranks, after the ones before
        loop, parts = fit_loop(), []
        for rank in range(world):
            data = TrajectoryDataModule(task, batch_size=8, row_length=576, seed=7, num_workers=0)
            data.trainer = SimpleNamespace(global_rank=rank, world_size=world, fit_loop=loop, training=True,
                                           state=SimpleNamespace(fn="fit"),
                                           strategy=SimpleNamespace(root_device=torch.device("cpu")))
            if position:
                data.load_state_dict(position)
            loop.epoch_loop.batch_progress.total.processed = position["batches"] if position else 0
            batches = list(itertools.islice(data.train_dataloader(), count))
            for batch in batches:
                data.on_before_batch_transfer(batch, 0)
            parts.append([trajectories(task, batch) for batch in batches])
        steps += [list(itertools.chain(*own)) for own in zip(*parts, strict=True)]
        loop.epoch_loop.batch_progress.total.processed += count
        position = data.state_dict()
    assert position["trajectories"] == len(steps) * data.batch_trajectories == sum(map(len, steps))
    assert data.seen.summary()["trajectories"] == position["trajectories"]  # as the last rank has counted them
    for step, found in enumerate(steps):
        drawn = range(step * data.batch_trajectories, (step + 1) * data.batch_trajectories)
        problems = (task.sample_training(random.Random(f"training/7/{index}")) for index in drawn)
        assert sorted(found) == sorted(tuple(task.record(problem).tokens) for problem in problems)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_goes_on_where_the_one_before_ended(workers):
    """Lightning begins the loader again after `limit_train_batches`."""
    seen = []

    class Net(lightning.LightningModule):
        def training_step(self, batch, index):
            seen.extend(tuple(row) for row in trajectories(task, batch))

        def configure_optimizers(self):
            return None

    task = Copy(4)
    data = TrajectoryDataModule(task, batch_size=2, row_length=128, seed=5, num_workers=workers)
    trainer = lightning.Trainer(max_epochs=3, limit_train_batches=2, accelerator="cpu", logger=False,
                                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                                limit_val_batches=0, use_distributed_sampler=False)
    trainer.fit(Net(), datamodule=data)
    stream, count = TrajectoryStream(task, 5), 6 * data.batch_trajectories
    assert Counter(seen) == Counter(tuple(task.vocabulary().decode(stream[i].ids)) for i in range(count))
    assert data.state_dict()["trajectories"] == data.seen.summary()["trajectories"] == count


def test_a_batch_does_not_depend_on_the_problems_of_the_evaluation():
    sizes = {TrajectoryDataModule(Multiplication(10), batch_size=20, row_length=768, evaluation_seed=seed)
             .batch_trajectories for seed in range(4)}
    assert len(sizes) == 1


def test_a_rank_without_a_row_gets_padding():
    data = TrajectoryDataModule(Copy(1), batch_size=2, row_length=1024, num_workers=0, validation_rows=2)
    data.trainer = SimpleNamespace(global_rank=1, world_size=2, fit_loop=fit_loop(),
                                   strategy=SimpleNamespace(root_device=torch.device("cpu")))
    data._row_trajectories = 1.0  # two trajectories, in one row
    batch = next(iter(data.train_dataloader()))
    assert batch["kinds"].shape[0] == 1 and not batch["kinds"].any() and len(batch["lengths"]) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_do_not_change_the_batches(workers):
    (found, data), stream = batches(Addition(5), 3, num_workers=workers, seed=3), TrajectoryStream(Addition(5), 3)
    size = data.batch_trajectories
    for b, batch in enumerate(found):
        expected = collate([stream[i] for i in range(b * size, (b + 1) * size)], 512, packed=True)
        assert torch.equal(batch["tokens"], expected["tokens"]) and torch.equal(batch["kinds"], expected["kinds"])


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_batches_have_the_rows_that_were_asked_for_and_little_padding(task):
    found, _ = batches(task, 20, batch_size=16)
    assert np.mean([len(batch["tokens"]) for batch in found]) == pytest.approx(16, rel=0.1)
    assert {batch["tokens"].shape[1] for batch in found} == {ROWS[task.name] + 1}
    tokens, real = sum(batch["size"] for batch in found).tolist()
    assert real / tokens > 0.9
    assert all((batch["kinds"][:, 0] == Kind.PROMPT).all() for batch in found)


def test_a_row_is_as_long_as_the_longest_trajectory_where_that_is_longer():
    found, _ = batches(Multiplication(10), 20, row_length=704, mistakes=1.0)  # which make it longer, by any number
    widths = {batch["tokens"].shape[1] for batch in found}
    assert len(widths) > 1 and min(widths) >= 705 and {width % 64 for width in widths} == {1}


def test_padded_rows_are_whole_trajectories_in_multiples_of_64():
    (batch,), _ = batches(Addition(5), 1, packed=False)
    assert batch["tokens"].shape[0] == 8 and batch["tokens"].shape[1] % 64 == 1
    assert ((batch["kinds"] == Kind.END).sum(1) == 1).all()


def test_held_out_rows_are_of_held_out_problems():
    """A task may keep some for them (code fixing does): `sample_held_out` says which."""
    class Kept(Copy):
        def sample_training(self, rng):
            return self.parse("abc")

        def sample_held_out(self, rng, split):
            return self.parse({"validation": "de", "test": "f"}[split])

    data = TrajectoryDataModule(Kept(3), batch_size=2, row_length=128, num_workers=0, validation_rows=2)
    loaders = {"abc": data.train_dataloader(), "de": data.val_dataloader(), "f": data.test_dataloader()}
    for symbols, loader in loaders.items():
        assert {"".join(said[: said.index("=")]) for said in trajectories(data.task, next(iter(loader)))} == {symbols}


def test_packing_by_hand():
    assert pack([6, 4, 5, 3, 2], 10) == [[0, 1], [2, 3, 4]]
    assert pack([10, 10, 1], 10) == [[0], [1], [2]]
    with pytest.raises(ValueError, match="11 tokens do not fit in a row of 10"):
        pack([11], 10)


LONGEST = [Addition(4), Addition(3, "paper"), Addition(4, setting="direct"), Multiplication(3),
           Multiplication(3, setting="single_turn"), Copy(5), Reverse(5), Sort(5), HanoiIterative(4), HanoiRecursive(4),
           LogicalGraph(4), LogicalGraph(5), LogicalGraph(5, "paper"), LogicalGraph(9),
           Mixture([Addition(4), Copy(3)])]


@pytest.mark.parametrize("task", LONGEST, ids=lambda task: f"{task.name} {task.max_length} {task.setting}")
def test_no_trajectory_is_longer_than_the_task_says(task):
    longest, rng = task.longest_problem(), random.Random(0)
    most = len(task.record(longest).tokens)
    sizes = [len(task.record(task.sample_training(rng)).tokens) for _ in range(1500)]
    assert longest.length == max(task.max_length for task in getattr(task, "tasks", [task])) and max(sizes) <= most
    if task.name not in ("addition", "multiplication", "logical_graph") or task.max_length == 4:
        assert max(sizes) >= most - 1  # and there is one as long, or nearly


def test_the_longest_graph_is_the_longest_of_all_with_six_nodes():
    """Of all that search every pair of earlier nodes, a `not` before each; leaving one out makes it shorter."""
    task = LogicalGraph(6)
    best = 0
    for pairs in itertools.product(*(itertools.permutations(range(i), 2) for i in range(3, 6))):
        lines = [f"ba0{i} = True" for i in range(3)]
        lines += [f"ba0{i} = not ba0{a} and not ba0{b}" for i, (a, b) in enumerate(pairs, 3)]
        best = max(best, len(task.record(task.parse("; ".join(lines))).tokens))
    assert len(task.record(task.longest_problem()).tokens) == best


@pytest.mark.parametrize(("settings", "message"), [
    ({"row_length": 128}, "cannot hold one trajectory: addition of length 5 takes 220 tokens; give "
                          "--data.row_length 256"), ({"row_length": 100}, "multiple of 64: try 128"),
    ({"batch_size": 0}, "batch_size 0")])
def test_impossible_settings(settings, message):
    with pytest.raises(UserError, match=message):
        TrajectoryDataModule(Addition(5), **settings)


@pytest.mark.parametrize(("loader", "settings", "message"), [
    ("val_dataloader", {"validation_rows": 3}, "validation_rows 3 cannot be shared by 4 devices"),
    ("train_dataloader", {"batch_size": 3}, "batch_size 3 cannot be shared by 4 devices"),
    ("train_dataloader", {}, "overfit_batches 2 is not possible")])
def test_trainers_that_ask_for_what_a_stream_has_not(loader, settings, message):
    data = TrajectoryDataModule(Addition(5), **settings)
    data.trainer = SimpleNamespace(global_rank=1, world_size=4, overfit_batches=0 if settings else 2)
    with pytest.raises(UserError, match=message):
        getattr(data, loader)()


def test_a_checkpoint_of_another_stream_is_not_gone_on_with():
    data = TrajectoryDataModule(Addition(5))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, state=SimpleNamespace(fn="fit"))
    with pytest.raises(UserError, match="version 1 of the data stream, which is now version 2"):
        data.load_state_dict({"rows": 96, "batches": 4})
    data.trainer.state.fn = "test"
    data.load_state_dict({"rows": 96, "batches": 4})
    assert data.seen.summary() == {"version": 1}
    longer = TrajectoryDataModule(Addition(7))
    longer.seen.counts += 1
    state = {"stream": 2, "trajectories": 96, "batches": 4, "learnt": longer.seen.counts}
    data.load_state_dict(state)  # for a test at other lengths
    assert data.seen.summary() == {"version": 2}
    data.trainer.state.fn = "fit"
    with pytest.raises(UserError, match="trained on addition with other lengths or variants"):
        data.load_state_dict(state)


def test_what_was_learnt_by_hand():
    learnt = TrainingCounts(("n x 1", "n x 2"), 3)
    learnt.add({"lengths": torch.tensor([1, 3, 3, 2]), "variants": torch.tensor([0, 1, 1, 1]),
                "whole": torch.tensor([True, True, False, True]), "size": torch.tensor([200, 150])})
    assert learnt.summary() == {
        "version": 2, "trajectories": 4, "tokens": 150, "padding_share": 0.25, "cut_share": 0.25,
        "drawn_and_learnt": {"n x 1": {"1": [0.25, 0.33333]}, "n x 2": {"2": [0.25, 0.33333], "3": [0.5, 0.33333]}}}
    assert "| n x 2 3 | 50.00% drawn, 33.33% learnt whole |" in learnt.markdown()


def test_a_loader_knows_how_long_it_was_waited_for(clock):
    def slow(rows):
        clock.wait(0.25)
        return rows

    loader = TimedLoader(range(10), batch_size=2, collate_fn=slow)
    for _ in loader:
        clock.wait(8)  # what is done with a batch does not count
    assert loader.waited == 5 * 0.25


@settings(max_examples=40)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=60), st.integers(0, 200))
def test_packed_rows_hold_everything_once_and_none_could_hold_another(sizes, more):
    capacity = max(sizes) + more
    rows = pack(sizes, capacity)
    assert sorted(itertools.chain(*rows)) == list(range(len(sizes))) and all(row == sorted(row) for row in rows)
    filled = sorted(sum(sizes[i] for i in row) for row in rows)
    assert filled[-1] <= capacity
    assert len(rows) == 1 or filled[0] + filled[1] > capacity  # best fit opens no row for what another could take


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(1, 300)), min_size=1, max_size=6), st.booleans(),
       st.booleans(), st.integers(1, 300))
def test_padding_and_cuts_keep_the_rest_of_every_item(items, packed, cut, row_length):
    made = [Item(np.arange(first, first + length + 1), np.full(length + 1, Kind.THOUGHT, np.uint8), 0, "")
            for first, length in items]
    batch = collate(made, row_length, packed, cut)
    assert batch["tokens"].shape[1] % ALIGNMENT == 1
    kept = [item.ids[: row_length + 1] if cut else item.ids for item in made]
    assert batch["whole"].tolist() == [len(ids) == len(item.ids) for ids, item in zip(kept, made, strict=True)]
    rows = [row[kinds != Kind.PADDING] for row, kinds in zip(batch["tokens"], batch["kinds"], strict=True)]
    if not packed:
        assert [row.tolist() for row in rows] == [ids.tolist() for ids in kept]
    assert sorted(torch.cat(rows).tolist()) == sorted(np.concatenate(kept).tolist())


@given(st.integers(0, 2**40), st.lists(st.tuples(st.integers(1, 9), st.integers(0, 5)), max_size=5))
def test_a_run_that_is_stopped_again_and_again_skips_and_repeats_nothing(start, legs):
    """Also where it goes on with another number of trajectories a batch."""
    seen, begun = [], start
    for size, steps in legs:
        for first in itertools.islice(Counting(lambda: start, size), steps):  # noqa: B023 (used at once)
            seen += range(first, first + size)
        start += steps * size
    assert seen == list(range(begun, start))
