"""Least margins up to the first error, against logits taken token by token."""

import lightning
import pytest
import torch

from length_gen.datamodules.tasks import Addition
from length_gen.datamodules.tokens import PREDICTED
from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.evaluation import doubt
from length_gen.lightning_modules.evaluation.doubt import area, doubts, stopped


@pytest.mark.parametrize("chunk", [7, 1024])
def test_equals_what_is_seen_token_by_token(monkeypatch, chunk):
    monkeypatch.setattr(doubt, "CHUNK", chunk)
    task = Addition(5)
    vocabulary = task.vocabulary()
    lightning.seed_everything(0, verbose=False)
    backbone = Mamba(len(vocabulary), n_layer=1, d_model=16).eval()
    references = [task.record(task.problem("test", 0, n, 0)) for n in (1, 3, 5)]
    found = doubts(backbone, vocabulary, references, batch_size=2)
    for one, reference in zip(found, references, strict=True):
        ids = torch.tensor(vocabulary.encode(reference.tokens).astype(int))
        with torch.no_grad():
            logits, _ = backbone(ids[None], backbone.initial_state(1))
        before, until, error = float("inf"), float("inf"), None
        for i, kind in enumerate(reference.kinds):
            if kind in PREDICTED and i:
                first, second = sorted(logits[0, i - 1].tolist())[: -3 : -1]
                until = min(before, first - second)
                if logits[0, i - 1].argmax() != ids[i]:
                    error = i
                    break
                before = until
        assert (one.first_error, one.before) == (error, pytest.approx(before, abs=1e-4))
        assert one.until == pytest.approx(until, abs=1e-4)


def test_a_row_without_an_error_has_the_least_of_all(monkeypatch):
    """What is right is made so: whatever the model says counts as the token that was due."""
    task = Addition(5)
    vocabulary = task.vocabulary()
    lightning.seed_everything(0, verbose=False)
    backbone = Mamba(len(vocabulary), n_layer=1, d_model=16).eval()
    usual = doubt._choices
    monkeypatch.setattr(doubt, "_choices", lambda logits, tokens: (usual(logits, tokens)[0],
                                                                  torch.zeros_like(tokens, dtype=torch.bool)))
    reference = task.record(task.problem("test", 0, 3, 0))
    one, = doubts(backbone, vocabulary, [reference])
    assert one.first_error is None and one.before == one.until
    with torch.no_grad():
        logits, _ = backbone(torch.tensor(vocabulary.encode(reference.tokens).astype(int))[None],
                             backbone.initial_state(1))
    best = logits[0].topk(2).values
    margins = [float(best[i - 1, 0] - best[i - 1, 1]) for i, kind in enumerate(reference.kinds) if kind in PREDICTED]
    assert one.until == pytest.approx(min(margins), abs=1e-4)


def test_area_and_stops_by_hand():
    assert area([1.0, 4.0], [2.0, 3.0, 4.0]) == pytest.approx((3 + 0.5) / 6)
    assert area([], [1.0]) is None and area([1.0], []) is None
    assert stopped([1.0, 2.0, 3.0], 2.0) == 1 and stopped([], 1.0) == 0
