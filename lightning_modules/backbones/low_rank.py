"""Low-rank updates of frozen weights (LoRA, Hu et al. 2021, arXiv 2106.09685), equal to peft's with the same matrices.

They are parametrizations, W + alpha / r B A in place of W wherever a module's weight is read: the kernels of Mamba read
the weights themselves, which an adapter around the module would not reach (peft refuses Mamba's `out_proj` for that).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tools import UserError


class LowRank(nn.Module):
    """W -> W + alpha / rank B A, with A [rank, in] random and B [out, rank] zero at the start."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        self.A = nn.Parameter(weight.new_empty(rank, weight.shape[1]))
        self.B = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        self.scale = alpha / rank
        self._merged: tuple[tuple, Tensor] | None = None
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return self._sum(weight)
        # In an evaluation the sum is made once, not once a step.
        key = tuple((x.data_ptr(), x.device, -1 if x.is_inference() else x._version) for x in (weight, self.A, self.B))
        if self._merged is None or self._merged[0] != key:
            self._merged = key, self._sum(weight)
        return self._merged[1]

    def _sum(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.B @ self.A).to(weight.dtype)

    def train(self, mode: bool = True) -> "LowRank":
        self._merged = None
        return super().train(mode)


def add_low_rank(model: nn.Module, rank: int, alpha: float, targets: Sequence[str] | None) -> None:
    """Freeze all weights of `model` and give linear maps a trainable update.

    targets: last parts of the names of the maps that get one; None: every linear map but the head

    Raises UserError for sizes below 1 and for names that no linear map has.
    """
    if rank < 1 or alpha <= 0:
        raise UserError(f"lora_rank {rank}, lora_alpha {alpha} are not allowed: expected a rank from 1 on and an alpha "
                        f"above 0")
    heads = {"lm_head", "embed_out"}
    maps = {name: module for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and name.split(".")[-1] not in heads}
    names = sorted({name.split(".")[-1] for name in maps})
    if targets is not None and (wrong := [target for target in targets if target not in names]):
        raise UserError(f"lora_targets {wrong[0]!r} is no linear map of this model: expected some of "
                        f"{', '.join(names)}")
    model.requires_grad_(False)
    for name, module in maps.items():
        if targets is None or name.split(".")[-1] in targets:
            parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank, alpha))


@torch.no_grad()
def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights with the updates in them, under the names that they have without."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if ".parametrizations." not in name}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            weights[f"{name}.weight"] = module.weight
    return weights
