"""Exact match without a rollout: is the teacher-forced argmax right at every predicted token of the reference?

With greedy decoding that is the same question as whether the rollout is the reference trajectory, but it is answered by
a parallel pass in chunks, in memory that does not grow with the trajectory (but for the trajectory itself).
"""

from collections.abc import Sequence

import numpy as np
import torch

from datamodules.tokens import PREDICTED
from datamodules.trajectory import Trajectory
from datamodules.vocabulary import Vocabulary
from lightning_modules.backbones.base import Backbone
from lightning_modules.metrics import Outcome


@torch.inference_mode()
def verify(backbone: Backbone, vocabulary: Vocabulary, references: Sequence[Trajectory], chunk_size: int = 1024,
           batch_size: int = 64) -> list[Outcome]:
    """Outcome of every reference trajectory, in order; `chunk_size` tokens of `batch_size` rows at a time."""
    outcomes = []
    for start in range(0, len(references), batch_size):
        outcomes += _verify_batch(backbone, vocabulary, references[start : start + batch_size], chunk_size)
    return outcomes


def _verify_batch(backbone: Backbone, vocabulary: Vocabulary, references: Sequence[Trajectory],
                  chunk_size: int) -> list[Outcome]:
    device = next(backbone.parameters()).device
    width = max(len(reference.tokens) for reference in references)
    tokens = np.zeros((len(references), width), dtype=np.int32)
    predicted = np.zeros((len(references), width), dtype=bool)
    for i, reference in enumerate(references):
        tokens[i, : len(reference.tokens)] = vocabulary.encode(reference.tokens)
        predicted[i, : len(reference.tokens)] = np.isin(np.frombuffer(reference.kinds, dtype=np.uint8), list(PREDICTED))
    wrong = np.zeros_like(predicted)
    state = backbone.initial_state(len(references))
    for start in range(0, width - 1, chunk_size):
        stop = min(start + chunk_size, width - 1)
        logits, state = backbone(torch.from_numpy(tokens[:, start:stop]).to(device).long(), state)
        wrong[:, start + 1 : stop + 1] = logits.argmax(-1).cpu().numpy() != tokens[:, start + 1 : stop + 1]
    wrong &= predicted
    return [_outcome(r, w, int(p.sum())) for r, w, p in zip(references, wrong, predicted, strict=True)]


def _outcome(reference: Trajectory, wrong: np.ndarray, predicted: int) -> Outcome:
    first_error = int(wrong.argmax()) if wrong.any() else None
    return Outcome(exact=first_error is None, answer_correct=None, predicted_tokens=predicted,
                   correct_tokens=predicted - int(wrong.sum()), first_error=first_error,
                   phase=None if first_error is None else reference.phase_at(first_error), turns=reference.turns(),
                   tokens=len(reference.tokens), reason="verify")
