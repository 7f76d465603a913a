"""The states that training rows start from: the initial one, the end of another row, or that with noise.

A long rollout visits states that no short row leads to. State passing and noise fitted to the states let training visit
more of them (Buitrago and Gu 2025, "Understanding and Improving Length Generalization in Recurrent Models", ICML,
arXiv 2507.02782).
"""

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from lightning_modules.backbones.base import Backbone, State
from tools import UserError


class InitialStates:
    """States for the rows of a batch, made from those that the rows of the batch before ended in.

    passing: share of rows, at random, that start where the row at their place ended
    noise:   standard deviation of normal noise that is added in every row, in units of the root mean square of a
             state's tensor over the rows before

    The first batch, also of a run that goes on from a checkpoint, starts from the initial state, and so does one with
    another number of rows than the one before.
    """

    def __init__(self, backbone: Backbone, passing: float, noise: float) -> None:
        """Raises UserError if a number is out of its range, or the backbone's memory is not numbers of a fixed size."""
        if not 0 <= passing <= 1:
            raise UserError(f"state_passing {passing} is not allowed: expected a share of rows, from 0 to 1")
        if not 0 <= noise < float("inf"):
            raise UserError(f"state_noise {noise} is not allowed: expected a number from 0 on")
        self.backbone, self.passing, self.noise = backbone, passing, noise
        self._ends: State | None = None
        self._rows = 0
        if self and (backbone.state_size(1) != backbone.state_size(2)
                     or not all(leaf.is_floating_point() for leaf in tree_leaves(backbone.initial_state(1)))):
            raise UserError(f"state_passing and state_noise are not allowed with {backbone.description}: they need a "
                            f"memory of numbers and of fixed size, such as Mamba's or LSTM's; leave them out")

    def __bool__(self) -> bool:
        """Whether rows start from anything but the initial state."""
        return self.passing > 0 or self.noise > 0

    def draw(self, rows: int) -> State:
        """States of so many rows to start from, without gradients."""
        initial = self.backbone.initial_state(rows)
        if self._rows != rows:
            return initial
        passed = torch.rand(rows) < self.passing

        def start(first: Tensor, end: Tensor) -> Tensor:
            chosen = torch.where(passed.to(end.device).view(-1, *[1] * (end.ndim - 1)), end.to(first.dtype), first)
            if not self.noise:
                return chosen
            return chosen + self.noise * end.square().mean().sqrt().to(first.dtype) * torch.randn_like(first)

        return tree_map(start, initial, self._ends)

    def keep(self, ends: State, rows: int) -> None:
        """What the rows of a batch ended in."""
        self._ends, self._rows = tree_map(lambda leaf: leaf.detach().clone(), ends), rows
