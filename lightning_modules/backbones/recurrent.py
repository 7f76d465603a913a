"""LSTM and GRU language models (torch.nn.LSTM and torch.nn.GRU; the paper's appendix C has 4 layers of 1,536)."""

from abc import abstractmethod
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from length_gen.lightning_modules.backbones.base import Backbone, State, check_sizes

LONGEST = 32_768
"""Tokens that cuDNN gets at a time: from 65,536 on it refuses."""


class Recurrent(Backbone):
    """Embedding, `n_layer` recurrent layers, head. State: a tensor [B, n_layer, d_model] for each of the cell's parts.

    Subclasses name the layers (`rnn_class`), one step of a layer (`cell`, the same function on the same weights, which
    unlike cuDNN's layers is small enough to be worth a CUDA graph) and how many parts the cell's state has (`parts`).
    """

    rnn_class: type[nn.RNNBase]
    parts: int

    def __init__(self, vocab_size: int, n_layer: int = 2, d_model: int = 64) -> None:
        super().__init__(vocab_size)
        check_sizes(type(self).__name__, n_layer=n_layer, d_model=d_model)
        self.n_layer, self.d_model = n_layer, d_model
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.rnn = self.rnn_class(d_model, d_model, n_layer, batch_first=True)
        self.lm_head = nn.Linear(d_model, vocab_size)

    @abstractmethod
    def cell(self, inputs: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> tuple[Tensor, ...]:
        """New state of one layer, each part [B, d_model], the output first; inputs [B, d_model], weights as torch has
        them."""

    @property
    def description(self) -> str:
        return f"{type(self).__name__.lower()} {self.n_layer}x{self.d_model}"

    def initial_state(self, batch_size: int) -> State:
        shape = batch_size, self.n_layer, self.d_model
        return tuple(self.embedding.weight.new_zeros(shape) for _ in range(self.parts))

    def forward(self, tokens: Tensor, state: State | None = None, return_state: bool = True) -> tuple[Tensor, State]:
        given = None
        if state is not None:
            self.check_state(state, len(tokens))
            # torch has the layers first, and a GRU's one tensor without a tuple.
            given = tuple(part.transpose(0, 1).contiguous() for part in state)
            given = given if self.parts > 1 else given[0]
        parts = []
        for piece in self.embedding(tokens).split(LONGEST, 1):
            with _kernels(piece.device):
                hidden, given = self.rnn(piece.contiguous(), given)
            parts.append(hidden)
        hidden = torch.cat(parts, 1) if len(parts) > 1 else parts[0]
        last = given if self.parts > 1 else (given,)
        return self.lm_head(hidden), tuple(part.transpose(0, 1) for part in last) if return_state else None

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        self.check_state(state, len(tokens))
        hidden, layers = self.embedding(tokens), []
        for i, weights in enumerate(self.rnn.all_weights):
            layers.append(self.cell(hidden, tuple(part[:, i] for part in state), weights))
            hidden = layers[-1][0]
        return self.lm_head(hidden), tuple(torch.stack(part, 1) for part in zip(*layers, strict=True))


def _kernels(device: torch.device) -> AbstractContextManager:
    """Without oneDNN where autocast asks for bfloat16 on a CPU that does not compute in it: there its LSTM fails, and
    torch's own does not."""
    if device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.backends.mkldnn.is_available() \
            and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.backends.mkldnn.flags(enabled=False)
    return nullcontext()


class LSTM(Recurrent):
    """Long short-term memory, as torch.nn.LSTM. State: hidden states and cells.

    Args:
        vocab_size: number of tokens
        n_layer: number of layers
        d_model: width of the embedding, and of the hidden state and the cell of each layer
    """

    rnn_class, parts = nn.LSTM, 2

    def cell(self, inputs: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> tuple[Tensor, ...]:
        return torch.lstm_cell(inputs, state, *weights)


class GRU(Recurrent):
    """Gated recurrent units, as torch.nn.GRU. State: hidden states.

    Args:
        vocab_size: number of tokens
        n_layer: number of layers
        d_model: width of the embedding and of the hidden state of each layer
    """

    rnn_class, parts = nn.GRU, 1

    def cell(self, inputs: Tensor, state: tuple[Tensor, ...], weights: list[Tensor]) -> tuple[Tensor, ...]:
        return (torch.gru_cell(inputs, *state, *weights),)
