"""What makes a memory of Mamba's families fade whatever it reads: a floor under the step sizes, and fewer taps.

With step sizes delta at least `floor`, exp(delta A) is at most exp(floor A), a constant below 1 (A is negative): of two
states the difference is less by that factor after every token, whatever the tokens. A convolution of K taps looks back
K - 1 tokens, undamped, in every layer: with several in the first layers alone that reach does not grow with the depth.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from length_gen.lightning_modules.backbones.convolution import causal_convolution
from length_gen.lightning_modules.backbones.layered import Layer
from length_gen.tools import UserError


def step_sizes(dt: Tensor, floor: float) -> Tensor:
    """delta = softplus(dt) + floor, for every way through a block but kernels that have no floor."""
    delta = F.softplus(dt)
    return delta + floor if floor else delta


def start_bias(width: int, dt_min: float, dt_max: float) -> Tensor:
    """Biases [width] whose softplus is drawn from dt_min to dt_max, evenly in its logarithm; none is below 1e-4."""
    dt = torch.exp(torch.rand(width) * math.log(dt_max / dt_min) + math.log(dt_min)).clamp(min=1e-4)
    return dt + torch.log(-torch.expm1(-dt))  # the inverse of softplus


class FadingMixer(Layer):
    """A mixer with a causal depthwise convolution, `conv1d`, of few taps, and with a floor under its step sizes.

    taps: None: all `d_conv` of the convolution
    """

    conv1d: nn.Conv1d

    def __init__(self, d_conv: int, dt_floor: float, taps: int | None) -> None:
        super().__init__()
        self.d_conv, self.dt_floor, self.taps = d_conv, dt_floor, d_conv if taps is None else taps

    def convolution(self, width: int) -> nn.Conv1d:
        """A convolution over `width` channels, to be `conv1d`, whose weights are 0 for the taps that are left out."""
        conv1d = nn.Conv1d(width, width, self.d_conv, groups=width, padding=self.d_conv - 1)
        with torch.no_grad():
            conv1d.weight[..., : self.d_conv - self.taps] = 0  # also for whom reads the weights alone
        return conv1d

    @property
    def filter(self) -> Tensor:
        """Weights of the convolution, [D, d_conv], the latest token's last, with 0 for all but the last `taps`.

        Those that are left out get no gradient, so that no optimiser moves them from 0, where they are in the
        parameters.
        """
        left_out = self.d_conv - self.taps
        weight = self.conv1d.weight[:, 0]
        return F.pad(weight[:, left_out:], (left_out, 0)) if left_out else weight

    def _convolve(self, x: Tensor, recent: Tensor) -> tuple[Tensor, Tensor]:
        """silu(causal depthwise convolution) of x [B, T, D] after the inputs `recent` [B, d_conv - 1, D], and the new
        `recent`."""
        return causal_convolution(x, recent, self.filter, self.conv1d.bias)


def layer_taps(name: str, taps: list[int] | None, n_layer: int, d_conv: int) -> list[int]:
    """Taps of each layer's convolution. Raises UserError for none, and for such as are not from 1 to `d_conv`."""
    taps = [d_conv] if taps is None else taps
    if not taps or not all(1 <= kept <= d_conv for kept in taps):
        raise UserError(f"{name} taps {taps} are not allowed: expected numbers from 1 to {d_conv} (d_conv), one a "
                        f"layer, the last of which goes for all layers after it")
    return (taps + taps[-1:] * n_layer)[:n_layer]
