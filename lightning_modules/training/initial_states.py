"""The states that training rows start from: the initial one, the end of another row, or that with noise.

A long rollout visits states that no short row leads to. State passing and noise fitted to the states let training visit
more of them (Buitrago and Gu 2025, "Understanding and Improving Length Generalization in Recurrent Models", ICML,
arXiv 2507.02782).
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from length_gen.lightning_modules.backbones.base import Backbone, State
from length_gen.tools import UserError


class InitialStates:
    """States for the rows of a batch, made from those that the rows of the batch before ended in.

    passing: share of rows, at random, that start where the row at their place ended; where there were fewer rows, their
             places are gone through again
    noise:   standard deviation of normal noise that is added in every row, in units of the root mean square of a
             state's tensor over the rows before

    The first batch starts from the initial state. What is drawn follows from torch's seed when this is made, the rank
    and the number of the batch. A row ends after its padding. On CUDA a Mamba that starts from a state is trained with
    mamba-ssm's scan, not the suite's faster one.
    """

    def __init__(self, backbone: Backbone, passing: float, noise: float) -> None:
        """Raises UserError if a number is out of its range, or the backbone's memory is not numbers of a fixed size."""
        if not 0 <= passing <= 1:
            raise UserError(f"state_passing {passing} is not allowed: expected a share of rows, from 0 to 1")
        if not 0 <= noise < float("inf"):
            raise UserError(f"state_noise {noise} is not allowed: expected a number from 0 on")
        self.passing, self.noise = passing, noise
        self._seed, self._batches = torch.initial_seed(), 0
        self._ends: State | None = None
        # Of one row, and taken now: later the parameters, which it is made like, may be sharded.
        self._initial = backbone.initial_state(1) if self else None
        if self and (backbone.state_size(1) != backbone.state_size(2)
                     or not all(leaf.is_floating_point() for leaf in tree_leaves(self._initial))):
            raise UserError(f"state_passing and state_noise are not allowed with {backbone.description}: they need a "
                            f"memory of numbers and of fixed size, such as Mamba's or LSTM's; leave them out")

    def __bool__(self) -> bool:
        """Whether rows start from anything but the initial state."""
        return self.passing > 0 or self.noise > 0

    def draw(self, rows: int, device: torch.device) -> State:
        """States of so many rows to start from, without gradients."""
        initial = tree_map(lambda leaf: leaf.detach().to(device).repeat(rows, *[1] * (leaf.ndim - 1)), self._initial)
        self._batches += 1
        if self._ends is None:
            return initial
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        generator = torch.Generator(device).manual_seed(hash((self._seed, rank, self._batches)) % 2**63)
        passed = torch.rand(rows, generator=generator, device=device) < self.passing

        def start(first: Tensor, end: Tensor) -> Tensor:
            end = end.to(first)
            end = end[torch.arange(rows, device=end.device) % len(end)]
            chosen = torch.where(passed.view(-1, *[1] * (end.ndim - 1)), end, first)
            if not self.noise:
                return chosen
            noise = torch.empty_like(first).normal_(generator=generator)
            return chosen + self.noise * end.square().mean().sqrt() * noise

        return tree_map(start, initial, self._ends)

    def keep(self, ends: State) -> None:
        """Take the states that the rows of a batch ended in, for the next `draw`."""
        self._ends = tree_map(lambda leaf: leaf.detach().clone(), ends)

    def state_dict(self) -> dict[str, Any]:
        """What a run that goes on from a checkpoint needs; of several ranks each goes on with that of the first."""
        return {"batches": self._batches, "ends": self._ends}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take on the states that `state_dict` gave, so that the next batch starts from what it would have."""
        self._batches, self._ends = state["batches"], state["ends"]
