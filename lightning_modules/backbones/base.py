"""The interface that every backbone, recurrent or not, offers."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map

from length_gen.lightning_modules.backbones.decoder import Decoder, StepDecoder
from length_gen.tools import UserError

MOST_LAYERS, LARGEST = 10_000, 2**24

State = Any
"""A pytree (lists, tuples, dicts) of tensors whose first dimension is the batch."""


class Backbone(nn.Module, ABC):
    """A causal language model with an explicit state.

    `forward` at once, `forward` in chunks of any size, and repeated `step` give the same logits. The constructor's
    first argument is the size of the vocabulary, so that a configuration can leave it out; it raises UserError for
    settings that are not possible.

    capturable: whether `step` can be captured in a CUDA graph, once `reserve` made room for all of its tokens
    forwards:   methods beside `forward` that a training step calls, for which a sharded model gathers its parameters
    """

    capturable = True
    forwards = ("logits_at",)

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """State before the first token, for `batch_size` rows, on the model's device.

        It broadcasts to every later state: where a memory grows with the tokens, its dimension is 1 at first.
        """

    def reserve(self, state: State, length: int) -> State:
        """The same state with room for `length` tokens in all, so that `step` leaves its shapes as they are.

        Without it a growing memory doubles when it is full, which a CUDA graph cannot. A fixed memory has room anyway.
        """
        return state

    @abstractmethod
    def forward(self, tokens: Tensor, state: State | None = None, return_state: bool = True) -> tuple[Tensor, State]:
        """Logits [B, T, V] after each of `tokens` [B, T], and the state after the last.

        state:        where to go on from; None is the initial state. It is not modified. Raises UserError if it is
                      not one of this backbone or has not as many rows as `tokens`.
        return_state: False lets a backbone take a faster way that leaves no state (then None is returned for it)
        """

    def logits_at(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        """Logits [k, V] after the k of `tokens` [B, T] that `chosen`, bool [B, T], marks, from the initial state.

        A large vocabulary takes most of the memory of training; a backbone can leave out the head for the others.
        """
        return self(tokens, return_state=False)[0][chosen]

    def prefill(self, tokens: Tensor, state: State) -> State:
        """The state after `tokens` [B, T] from `state`, as `forward` leaves it; a backbone can leave out the head."""
        return self(tokens, state)[1]

    @abstractmethod
    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Logits [B, V] after one token a row, [B], and the new state; safe to capture in a CUDA graph.

        The new state may be the old one, updated in place: do not use `state` afterwards. No gradients.
        """

    def decoder(self, rows: int, length: int, weights: torch.dtype = torch.float32,
                states: torch.dtype = torch.float32) -> Decoder:
        """Steps of `rows` rows of up to `length` tokens each, with the states in place.

        weights, states: types to compute with, float32 or bfloat16, or float64 for both; where a backbone makes no
        difference between the two, its states have the type of the weights
        """
        return StepDecoder(self, rows, length, weights)

    def learn(self, tokens: Tensor, targets: Tensor) -> None:
        """Called with each training batch: tokens [B, T] and next-token targets [B, T], negative where masked."""

    def check_state(self, state: State, rows: int) -> None:
        """Raises UserError unless `state` is one of this backbone, of so many rows."""
        name = type(self).__name__
        leaves, structure = tree_flatten(state)
        initial, expected = tree_flatten(self.initial_state(1))
        if structure != expected or any(not _broadcasts(a, b) for a, b in zip(initial, leaves, strict=True)):
            raise UserError(f"the state is not one of this {name}, but of another backbone or shape: give what its "
                            f"initial_state, forward or step returned")
        if wrong := {leaf.shape[0] for leaf in leaves} - {rows}:
            raise UserError(f"a state of {wrong.pop()} rows cannot go on with {rows} rows of tokens: take {name}"
                            f".initial_state({rows}), or the rows that are meant with select_rows")

    @property
    def description(self) -> str:
        """Name and shape, as results cite them: `mamba 2x64`."""
        return type(self).__name__.lower()

    @property
    def num_parameters(self) -> int:
        """Number of weights, shared ones counted once, frozen ones too."""
        return sum(parameter.numel() for parameter in self.parameters())

    def state_size(self, length: int) -> int:
        """Bytes of one row's state after `length` tokens; does not depend on `length` for a fixed memory."""
        return state_bytes(self.initial_state(1))


def state_bytes(state: State) -> int:
    """Bytes of all tensors of a state."""
    return sum(leaf.numel() * leaf.element_size() for leaf in tree_leaves(state))


def _broadcasts(initial: Tensor, leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and initial.ndim == leaf.ndim and all(
        a in (1, b) for a, b in zip(initial.shape, leaf.shape, strict=True))


def check_sizes(name: str, **sizes: int) -> None:
    """Raises UserError that names the first of `sizes` that is below 1, or larger than any machine could hold."""
    for key, value in sizes.items():
        most = MOST_LAYERS if key == "n_layer" else LARGEST
        if not 1 <= value <= most:
            raise UserError(f"{name} {key} {value} is not allowed: expected at least 1 and at most {most:,}")


def check_step_sizes(name: str, dt_min: float, dt_max: float, dt_floor: float = 0.0) -> None:
    """Raises UserError unless 1e-12 <= dt_min <= dt_max <= 1e12 and 0 <= dt_floor <= 1e12."""
    if not 0 <= dt_floor <= 1e12:
        raise UserError(f"{name} dt_floor {dt_floor} is not allowed: expected a step size from 0 on")
    if not 1e-12 <= dt_min <= dt_max <= 1e12:
        raise UserError(f"{name} dt_min {dt_min} and dt_max {dt_max} are not allowed: expected positive step sizes, "
                        f"the least first")


def select_rows(state: State, rows: Tensor) -> State:
    """The state of some rows, given by their indices, int64 [k], in that order."""
    return tree_map(lambda leaf: leaf.index_select(0, rows), state)


def reset_rows(state: State, rows: Tensor, initial: State) -> State:
    """A state whose `rows`, bool [B], are those of `initial`, and whose others stay."""
    return tree_map(lambda leaf, start: torch.where(rows.view(-1, *[1] * (leaf.ndim - 1)), start, leaf), state, initial)


def computed_in(hidden: Tensor) -> torch.dtype:
    """The type in which linear maps of `hidden` on CUDA come out."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else hidden.dtype
