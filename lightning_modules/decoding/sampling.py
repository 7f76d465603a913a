"""Draws of tokens that are a function of a row's seed and its number of tokens, the same on every device."""

import torch
from torch import Tensor


def drawn_from(logits: Tensor, temperature: float, seeds: Tensor, count: Tensor) -> Tensor:
    """Scores, float32 [B, V], whose largest is a draw from softmax(logits / temperature): the Gumbel-max trick.

    seeds, count: int [B], a row's seed and its number of tokens, of which the draw is a function
    """
    # The largest first: at a low temperature nothing else may overflow than what is never drawn.
    logits = logits.float()
    return (logits - logits.amax(1, keepdim=True)) / temperature + gumbel(seeds, count, logits.shape[1])


def gumbel(seeds: Tensor, count: Tensor, size: int) -> Tensor:
    """Gumbel noise, float32 [B, size]: a function of the row's seed and its number of tokens, on any device.

    Between -2.9 and 22.9, so that what is impossible stays so. A large number comes from a `small` share of all draws,
    of which 32 bits tell 2^32 apart, and a logarithm of its complement few: rare tokens keep their frequency. Bits are
    mixed by lowbias32 (Wellons 2018).
    """
    def mix(x: Tensor) -> Tensor:
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
        x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
        return x ^ (x >> 16)

    key = mix(count.long() ^ mix(seeds))[:, None]
    # Once is not enough: the numbers of neighbouring tokens would depend on each other.
    draw = mix(mix(torch.arange(size, device=seeds.device) ^ key) ^ mix(key ^ 0x9E3779B9))
    small = (draw.float() * 2.0**-32 + 2.0**-33).clamp(max=1 - 2.0**-24)
    return -torch.log(-torch.log1p(-small))
