"""Mamba-3 (Lahoti et al. 2026, arXiv 2603.15569), single input and output, with mamba-ssm's parameter names.

    S_t = a_t S_{t-1} + a_t dt_t (1 - l_t) v_{t-1} k_{t-1}^T + dt_t l_t v_t k_t^T      a_t = exp(dt_t A_t)
    y_t = S_t q_t + D v_t

with k and q rotated by angles that add up over time, dt_t pi tanh(theta_t): a trapezoidal rule in place of Mamba-2's
Euler step, and a complex in place of a real decay. mamba-ssm has the kernels for CUDA, which compute in bfloat16;
elsewhere, and in float32, it is two of Mamba-2's chunked scans.
"""

import functools
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from length_gen.lightning_modules.backbones.base import check_sizes, check_step_sizes, computed_in
from length_gen.lightning_modules.backbones.decoder import Decoder, MixedDecoder
from length_gen.lightning_modules.backbones.fading import start_bias
from length_gen.lightning_modules.backbones.layered import Layer, LayeredBackbone
from length_gen.lightning_modules.backbones.library_kernels import import_kernels
from length_gen.lightning_modules.backbones.mamba2 import decay_scan
from length_gen.tools import UserError

State = tuple[Tensor, Tensor, Tensor, Tensor]


class Mamba3(LayeredBackbone):
    """Embedding, `n_layer` blocks of norm and mixer on a residual stream, norm, head.

    Args:
        vocab_size: number of tokens
        n_layer: number of blocks
        d_model: width of the residual stream
        d_inner: width inside a block; null: 2 d_model
        d_state: width of keys and queries, a multiple of 4; for mamba-ssm's kernels a power of two
        head_dim: channels of a head; d_inner is a multiple of it
        rope_share: share of keys and queries that is rotated, 0.5 or 1
        tie_embeddings: whether the head shares the embedding's weights
        dt_min, dt_max: range of the step sizes at the start
        initializer_range: standard deviation of the embedding at the start
        norm_eps: of the RMS norms between blocks
    """

    def __init__(self, vocab_size: int, n_layer: int = 2, d_model: int = 64, d_inner: int | None = None,
                 d_state: int = 32, head_dim: int = 16, rope_share: float = 0.5, tie_embeddings: bool = True,
                 dt_min: float = 0.001, dt_max: float = 0.1, initializer_range: float = 0.02,
                 norm_eps: float = 1e-5) -> None:
        super().__init__(vocab_size)
        d_inner = 2 * d_model if d_inner is None else d_inner
        check_sizes("Mamba3", n_layer=n_layer, d_model=d_model, d_inner=d_inner, d_state=d_state, head_dim=head_dim)
        check_step_sizes("Mamba3", dt_min, dt_max)
        if d_inner % head_dim:
            raise UserError(f"Mamba3 head_dim {head_dim} does not divide d_inner {d_inner}: give a divisor of it")
        if d_state % 4 or rope_share not in (0.5, 1.0):
            raise UserError(f"Mamba3 d_state {d_state}, rope_share {rope_share} are not allowed: expected a multiple "
                            f"of 4, and 0.5 or 1")
        mixers = (Mixer3(d_model, d_inner, d_state, head_dim, rope_share, dt_min, dt_max) for _ in range(n_layer))
        self.stack(d_model, mixers, norm_eps, initializer_range, tie_embeddings)

    def decoder(self, rows: int, length: int, weights: torch.dtype = torch.float32,
                states: torch.dtype = torch.float32) -> Decoder:
        return MixedDecoder(self, rows, length, weights)


class Mixer3(Layer):
    """The Mamba-3 block. State: angles [B, H, R], S [B, H, P, N], the last token's k [B, H, N] and v [B, H, P]."""

    FLOOR = 1e-4
    """The slowest decay: A is at most -FLOOR."""

    def __init__(self, d_model: int, d_inner: int, d_state: int, head_dim: int, rope_share: float, dt_min: float,
                 dt_max: float) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.head_dim, self.n_heads = d_inner, d_state, head_dim, d_inner // head_dim
        self.n_angles = int(d_state * rope_share) // 2
        self.in_proj = nn.Linear(d_model, 2 * d_inner + 2 * d_state + 3 * self.n_heads + self.n_angles, bias=False)
        self.dt_bias = nn.Parameter(start_bias(self.n_heads, dt_min, dt_max))
        self.B_bias, self.C_bias = (nn.Parameter(torch.ones(self.n_heads, 1, d_state)) for _ in range(2))
        self.B_norm, self.C_norm = nn.RMSNorm(d_state, 1e-5), nn.RMSNorm(d_state, 1e-5)
        self.D = nn.Parameter(torch.ones(self.n_heads))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.B_bias._no_weight_decay = self.C_bias._no_weight_decay = True

    def initial_state(self, batch_size: int) -> State:
        new = functools.partial(self.D.new_zeros, batch_size, self.n_heads)
        return new(self.n_angles), new(self.head_dim, self.d_state), new(self.d_state), new(self.head_dim)

    def forward(self, hidden: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        z, v, k, q, dt, decay, trapezoid, angles = self._inputs(hidden)
        kernel = hidden.is_cuda and computed_in(hidden).itemsize == 2 and self.d_state & (self.d_state - 1) == 0
        if kernel and (combined := cuda_kernel()):
            result = combined(q[:, :, None], k[:, :, None], v, decay.mT, dt.mT, trapezoid.mT, self.C_bias[:, 0].float(),
                              self.B_bias[:, 0].float(), angles[:, :, None].expand(-1, -1, self.n_heads, -1),
                              self.D.float(), z, state, 64, state is not None)
            if state is None:
                return self.out_proj(result.flatten(-2)), None
            y, *new = result
            return self.out_proj(y.flatten(-2)), tuple(x.to(self.D.dtype) for x in new)
        first = self.initial_state(len(hidden)) if state is None else state
        # In float64, since a sum over a long chunk of tokens has few digits left for the angle.
        sums = first[0][:, None] + self._turns(angles, dt).double().cumsum(1)
        turns = torch.remainder(sums, 2 * math.pi).to(dt.dtype)
        k, q = (_rotate(part[:, :, None] + bias[:, 0], turns)
                for part, bias in ((k, self.B_bias), (q, self.C_bias)))
        share = torch.sigmoid(trapezoid)
        earlier_k, earlier_v = (torch.cat([before[:, None], part[:, :-1]], 1)
                                for before, part in ((first[2], k), (first[3], v)))
        y, S = decay_scan(v * (dt * share)[..., None], decay, k, q, first[1])
        rest, more = decay_scan(earlier_v * (decay.exp() * dt * (1 - share))[..., None], decay, earlier_k, q,
                                torch.zeros_like(S))
        y = (y + rest + self.D[:, None] * v) * F.silu(z)
        new = None if state is None else (turns[:, -1].clone(), S + more, k[:, -1].clone(), v[:, -1].clone())
        return self.out_proj(y.flatten(-2)), new

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        turns, S, earlier_k, earlier_v = state
        z, v, k, q, dt, decay, trapezoid, angles = self._inputs(hidden)
        turns.copy_(torch.remainder(turns + self._turns(angles, dt), 2 * math.pi))
        k, q = (_rotate(part[:, None] + bias[:, 0], turns) for part, bias in ((k, self.B_bias), (q, self.C_bias)))
        share, kept = torch.sigmoid(trapezoid), decay.exp()
        S.mul_(kept[..., None, None])
        S.addcmul_((earlier_v * (kept * dt * (1 - share))[..., None])[..., None], earlier_k[:, :, None])
        S.addcmul_((v * (dt * share)[..., None])[..., None], k[:, :, None])
        earlier_k.copy_(k)
        earlier_v.copy_(v)
        y = ((S @ q[..., None]).squeeze(-1) + self.D[:, None] * v) * F.silu(z)
        return self.out_proj(y.flatten(-2)), state

    def _inputs(self, hidden: Tensor) -> tuple[Tensor, ...]:
        """Gate and values [..., H, P], keys and queries [..., N], step sizes, log decays and what the share of the
        trapezoid is the sigmoid of [..., H], angles [..., R]; all but the projection in the parameters' type."""
        heads = self.n_heads
        sizes = [self.d_inner, self.d_inner, self.d_state, self.d_state, heads, heads, heads, self.n_angles]
        z, v, k, q, dt, A, trapezoid, angles = self.in_proj(hidden).to(self.D.dtype).split(sizes, -1)
        z, v = (part.unflatten(-1, (heads, self.head_dim)) for part in (z, v))
        dt = F.softplus(dt + self.dt_bias)
        decay = (-F.softplus(A)).clamp(max=-self.FLOOR) * dt
        return z, v, self.B_norm(k), self.C_norm(q), dt, decay, trapezoid, angles

    @staticmethod
    def _turns(angles: Tensor, dt: Tensor) -> Tensor:
        """What each token adds to the angles of each head, [..., H, R]."""
        return torch.tanh(angles)[..., None, :] * math.pi * dt[..., None]


def _rotate(x: Tensor, turns: Tensor) -> Tensor:
    """The first 2 R channels of [..., N], paired as neighbours, rotated by angles [..., R]."""
    width = 2 * turns.shape[-1]
    first, second = x[..., 0:width:2], x[..., 1:width:2]
    cos, sin = turns.cos(), turns.sin()
    rotated = torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)
    return torch.cat([rotated, x[..., width:]], -1)


@functools.cache
def cuda_kernel() -> Callable | None:
    """mamba-ssm's `mamba3_siso_combined`, or None with a warning where it cannot be imported."""
    kernels = import_kernels("mamba_ssm.ops.triton.mamba3.mamba3_siso_combined")[0]
    return kernels and kernels.mamba3_siso_combined
