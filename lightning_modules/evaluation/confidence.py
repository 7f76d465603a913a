"""How sure a model was of what it wrote: one teacher-forced pass over the tokens of a rollout."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone

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


@torch.inference_mode()
def confidence(backbone: Backbone, vocabulary: Vocabulary, written: Sequence[str], due: Sequence[str],
               best: int = 3) -> Confidence:
    """What the model thought of one row: of its tokens, and of those that were due in their places."""
    device = next(backbone.parameters()).device
    asked = torch.from_numpy(np.stack([vocabulary.encode(tokens) for tokens in (written, due)], 1)).to(device)
    size, best = max(1, min(1024, MOST_LOGITS // backbone.vocab_size)), min(best, backbone.vocab_size)
    given, shares = (np.zeros((len(written), k), np.float32) for k in (2, best))
    likeliest = np.zeros((len(written), best), np.int64)
    state = backbone.initial_state(1)
    for start in range(0, len(written) - 1, size):
        tokens = asked[None, start : min(start + size, len(written) - 1), 0]
        logits, state = backbone(tokens, state)
        probabilities = logits[0].float().softmax(-1)
        values, indices = probabilities.topk(best)
        after = slice(start + 1, start + 1 + tokens.shape[1])
        given[after] = probabilities.gather(1, asked[after]).cpu().numpy()
        likeliest[after], shares[after] = indices.cpu().numpy(), values.cpu().numpy()
    return Confidence(given[:, 0], given[:, 1], np.array(vocabulary.tokens, dtype=object)[likeliest], shares)


def percent(share: float) -> str:
    """A probability for people; none looks like a certainty."""
    return "<0.1%" if share < 0.0005 else ">99.9%" if share >= 0.9995 else f"{share:.1%}"
