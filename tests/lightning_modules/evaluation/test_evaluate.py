"""What an evaluation tells while it goes on."""

from itertools import pairwise

import pytest
import torch

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import Copy
from length_gen.lightning_modules.backbones import Suffix
from length_gen.lightning_modules.decoding import rollout as rollouts
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.evaluation.evaluate import evaluate
from length_gen.lightning_modules.model import masked_targets

LENGTHS, PROBLEMS = (5, 40), 3


@pytest.fixture(scope="module")
def learnt():
    """A learner that has seen all that it is asked, and how many tokens that is by length."""
    data = TrajectoryDataModule(Copy(5), 8, row_length=512)
    model, tokens = Suffix(len(data.vocabulary), 12, min_count=1), dict.fromkeys(LENGTHS, 0)
    for length in LENGTHS:
        for reference in (data.task.record(data.problem("test", length, i, "")) for i in range(PROBLEMS)):
            ids = torch.from_numpy(data.vocabulary.encode(reference.tokens))[None].long()
            kinds = torch.frombuffer(bytearray(reference.kinds), dtype=torch.uint8)[None]
            model.learn(ids[:, :-1], masked_targets(ids, kinds))
            tokens[length] += len(reference.tokens)
    return data, model, tokens


def test_drafts_change_nothing_but_who_took_the_tokens(learnt):
    """The first four problems of a length go step by step; the learner knows three of all, and errs on others."""
    data, model, _ = learnt
    drafted, stepped = (list(evaluate(model, data, LENGTHS, lambda length: 7, "rollout", "test", decoding=decoding))
                        for decoding in (Decoding(), Decoding("host")))
    assert [record.pop("engines") for record in drafted] == [{"host": 4, "draft": 3}] * len(drafted)
    assert [record.pop("engines") for record in stepped] == [{"host": 7}] * len(stepped)
    assert drafted == stepped and all(3 / 7 <= record["exact_match"] < 1 for record in drafted)


@pytest.mark.parametrize(("evaluator", "settings"), [("rollout", {}), ("verify", {}), ("verify", {"stream_from": 40})])
def test_it_tells_how_many_tokens_of_each_length_are_done(learnt, evaluator, settings, monkeypatch):
    data, model, tokens = learnt
    monkeypatch.setattr(rollouts, "TELL", 1)
    told = {length: [] for length in LENGTHS}
    records = list(evaluate(model, data, LENGTHS, lambda length: PROBLEMS, evaluator, "test", **settings,
                            watch=lambda length, *done: told[length].append(done)))
    assert [record["exact_match"] for record in records] == [1, 1]
    for length, steps in told.items():
        shares = [done / total for done, total in steps]
        assert all(before <= after for before, after in pairwise(shares))
        if "stream_from" not in settings:
            assert shares[0] == 0 and steps[-1][1] == tokens[length]
        assert 1 - shares[-1] <= (PROBLEMS / tokens[length] if evaluator == "rollout" else 0)  # a step before its end
