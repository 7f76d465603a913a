"""`benchmarks/reinforce.py`: what an update does, and what a sample is worth."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks import reinforce
from length_gen import load_run


@pytest.fixture
def run():
    return load_run("results/models/add", "cpu")


def test_an_update_climbs_the_weighted_log_probability(run):
    backbone, task = run.backbone, run.task
    rows = [(one.tokens, one.kinds) for one in map(task.record, map(task.parse, ("1+1", "12+9", "7+305")))]
    weights = torch.tensor([0.75, 0.0, -0.25])

    def gradients(weights):
        steps = SimpleNamespace(step=lambda: None, zero_grad=lambda set_to_none: None)
        backbone.zero_grad()
        count = reinforce.update(backbone, steps, rows, weights, run.vocabulary)
        return count, [parameter.grad.clone() for parameter in backbone.parameters()]

    count, found = gradients(weights)
    backbone.zero_grad()
    total = 0.0
    for (tokens, kinds), weight in zip(rows, weights, strict=True):
        ids = torch.tensor([run.vocabulary.id(token) for token in tokens])
        chances = backbone(ids[None, :-1])[0][0].log_softmax(-1)
        said = [t for t in range(len(ids) - 1) if kinds[t + 1] in reinforce.PREDICTED]
        total -= weight * chances[said, ids[1:][said]].sum()
    (total / count).backward()
    norm = torch.nn.utils.clip_grad_norm_(backbone.parameters(), 1.0)
    assert norm > 0 and count == sum(kind in reinforce.PREDICTED for _, kinds in rows for kind in kinds)
    for parameter, grad in zip(backbone.parameters(), found, strict=True):
        assert torch.allclose(parameter.grad, grad, rtol=1e-3, atol=1e-6)


def test_samples_are_rollouts_and_right_ones_have_the_reward(run):
    problems = [run.task.parse("123+45"), run.task.parse("9+9")]
    found = reinforce.sampled(run, problems, 3, "a seed")
    assert [reward for *_, reward in found] == [1.0] * 6  # it is exact, and sure of it
    for i, (tokens, kinds, _) in enumerate(found):
        reference = run.task.record(problems[i // 3])
        assert (tokens, bytes(kinds)) == (reference.tokens, bytes(reference.kinds))
