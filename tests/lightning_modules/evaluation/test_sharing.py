"""How problems are shared out over ranks, and that the records do not depend on it."""

import itertools
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import LogicalGraph
from length_gen.lightning_modules.backbones import GRU
from length_gen.lightning_modules.evaluation import sharing
from length_gen.lightning_modules.evaluation.evaluate import evaluate
from length_gen.lightning_modules.evaluation.sharing import dealt, shared, waiting
from tests.commands import run_ranks


def test_dealing_by_hand():
    assert dealt([5, 5, 5, 5, 5], 2) == [[0, 2, 4], [1, 3]]  # every second, as where nothing is known
    assert dealt([1, 9, 2, 3, 4], 2) == [[0, 1], [2, 3, 4]]  # 9 | 4, 4 + 3, 4 + 3 + 2, and 1 to the first
    assert dealt([7], 3) == [[0], [], []] and dealt([], 2) == [[], []]
    assert waiting([1, 9, 2, 3, 4], [[0, 1], [2, 3, 4]]) == pytest.approx(0.1)
    assert waiting([4, 4], [[0, 1], []]) == 1 and waiting([], [[], []]) == 0


@given(st.lists(st.integers(1, 10**7), max_size=40), st.integers(1, 8))
def test_all_is_dealt_once_and_the_last_rank_is_at_most_one_problem_late(sizes, world):
    shares = dealt(sizes, world)
    assert sorted(itertools.chain(*shares)) == list(range(len(sizes))) and all(s == sorted(s) for s in shares)
    loads = [sum(sizes[place] for place in share) for share in shares]
    assert max(loads) <= sum(sizes) / world + max(sizes, default=0)


@pytest.mark.parametrize("world", [2, 4, 8])
def test_no_rank_waits_for_a_tenth_of_the_time(world):
    """Where problems differ by a factor of a thousand, and where each rank has few of two kinds."""
    sizes = [1 + round(1000 * (i * 0.6180339887 % 1) ** 3) for i in range(128)]
    assert max(sizes) > 900 * min(sizes)
    assert waiting(sizes, dealt(sizes, world)) < 0.1
    kinds = [2] * 8 + [1] * 8
    assert waiting(kinds, dealt(kinds, world)) == 0


def test_only_what_moves_is_recorded_again(monkeypatch):
    """Of problems of 1, 100, 1, 100, ... every second would leave one of two ranks without work."""
    class Recorded:
        def __init__(self, problem):
            self.tokens, self.problem = range((1, 100)[problem % 2]), problem

    for rank in range(2):
        told = [{n: (1, 100)[n % 2] for n in range(r, 12, 2)} for r in range(2)]
        monkeypatch.setattr(sharing.dist, "all_gather_object",
                            lambda into, own, told=told, rank=rank: into.__setitem__(slice(None), told)
                            if own == told[rank] else pytest.fail("told something else"))
        asked = []
        own = shared(lambda numbers, asked=asked: asked.extend(numbers) or list(numbers), 12,
                     lambda problems: list(map(Recorded, problems)), rank, 2)
        assert sorted(asked) == sorted({*range(rank, 12, 2), *own}) and list(own) == sorted(own)
        assert all(number == problem == recorded.problem for number, (problem, recorded) in own.items())
        assert sum(len(recorded.tokens) for _, recorded in own.values()) == 303  # half of 6 x 1 + 6 x 100


def _records(rank: int, world: int) -> list:
    torch.manual_seed(0)
    data = TrajectoryDataModule(LogicalGraph(6), row_length=1024)
    model = GRU(len(data.vocabulary), n_layer=1, d_model=16)
    work, tokens = [], {}
    found = [list(evaluate(model, data, [6, 7], lambda length: 9, evaluator, "test", rank=rank, world=world,
                           stream_from=7 if evaluator == "verify" else None, problem_set=problem_set,
                           watch=lambda length, done, total: tokens.__setitem__(length, total)))
             for evaluator, problem_set in (("rollout", "uniform"), ("verify", "uniform"), ("verify", "structured"))]
    work.append(tokens[6])
    return [found, work]


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    Path(folder, f"{rank}.json").write_text(json.dumps(_records(rank, 2)))
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo")
def test_records_of_two_processes_are_those_of_one(tmp_path):
    run_ranks(_worker, str(tmp_path))
    alone, of_ranks = _records(0, 1), [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for records, work in of_ranks:
        assert records == json.loads(json.dumps(alone[0]))
        assert 0.45 < work[0] / alone[1][0] < 0.55
