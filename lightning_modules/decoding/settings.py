"""How rollouts are decoded: engine, precision, and how tokens are drawn."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.tools import Tool, UserError
from length_gen.tools.batched import can_batch

ENGINES = ("auto", "device", "host", "draft")

MOST_TOKENS = 2**15 - 1
"""Memories and logs on the device hold ids of 16 bits."""

LOWEST_TEMPERATURE = 1e-30
"""Float32 can still divide by it."""

TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


@dataclass(frozen=True)
class Decoding:
    """How rollouts are decoded. Raises UserError for a setting that is not possible.

    Args:
        engine: `device`: no host between two tokens, for tools of one token a call (pointer memory, tape); `host`: any
            tool, asked token by token; `draft`: as host, but where a caller knows what a row is likely to say, such as
            the reference trajectory, the model checks hundreds of tokens in a pass, and steps decide all that differs:
            the same tokens, greedy and not in bfloat16; `auto`: device where it can and there is a GPU (on a CPU, where
            small tensor operations cost more than plain Python, only to draw tokens), else draft on a CPU, else host
        weights: type of the weights, float32, bfloat16 or float64; a model that is in float64 computes in it always
        states: type of the states, float64 where the weights are; where a backbone makes no difference between the two,
            that of the weights counts
        temperature: 0 is greedy; else tokens are drawn from the softmax of the logits over it
        seed: of the draws, from which each problem gets a seed of its own
    """

    engine: str = "auto"
    weights: str = "float32"
    states: str = "float32"
    temperature: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"unknown engine {self.engine!r}: the engines are {', '.join(ENGINES)}")
        for name in (self.weights, self.states):
            if name not in TYPES:
                raise UserError(f"unknown type {name!r} of weights or states: expected {', '.join(TYPES)}")
        if (self.weights == "float64") != (self.states == "float64"):
            raise UserError(f"weights {self.weights} with states {self.states} cannot be: give float64 for both")
        if not (self.temperature == 0 or LOWEST_TEMPERATURE <= self.temperature < math.inf):
            raise UserError(f"temperature {self.temperature} is not allowed: expected 0 (greedy), or a number from "
                            f"{LOWEST_TEMPERATURE} on")
        if self.engine == "draft" and not self._exact:
            raise UserError(f"engine draft has no weights {self.weights}, states {self.states}, temperature "
                            f"{self.temperature}: it needs float32 (or float64) for both and 0; or give engine auto "
                            f"or host")

    @property
    def _exact(self) -> bool:
        """Whether passes and steps agree so far that a pass can tell what a step would take."""
        return self.weights == self.states != "bfloat16" and not self.temperature

    def types(self, backbone: Backbone) -> tuple[torch.dtype, torch.dtype]:
        """Types of the weights and of the states."""
        if next(backbone.parameters()).dtype == torch.float64:
            return torch.float64, torch.float64
        return TYPES[self.weights], TYPES[self.states]

    def drafting(self, backbone: Backbone) -> bool:
        """Whether rollouts take drafts."""
        chosen = self.engine == "draft" or (self.engine == "auto" and not next(backbone.parameters()).is_cuda)
        return self._exact and chosen

    def batched(self, backbone: Backbone, tools: Sequence[Tool]) -> bool:
        """Whether rollouts with these tools stay on the device; raises UserError where they were to, but cannot."""
        kinds = {(type(tool), getattr(tool, "pointers", None)) for tool in tools}
        possible = len(kinds) == 1 and can_batch(tools[0]) and backbone.vocab_size <= MOST_TOKENS
        if self.engine == "device" and not possible:
            what = f"no {type(tools[0]).__name__}" if not can_batch(tools[0]) else \
                f"no vocabulary of over {MOST_TOKENS:,} tokens" if len(kinds) == 1 else "one kind of tool at a time"
            raise UserError(f"engine device has {what}: give engine auto or host")
        if self.engine == "auto":
            return possible and (next(backbone.parameters()).is_cuda or self.temperature > 0)
        return self.engine == "device"
