import pytest
import torch

from datamodules.tasks import Addition, Copy, LogicalGraph, Multiplication, Turing
from lightning_modules.backbones import LSTM, Mamba, Pythia
from lightning_modules.batched_rollout import Decoding
from lightning_modules.rollout import budget, rollout
from tools import UserError

TASKS = [Addition(4), Addition(4, "paper"), Multiplication(3), Copy(4), Turing("increment", 4), Turing("palindrome", 4)]


def _setting(task, backbone=Mamba, problems=9, **shape):
    torch.manual_seed(1)
    backbone = backbone(len(task.vocabulary()), n_layer=1, d_model=32, **shape).eval()
    chosen = [task.problem("test", 0, 2 + i % 3, i, task.variants[-1]) for i in range(problems)]
    return backbone, [(problem, budget(task.record(problem))) for problem in chosen]


def _train(backbone, task, problems, steps=40):
    """Until it writes some of the trajectories, so that rows go far and end in several ways."""
    optimizer = torch.optim.Adam(backbone.parameters(), 1e-2)
    rows = [torch.from_numpy(task.vocabulary().encode(task.record(problem).tokens)) for problem, _ in problems]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    for _ in range(steps):
        logits, _ = backbone(padded[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), padded[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{task.style}")
@pytest.mark.parametrize("trained", [False, True], ids=["random", "trained"])
def test_the_device_engine_says_what_the_host_engine_says(task, trained):
    backbone, problems = _setting(task)
    if trained:
        _train(backbone, task, problems)
    host = rollout(backbone, task.vocabulary(), task, problems, 4, Decoding("host"))
    device = rollout(backbone, task.vocabulary(), task, problems, 4, Decoding("device", lanes=2))
    for a, b in zip(host, device, strict=True):
        assert (a.tokens, a.kinds, a.reason, a.detail) == (b.tokens, b.kinds, b.reason, b.detail)
    if trained and task.name in ("copy", "turing_increment"):
        assert any(row.reason == "end" for row in host)


@pytest.mark.parametrize("backbone", [LSTM, Pythia])
def test_other_backbones_too(backbone):
    task = Addition(4)
    model, problems = _setting(task, backbone, problems=5)
    host, device = (rollout(model, task.vocabulary(), task, problems, 2, Decoding(engine))
                    for engine in ("host", "device"))
    assert [row.tokens for row in host] == [row.tokens for row in device]


def test_draws_depend_on_the_seed_and_the_problem_alone():
    task = Addition(4)
    backbone, problems = _setting(task)
    together, alone, other = (
        [row.tokens for row in rollout(backbone, task.vocabulary(), task, problems, size,
                                       Decoding(temperature=1.0, seed=s))]
        for size, s in ((9, 0), (3, 0), (9, 1)))
    assert together == alone != other
    assert len(set(map(tuple, together))) == len(together)


def test_draws_have_the_softmax_s_frequencies():
    from lightning_modules.batched_rollout import gumbel

    logits = torch.tensor([0.0, 1.0, 2.0, -1.0])
    noise = torch.cat([gumbel(torch.full((1000,), seed), torch.arange(1000), 4) for seed in range(20)])
    share = torch.bincount((logits + noise).argmax(-1), minlength=4) / len(noise)
    assert torch.allclose(share, logits.softmax(-1), atol=0.015)


def test_what_cannot_be_decoded_is_told():
    task = LogicalGraph(4)
    backbone, _ = _setting(Addition(4))
    with pytest.raises(UserError, match="engine device has no SearchMemory"):
        rollout(backbone, task.vocabulary(), task, [(task.problem("test", 0, 4, 0, task.variants[0]), 50)], 1,
                Decoding("device"))
    for wrong, message in (({"engine": "gpu"}, "unknown engine 'gpu'"), ({"weights": "int8"}, "unknown type 'int8'"),
                           ({"temperature": -1.0}, "temperature -1.0"), ({"lanes": 0}, "lanes 0")):
        with pytest.raises(UserError, match=message):
            Decoding(**wrong)
