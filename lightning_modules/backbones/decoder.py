"""Decoding: steps of a fixed number of rows whose states stay in place, so that a CUDA graph can hold a step."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map, tree_map_


class Decoder(ABC):
    """Steps of a fixed number of rows; the states are its own, and are changed in place.

    backbone: whose formulas it computes, with its own weights where it has others
    prefills: whether some rows can take several tokens at once faster than step by step
    """

    prefills = True

    def __init__(self, backbone) -> None:
        self.backbone = backbone

    @abstractmethod
    def step(self, tokens: Tensor) -> Tensor:
        """Logits [B, V] after one more token a row, int64 [B]. It never waits for the device."""

    @abstractmethod
    def reset(self, rows: Tensor) -> None:
        """Give these rows, int64 [k], the initial state."""

    @abstractmethod
    def state_of(self, rows: Tensor) -> Any:
        """A copy of the state of these rows, int64 [k], from which the backbone can go on."""

    @abstractmethod
    def set_state(self, rows: Tensor, state: Any) -> None:
        """Give these rows, int64 [k], a state that the backbone has left; all other rows stay."""

    def context(self) -> AbstractContextManager:
        """In which the backbone computes a pass as the steps compute."""
        return nullcontext()

    def prefill(self, rows: Tensor, tokens: Tensor) -> None:
        """Let these rows, int64 [k], take `tokens`, int64 [k, T], as T steps would; all other rows stay.

        States are written when all else is done, so that what the memory is not enough for changes nothing.
        """
        with self.context():
            state = self.backbone.prefill(tokens, self.state_of(rows))
        self.set_state(rows, state)

    def look_ahead(self, rows: Tensor, tokens: Tensor) -> tuple[Tensor, Any]:
        """Logits [k, T, V] that T steps would give these rows, and the state after them; all rows stay as they are."""
        with self.context():
            return self.backbone(tokens, self.state_of(rows))


class StepDecoder(Decoder):
    """Any backbone, by its own `step`.

    length:  tokens that a row may have, for which a growing memory makes room
    weights: type of the weights, and so of the states; for another than the backbone's it is copied
    """

    def __init__(self, backbone, rows: int, length: int, weights: torch.dtype = torch.float32) -> None:
        if next(backbone.parameters()).dtype != weights:
            backbone = copy.deepcopy(backbone).to(weights)
        super().__init__(backbone)
        self.initial = backbone.initial_state(1)
        self.state = backbone.reserve(backbone.initial_state(rows), length)

    def step(self, tokens: Tensor) -> Tensor:
        logits, state = self.backbone.step(tokens, self.state)
        if all(map(_same_shape, tree_leaves(self.state), tree_leaves(state))):
            tree_map_(_keep, self.state, state)
        else:  # a memory that has grown, as rows without a problem can make it; never in a graph
            self.state = state
        return logits

    def reset(self, rows: Tensor) -> None:
        tree_map_(lambda state, initial: state.index_copy_(0, rows, initial.expand(len(rows), *state.shape[1:])
                                                           .to(state.dtype)), self.state, self.initial)

    def state_of(self, rows: Tensor) -> Any:
        return tree_map(lambda leaf: leaf.index_select(0, rows), self.state)

    def set_state(self, rows: Tensor, state: Any) -> None:
        state = tree_map(lambda old, new: new.to(old.dtype), self.state, state)
        tree_map_(lambda old, new: old.index_copy_(0, rows, new), self.state, state)

    def keep(self, rows: Tensor) -> None:
        """Drop all rows but these, int64 [k]."""
        self.state = self.state_of(rows)


class MixedDecoder(StepDecoder):
    """Steps with the weights and inputs of linear maps in `weights`, and all else in float32, as in training.

    Decays, angles and writes that a state sums up over a whole row have too few digits in bfloat16. For Mamba-2,
    Mamba-3, Gated DeltaNet and xLSTM. In float64 everything is.
    """

    def __init__(self, backbone, rows: int, length: int, weights: torch.dtype) -> None:
        full = max(weights, torch.float32, key=lambda dtype: dtype.itemsize)
        super().__init__(backbone, rows, length, full)
        self.weights = weights
        if weights == full:
            return
        self.backbone = copy.deepcopy(self.backbone)
        tables = [module.weight for module in self.backbone.modules() if isinstance(module, nn.Embedding)]
        for module in self.backbone.modules():
            # A head that shares the embedding's weights stays as it is: the residual stream is in their type.
            if isinstance(module, nn.Linear) and not any(module.weight is table for table in tables):
                module.to(weights).register_forward_pre_hook(lambda _, inputs: (inputs[0].to(weights), *inputs[1:]))

    def context(self) -> AbstractContextManager:
        device = next(self.backbone.parameters()).device.type
        return torch.autocast(device, self.weights, enabled=self.weights.itemsize < 4)


def device_guard(device: torch.device) -> AbstractContextManager:
    """Makes `device` the current one, on which streams, graphs and Triton's kernels are, wherever their tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def capture(step: Callable[[], object], stream: torch.cuda.Stream | None = None) -> torch.cuda.CUDAGraph:
    """A CUDA graph of what `step` launches, run three times before, for what is compiled at the first call.

    The device of `step` must be the current one, see `device_guard`.
    """
    stream = stream or torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    return graph


def _same_shape(old: Tensor, new: Tensor) -> bool:
    return old.shape == new.shape


def _keep(old: Tensor, new: Tensor) -> None:
    if old is not new:
        old.copy_(new)
