"""Does a model know where it errs: its margins up to its first error, and what a threshold on them would catch.

The *margin* of a choice is its logit less the second largest one: what a rollout sees of itself, right or wrong. Up to
its first error a greedy rollout is the reference trajectory, so that one teacher-forced pass tells all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from length_gen.datamodules.trajectory import Trajectory
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.evaluation.teacher_forcing import TeacherForcing
from length_gen.lightning_modules.evaluation.verify import blocks_of

CHUNK = 1024
"""Tokens of a row at a time."""


@dataclass(frozen=True, slots=True)
class Doubt:
    """The least margins of one row.

    before:      of its choices before the first error; of all where there is none
    until:       the same with the wrong choice itself
    first_error: position of the first wrong choice; None if all are right
    """

    before: float
    until: float
    first_error: int | None


@torch.inference_mode()
def doubts(backbone: Backbone, vocabulary: Vocabulary, references: Sequence[Trajectory],
           batch_size: int = 64) -> list[Doubt]:
    """Of every reference trajectory, in order; infinity where a row errs at its first choice."""
    found = []
    for start in range(0, len(references), batch_size):
        batch = references[start : start + batch_size]
        forcing, position = TeacherForcing(backbone, len(batch), _choices), 0
        least, at_error, errors = (np.full(len(batch), np.inf) for _ in range(3))
        for blocks in blocks_of(batch, vocabulary, CHUNK):
            margins, wrong = (part.cpu().numpy() for part in forcing.take([block and block.ids for block in blocks]))
            for i, block in enumerate(blocks):
                if block is None or np.isfinite(errors[i]):
                    continue
                asked = np.flatnonzero(block.predicted.numpy())
                own, failing = margins[i, asked], np.flatnonzero(wrong[i, asked])
                stop = failing[0] if len(failing) else len(own)
                least[i] = min(least[i], own[:stop].min(initial=np.inf))
                if len(failing):
                    errors[i], at_error[i] = position + asked[stop], own[stop]
            position += CHUNK
        found += [Doubt(float(before), float(min(before, wrong)), int(error) if np.isfinite(error) else None)
                  for before, wrong, error in zip(least, at_error, errors, strict=True)]
    return found


def _choices(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Margin of the model's own choice in each token's place, float32 [B, T], and whether it is another token."""
    best = logits.float().topk(2)
    return best.values[..., 0] - best.values[..., 1], best.indices[..., 0] != tokens


def area(wrong: Sequence[float], right: Sequence[float]) -> float | None:
    """Area under the ROC curve of "the less, the likelier wrong": how often a wrong row's value is below a right one's,
    equal ones counting half; None where there are none of either."""
    if not len(wrong) or not len(right):
        return None
    below = np.subtract.outer(np.asarray(wrong, dtype=float), np.asarray(right, dtype=float))
    return float(((below < 0) + 0.5 * (below == 0)).mean())


def stopped(values: Sequence[float], threshold: float) -> int:
    """How many rows would have stopped: those whose value is below the threshold."""
    return int((np.asarray(values, dtype=float) < threshold).sum())
