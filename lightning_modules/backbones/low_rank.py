"""Low-rank updates of frozen weights (LoRA, Hu et al. 2021, arXiv 2106.09685, section 4.1), equal to peft's
with the same matrices.

They are parametrizations, W + alpha / r B A in place of W wherever a module's weight is read: the kernels of Mamba read
the weights themselves, which an adapter around the module would not reach (peft refuses Mamba's `out_proj` for that).
"""

import math
import sys
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from length_gen.tools import UserError


class LowRank(nn.Module):
    """W -> W + alpha / rank B A, with A [rank, in] random and B [out, rank] zero at the start.

    transposed: whether the weight is [in, out]
    """

    def __init__(self, weight: Tensor, rank: int, alpha: float, transposed: bool = False) -> None:
        super().__init__()
        outputs, inputs = weight.shape[::-1] if transposed else weight.shape
        self.A = nn.Parameter(weight.new_empty(rank, inputs))
        self.B = nn.Parameter(weight.new_zeros(outputs, rank))
        self.scale, self.transposed = alpha / rank, transposed
        self._merged: tuple[tuple, Tensor] | None = None
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        """The updated weight, of the shape and type of `weight`; without training and gradients it is kept until a
        matrix changes."""
        if self.training or torch.is_grad_enabled():
            return self._sum(weight)
        # In an evaluation the sum is made once, not once a step.
        key = tuple((x.data_ptr(), x.device, -1 if x.is_inference() else x._version) for x in (weight, self.A, self.B))
        if self._merged is None or self._merged[0] != key:
            self._merged = key, self._sum(weight)
        return self._merged[1]

    def _sum(self, weight: Tensor) -> Tensor:
        update = self.B @ self.A
        return weight + self.scale * (update.t() if self.transposed else update).to(weight.dtype)

    def train(self, mode: bool = True) -> "LowRank":
        self._merged = None
        return super().train(mode)


def add_low_rank(model: nn.Module, rank: int, alpha: float, targets: Sequence[str] | None) -> None:
    """Freeze all weights of `model` and give linear maps a trainable update.

    targets: last parts of the names of the maps that get one; None: every linear map but the head

    Raises UserError for sizes below 1, for names that no linear map has, and where there is no linear map.
    """
    if rank < 1 or alpha <= 0:
        raise UserError(f"lora_rank {rank}, lora_alpha {alpha} are not allowed: expected a rank from 1 on and an alpha "
                        f"above 0")
    heads = {"lm_head", "embed_out"}
    maps = {name: module for name, module in model.named_modules()
            if isinstance(module, _linear_maps()) and name.split(".")[-1] not in heads}
    names = sorted({name.split(".")[-1] for name in maps})
    if targets is not None and (wrong := [target for target in targets if target not in names]):
        raise UserError(f"lora_targets {wrong[0]!r} is no linear map of this model: expected some of "
                        f"{', '.join(names)}")
    chosen = {name: module for name, module in maps.items() if targets is None or name.split(".")[-1] in targets}
    if not chosen:
        raise UserError("lora_rank would train nothing: " + ("lora_targets is empty, give null for all linear maps or "
                        f"some of {', '.join(names)}" if names else "the model has no linear maps but its head; leave "
                        "lora_rank out to train all weights"))
    model.requires_grad_(False)
    for module in chosen.values():
        transposed = not isinstance(module, nn.Linear)
        parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank, alpha, transposed))


def _linear_maps() -> tuple[type[nn.Module], ...]:
    """Also GPT-2's, whose weight is [in, out]; its class is there where a model of transformers is."""
    module = sys.modules.get("transformers.pytorch_utils")
    return (nn.Linear, module.Conv1D) if module else (nn.Linear,)


def trained_text(model: nn.Module) -> str:
    """One line on what is trained and what stays as it is; empty where all weights are trained."""
    sizes = {True: 0, False: 0}
    names: dict[str, dict[str, None]] = {"updated": {}, "trained": {}, "frozen": {}}  # without the layers' numbers
    for name, parameter in model.named_parameters():
        sizes[parameter.requires_grad] += parameter.numel()
        stem, _, update = name.partition(".parametrizations.weight")
        short = ".".join(part for part in stem.removesuffix(".weight").split(".") if not part.isdigit())
        if not update and (parameter.requires_grad or parameter.ndim > 1):
            names["trained" if parameter.requires_grad else "frozen"][".".join(short.split(".")[-2:])] = None
        elif update:
            names["updated"][short.split(".")[-1]] = None
    if not sizes[False]:
        return ""
    said = {"updated": "low-rank updates of", "trained": "in full", "frozen": "frozen"}
    parts = [f"{said[kind]} {', '.join(found)}" for kind, found in names.items() if found]
    return f"trained are {sizes[True]:,} of {sum(sizes.values()):,} weights: {'; '.join(parts)}"


@torch.no_grad()
def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The model's weights with the updates in them, under the names that they have without."""
    weights = {name: tensor for name, tensor in model.state_dict().items() if ".parametrizations." not in name}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            weights[f"{name}.weight"] = module.weight
    return weights
