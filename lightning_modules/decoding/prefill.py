"""Which known tokens (prompts, observations) rows take in passes over many of them, and not in steps."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.backbones.decoder import Decoder

MOST_TOKENS = {"cuda": 65_536, "cpu": 16_384}
"""Tokens, of all rows together, that are taken in one pass, so that its memory stays small."""
MOST_LOGITS = 2**26
"""The same for their logits, which some backbones make."""
MOST_BYTES = 2**30
"""Of the states of the rows of one pass, of which there are copies while it runs."""

EVEN = 16
"""The scan in bfloat16 fills lengths up to a multiple of it (`scan_cuda.CHUNK`); of a long one, steps take the rest."""


class PrefillPlan:
    """Passes over known tokens, those that are worth what they cost.

    length: most tokens that a row may have
    price:  steps of all rows in the time that a pass over a few tokens takes
    most:   tokens, of all rows together, that are taken in one pass
    rows:   most rows of a pass
    """

    def __init__(self, backbone: Backbone, length: int, price: int) -> None:
        tokens = MOST_TOKENS["cuda" if next(backbone.parameters()).is_cuda else "cpu"]
        self.price = price
        self.most = max(1, min(tokens, MOST_LOGITS // backbone.vocab_size))
        self.rows = max(1, MOST_BYTES // max(1, backbone.state_size(length)))

    def passes(self, known: Sequence[int], batch: int) -> Iterator[tuple[list[int], int]]:
        """Rows, by their place in `known`, and how many tokens each of them takes, pass by pass.

        known: tokens that each row can take; batch: rows of a step
        """
        left = list(known)
        while left:
            order = sorted(range(len(left)), key=left.__getitem__, reverse=True)
            count = max(range(1, len(left) + 1), key=lambda n: n * left[order[n - 1]])
            chosen, length = order[:count], left[order[count - 1]]
            length -= length % EVEN if length >= 16 * EVEN and self.price >= EVEN else 0
            if not length:
                return
            # Few rows with all of their tokens rather than all rows with few: states are read and written less often.
            parts, size = -(-count // max(1, min(self.rows, self.most // length))), min(length, self.most)
            if count * length < self.price * batch * parts * -(-length // size):
                return
            together = -(-count // parts)  # about as many in each
            for first in range(0, count, together):
                for start in range(0, length, size):
                    yield chosen[first : first + together], min(size, length - start)
            for i in chosen:
                left[i] -= length

    def take(self, decoder: Decoder, rows: Tensor, tokens: Tensor) -> None:
        """`decoder.prefill` of rows, int64 [k], and tokens, int64 [k, T], in halves, from now on, where they do not fit
        in memory."""
        try:
            decoder.prefill(rows, tokens)
            return
        except torch.OutOfMemoryError:
            if tokens.numel() == 1:
                raise
        torch.cuda.empty_cache()  # not before here: the error holds what was computed
        self.most = min(self.most, tokens.numel() // 2)
        halves = (zip(rows.tensor_split(2), tokens.tensor_split(2), strict=True) if len(rows) > 1 else
                  ((rows, part) for part in tokens.tensor_split(2, 1)))
        for some, part in halves:
            self.take(decoder, some, part)
