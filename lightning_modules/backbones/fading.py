"""What makes a memory of Mamba's families fade whatever it reads: a floor under the step sizes, and fewer taps.

With step sizes delta at least `floor`, exp(delta A) is at most exp(floor A), a constant below 1 (A is negative): of two
states the difference is less by that factor after every token, whatever the tokens. A convolution of K taps looks back
K - 1 tokens, undamped, in every layer: with several in the first layers alone that reach does not grow with the depth.
"""

import torch.nn.functional as F
from torch import Tensor

from length_gen.tools import UserError


def step_sizes(dt: Tensor, floor: float) -> Tensor:
    """delta = softplus(dt) + floor, for every way through a block but kernels that have no floor."""
    delta = F.softplus(dt)
    return delta + floor if floor else delta


def latest_taps(weight: Tensor, taps: int) -> Tensor:
    """Weights of a convolution, [D, K], the latest token's last, with 0 for all but the last `taps`.

    Those that are left out get no gradient, so that no optimiser moves them from 0, where they are in the parameters.
    """
    left_out = weight.shape[1] - taps
    return F.pad(weight[:, left_out:], (left_out, 0)) if left_out else weight


def layer_taps(name: str, taps: list[int] | None, n_layer: int, d_conv: int) -> list[int]:
    """Taps of each layer's convolution. Raises UserError for none, and for such as are not from 1 to `d_conv`."""
    taps = [d_conv] if taps is None else taps
    if not taps or not all(1 <= kept <= d_conv for kept in taps):
        raise UserError(f"{name} taps {taps} are not allowed: expected numbers from 1 to {d_conv} (d_conv), one a "
                        f"layer, the last of which goes for all layers after it")
    return (taps + taps[-1:] * n_layer)[:n_layer]
