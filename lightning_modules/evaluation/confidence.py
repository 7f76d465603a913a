"""How sure a model was of what it wrote: one teacher-forced pass over the tokens of a rollout."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.evaluation.teacher_forcing import TeacherForcing

MOST_LOGITS = 2**24
"""That are made at once."""


@dataclass(slots=True)
class Confidence:
    """Probabilities that a model gave, before it took token t, to tokens in its place; to token 0 none.

    written: float32 [T], to token t itself
    due:     float32 [T], to the token that was due there
    best:    object [T, k], the likeliest tokens, the likeliest first
    of_best: float32 [T, k], their probabilities
    """

    written: np.ndarray
    due: np.ndarray
    best: np.ndarray
    of_best: np.ndarray


def confidence(backbone: Backbone, vocabulary: Vocabulary, written: Sequence[str], due: Sequence[str],
               best: int = 3) -> Confidence:
    """What the model thought of one row: of its tokens, and of those that were due in their places."""
    asked = torch.from_numpy(np.stack([vocabulary.encode(tokens) for tokens in (written, due)], 1)).long()
    size, best = max(1, min(1024, MOST_LOGITS // backbone.vocab_size)), min(best, backbone.vocab_size)
    forcing, parts = TeacherForcing(backbone, 1, lambda logits, _: (logits.float().softmax(-1),)), []
    for block in asked.split(size):
        probabilities = forcing.take([block[:, 0]])[0][0]
        values, likeliest = probabilities.topk(best)
        parts.append([part.cpu().numpy() for part in (
            probabilities.gather(1, block.to(probabilities.device)), likeliest, values)])
    given, likeliest, shares = (np.concatenate(column) for column in zip(*parts, strict=True))
    given[0] = shares[0] = 0
    return Confidence(given[:, 0], given[:, 1], np.array(vocabulary.tokens, dtype=object)[likeliest], shares)


def percent(share: float) -> str:
    """A probability for people; none looks like a certainty."""
    return "<0.1%" if share < 0.0005 else ">99.9%" if share >= 0.9995 else f"{share:.1%}"
