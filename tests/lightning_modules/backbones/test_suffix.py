import random

import pytest
import torch

from length_gen.datamodules.rollout import budget
from length_gen.datamodules.stream import TrajectoryStream, collate
from length_gen.datamodules.tasks import Addition, Copy
from length_gen.lightning_modules.backbones import Suffix
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.evaluation.outcome import judge
from length_gen.lightning_modules.evaluation.verify import verify
from length_gen.lightning_modules.model import masked_targets
from length_gen.tools import UserError
from tests.commands import run_ranks


def learner(task, trajectories=4000, **settings):
    """Having read so many trajectories of the training stream."""
    net, stream = Suffix(len(task.vocabulary()), **settings), TrajectoryStream(task, 1)
    batch = collate([stream[i] for i in range(trajectories)], 512, packed=True)
    net.learn(batch["tokens"][:, :-1], masked_targets(batch["tokens"], batch["kinds"]))
    return net.eval()


def share_exact(net, task, length, n=8):
    references = [task.record(task.problem("test", 0, length, i)) for i in range(n)]
    return sum(outcome.exact for outcome in verify(net, task.vocabulary(), references)) / n


def test_local_trajectories_are_learnt_for_any_length():
    task = Addition(5)
    net = learner(task)
    assert [share_exact(net, task, length) for length in (10, 100, 1000)] == [1, 1, 1]


def test_paper_trajectories_fail_where_the_horizon_passes_the_window():
    task = Addition(5, "paper")
    net = learner(task, window=16)
    # the horizon is 12 at 2 digits and 21 at 5
    assert share_exact(net, task, 2) > 0.8 and share_exact(net, task, 5) == 0


def test_an_unseen_suffix_ends_the_trajectory():
    task = Copy(3)
    net, vocabulary = Suffix(len(task.vocabulary())), task.vocabulary()
    row, = rollout(net, vocabulary, task, [(task.parse("abc"), 50)])
    assert row.reason == "end" and row.tokens == ["a", "b", "c", "=", "[END]"]


def test_rolls_out_and_survives_a_checkpoint():
    task = Copy(5)
    net = learner(task, trajectories=170)
    other = Suffix(len(task.vocabulary()))
    other.load_state_dict(net.state_dict())
    problem = task.problem("test", 0, 60, 0)
    reference = task.record(problem)
    row, = rollout(other, task.vocabulary(), task, [(problem, budget(reference))])
    assert judge(row, task, reference).exact


def test_whole_equals_chunks_equals_steps():
    task = Addition(5)
    net, rng = learner(task, trajectories=70), random.Random(0)
    trajectory = task.record(task.sample_training(rng)).tokens + task.record(task.sample_training(rng)).tokens
    tokens = torch.from_numpy(task.vocabulary().encode(trajectory))[None]
    whole, last = net(tokens)
    state, parts = net.initial_state(1), []
    for chunk in tokens.split([1, 2, 30, tokens.shape[1] - 33], 1):
        logits, state = net(chunk, state)
        parts.append(logits)
    assert torch.equal(torch.cat(parts, 1), whole) and torch.equal(state, last)
    state = net.initial_state(1)
    for t in range(tokens.shape[1]):
        logits, state = net.step(tokens[:, t], state)
        assert torch.equal(logits, whole[:, t])


def learn(rank, store):
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    net = Suffix(9, window=3)
    for step in range(3):
        tokens = torch.randint(9, (2, 10 + 5 * rank), generator=torch.Generator().manual_seed(10 * step + rank))
        net.learn(tokens, tokens.roll(-1, 1))
    torch.save(net.state_dict(), f"{store}.{rank}")
    torch.distributed.destroy_process_group()  # else its threads may be alive when the process ends, which then aborts


def test_ranks_have_the_table_of_one_process_that_saw_all_rows(tmp_path):
    run_ranks(learn, str(tmp_path / "store"))
    alone = Suffix(9, window=3)
    for step in range(3):
        for rank in range(2):
            tokens = torch.randint(9, (2, 10 + 5 * rank), generator=torch.Generator().manual_seed(10 * step + rank))
            alone.learn(tokens, tokens.roll(-1, 1))
    for rank in range(2):
        table = torch.load(f"{tmp_path}/store.{rank}")["_extra_state"]
        assert table.shape[1] > 100 and torch.equal(table, alone.get_extra_state())


def test_impossible_window():
    with pytest.raises(UserError, match="window 0"):
        Suffix(10, window=0)
