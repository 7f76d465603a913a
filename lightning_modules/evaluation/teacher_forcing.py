"""Teacher forcing: a model reads tokens that are given, and tells of each what it expected in its place."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.backbones.decoder import device_guard


class TeacherForcing:
    """Rows of given tokens, block after block, in memory that does not grow with them.

    tell:  (logits [B, T, V], the tokens [B, T] that came after them) -> what is kept of them, each [B, T, ...]
    state: of the model after the last block
    last:  logits [B, 1, V] before the next token; zeros before a row's first, of which nothing is expected
    """

    def __init__(self, backbone: Backbone, rows: int, tell: Callable[[Tensor, Tensor], tuple[Tensor, ...]]) -> None:
        self.backbone, self.tell, self.state = backbone, tell, backbone.initial_state(rows)
        self.last = torch.zeros(rows, 1, backbone.vocab_size, device=next(backbone.parameters()).device)

    @torch.inference_mode()
    def take(self, ids: Sequence[Tensor | None]) -> list[Tensor]:
        """What is told of the next tokens of each row, beyond a row's own tokens filled up with what means nothing.

        ids: whole numbers [n] of each row, fewer than the others' where it ends; None where it has ended
        """
        tokens = padded(ids).to(self.last.device).long()
        with device_guard(tokens.device):  # on which kernels are, wherever their tensors are
            logits, self.state = self.backbone(tokens, self.state)
            told = self.tell(self.last, tokens[:, :1]), self.tell(logits[:, :-1], tokens[:, 1:])
        self.last = logits[:, -1:].clone()  # a part of them would keep them all
        return [torch.cat(parts, 1) for parts in zip(*told, strict=True)]


def padded(rows: Sequence[Tensor | None]) -> Tensor:
    """Rows [n] of any lengths side by side, [B, T], filled up with 0; not all of them may be None."""
    none = next(row for row in rows if row is not None)[:0]
    return pad_sequence([none if row is None else row for row in rows], batch_first=True)
