"""Mamba-1 with attention at chosen layers, as mamba-ssm's `attn_layer_idx` and the paper's Hybrid-Mamba have it."""

import math
from collections.abc import Sequence

from length_gen.lightning_modules.backbones.attention import Cache, head_width
from length_gen.lightning_modules.backbones.base import check_sizes, check_step_sizes
from length_gen.lightning_modules.backbones.layered import LayeredBackbone
from length_gen.lightning_modules.backbones.mamba import Mixer
from length_gen.lightning_modules.backbones.mistral import SelfAttention
from length_gen.tools import UserError


class Hybrid(LayeredBackbone):
    """Blocks of norm and mixer on a residual stream; the mixer is Mamba's, at chosen layers attention.

    With full attention (no `window`) its memory grows with every token, so it is none of the fixed memories of the
    paper's Theorem 2.1.

    Args:
        vocab_size: number of tokens
        n_layer: number of blocks
        d_model: width of the residual stream
        attention: layers whose mixer is attention, counted from 0
        n_head: query heads; d_model is a multiple of it
        n_kv_head: key and value heads; null: n_head, which is a multiple of it
        window: tokens that attention sees, itself included; null: all
        rope_theta: base of the rotary wavelengths
        d_inner: width inside a Mamba block; null: 2 d_model
        d_state: state of each inner channel
        d_conv: width of the convolution
        dt_rank: rank of the step size; null: d_model / 16, rounded up
        tie_embeddings: whether the head shares the embedding's weights
        dt_min, dt_max: range of the step sizes at the start
        initializer_range: standard deviation of the embedding at the start
        norm_eps: of the RMS norms
    """

    def __init__(self, vocab_size: int, n_layer: int = 4, d_model: int = 64, attention: Sequence[int] = (1,),
                 n_head: int = 4, n_kv_head: int | None = None, window: int | None = None,
                 rope_theta: float = 10_000.0, d_inner: int | None = None, d_state: int = 16, d_conv: int = 4,
                 dt_rank: int | None = None, tie_embeddings: bool = True, dt_min: float = 0.001, dt_max: float = 0.1,
                 initializer_range: float = 0.02, norm_eps: float = 1e-5) -> None:
        super().__init__(vocab_size)
        n_kv_head = n_head if n_kv_head is None else n_kv_head
        d_inner = 2 * d_model if d_inner is None else d_inner
        dt_rank = math.ceil(d_model / 16) if dt_rank is None else dt_rank
        check_sizes("Hybrid", n_layer=n_layer, d_model=d_model, d_inner=d_inner, n_head=n_head, n_kv_head=n_kv_head,
                    d_state=d_state, d_conv=d_conv, dt_rank=dt_rank, window=1 if window is None else window)
        check_step_sizes("Hybrid", dt_min, dt_max)
        if wrong := [i for i in attention if not 0 <= i < n_layer]:
            raise UserError(f"Hybrid attention layer {wrong[0]} is none of its {n_layer} layers: give numbers from 0 "
                            f"to {n_layer - 1}")
        width = head_width("Hybrid", d_model, n_head, n_kv_head)
        cache = Cache(n_kv_head, width, window, rope_theta, width)
        mixers = (SelfAttention(d_model, cache) if i in attention else
                  Mixer(d_model, d_inner, d_state, d_conv, dt_rank, dt_min, dt_max)
                  for i in range(n_layer))
        self.stack(d_model, mixers, norm_eps, initializer_range, tie_embeddings)
