"""Mamba-2 (Dao and Gu 2024, arXiv 2405.21060), with the parameter names and the initialisation of mamba-ssm."""

import functools
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from length_gen.lightning_modules.backbones.base import check_sizes, check_step_sizes
from length_gen.lightning_modules.backbones.decoder import Decoder, MixedDecoder
from length_gen.lightning_modules.backbones.fading import FadingMixer, layer_taps, start_bias, step_sizes
from length_gen.lightning_modules.backbones.layered import LayeredBackbone
from length_gen.lightning_modules.backbones.library_kernels import import_kernels
from length_gen.tools import UserError

State = tuple[Tensor, Tensor]

CHUNK = 32
"""Tokens that the matrix form takes at a time on the CPU."""


class Mamba2(LayeredBackbone):
    """Embedding, `n_layer` blocks of norm and mixer on a residual stream, norm, head.

    Args:
        vocab_size: number of tokens
        n_layer: number of blocks
        d_model: width of the residual stream
        d_inner: width inside a block; null: 2 d_model
        d_state: state of each inner channel
        d_conv: width of the convolution
        head_dim: channels of a head; d_inner is a multiple of it
        n_groups: groups of heads that share input and output matrices
        tie_embeddings: whether the head shares the embedding's weights
        dt_min, dt_max: range of the step sizes at the start
        initializer_range: standard deviation of the embedding at the start
        norm_eps: of the RMS norms
        dt_floor: added to every step size, so that at most exp(dt_floor A) of a state is left after a token: the memory
            fades whatever the input
        taps: how many of the d_conv weights of each layer's convolution are kept, those of the latest tokens; the last
            number is also that of the layers after it. The others are 0 and stay so. null: all are kept
    """

    def __init__(self, vocab_size: int, n_layer: int = 2, d_model: int = 64, d_inner: int | None = None,
                 d_state: int = 32, d_conv: int = 4, head_dim: int = 16, n_groups: int = 1,
                 tie_embeddings: bool = True, dt_min: float = 0.001, dt_max: float = 0.1,
                 initializer_range: float = 0.02, norm_eps: float = 1e-5, dt_floor: float = 0.0,
                 taps: list[int] | None = None) -> None:
        super().__init__(vocab_size)
        check_sizes("Mamba2", n_layer=n_layer, d_model=d_model, d_state=d_state, d_conv=d_conv, head_dim=head_dim,
                    n_groups=n_groups)
        d_inner = 2 * d_model if d_inner is None else d_inner
        check_sizes("Mamba2", d_inner=d_inner)
        check_step_sizes("Mamba2", dt_min, dt_max, dt_floor)
        if d_inner % head_dim:
            raise UserError(f"Mamba2 head_dim {head_dim} does not divide d_inner {d_inner}: give a divisor of it")
        if d_inner // head_dim % n_groups:
            raise UserError(f"Mamba2 n_groups {n_groups} does not divide its {d_inner // head_dim} heads (d_inner / "
                            f"head_dim): give a divisor of them")
        mixers = (Mixer2(d_model, d_inner, d_state, d_conv, head_dim, n_groups, dt_min, dt_max, norm_eps, dt_floor,
                         kept) for kept in layer_taps("Mamba2", taps, n_layer, d_conv))
        self.stack(d_model, mixers, norm_eps, initializer_range, tie_embeddings)

    def decoder(self, rows: int, length: int, weights: torch.dtype = torch.float32,
                states: torch.dtype = torch.float32) -> Decoder:
        return MixedDecoder(self, rows, length, weights)


class GatedNorm(nn.Module):
    """RMS norm of y silu(z), over each group of channels (section 7.1)."""

    def __init__(self, width: int, n_groups: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.n_groups, self.eps = n_groups, eps

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        """y and z, [..., width], to [..., width]."""
        gated = (y * F.silu(z.to(y.dtype))).unflatten(-1, (self.n_groups, -1))
        return F.rms_norm(gated, gated.shape[-1:], eps=self.eps).flatten(-2) * self.weight


class Mixer2(FadingMixer):
    """The Mamba-2 block (section 7). State: the last d_conv - 1 inputs of the convolution [B, d_conv - 1, D + 2 G N],
    and h [B, H, P, N] of H heads of P channels; G groups of heads share their matrices B and C."""

    def __init__(self, d_model: int, d_inner: int, d_state: int, d_conv: int, head_dim: int, n_groups: int,
                 dt_min: float, dt_max: float, norm_eps: float, dt_floor: float = 0.0, taps: int | None = None) -> None:
        super().__init__(d_conv, dt_floor, taps)
        self.d_inner, self.d_state = d_inner, d_state
        self.head_dim, self.n_groups, self.n_heads = head_dim, n_groups, d_inner // head_dim
        width = d_inner + 2 * n_groups * d_state
        self.in_proj = nn.Linear(d_model, d_inner + width + self.n_heads, bias=False)
        self.conv1d = self.convolution(width)
        self.dt_bias = nn.Parameter(start_bias(self.n_heads, dt_min, dt_max))
        self.A_log = nn.Parameter(torch.empty(self.n_heads).uniform_(1, 16).log())
        self.D = nn.Parameter(torch.ones(self.n_heads))
        self.norm = GatedNorm(d_inner, n_groups, norm_eps)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def initial_state(self, batch_size: int) -> State:
        new = self.A_log.new_zeros
        return (new(batch_size, self.d_conv - 1, self.conv1d.out_channels),
                new(batch_size, self.n_heads, self.head_dim, self.d_state))

    def forward(self, hidden: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        projected = self.in_proj(hidden)
        half = projected.dtype != torch.float32  # see `chunk_scan`
        if state is None and half and hidden.is_cuda and not self.dt_floor and (kernels := cuda_kernels()):
            return self._fused(kernels, projected), None
        recent, h = self.initial_state(len(hidden)) if state is None else state
        z, inputs, dt = self._split(projected)
        convolved, recent = self._convolve(inputs, recent)
        x, B, C = self._selection(convolved)
        y, h = chunk_scan(x, dt, self.dt_bias, -torch.exp(self.A_log), B, C, h, self.dt_floor)
        y = (y + self.D[:, None] * x).flatten(-2)
        return self.out_proj(self.norm(y, z)), (recent, h)

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        recent, h = state
        z, inputs, dt = self._split(self.in_proj(hidden))
        inputs = torch.cat([recent, inputs[:, None].to(recent.dtype)], 1)
        weight = self.filter.t()
        x, B, C = self._selection(F.silu(torch.linalg.vecdot(inputs, weight, dim=1) + self.conv1d.bias))
        dt = step_sizes(dt.to(h.dtype) + self.dt_bias, self.dt_floor)
        B, C = (part.repeat_interleave(self.n_heads // self.n_groups, 1) for part in (B, C))
        h.mul_(torch.exp(dt * -torch.exp(self.A_log))[..., None, None])
        h.addcmul_((dt[..., None] * x)[..., None], B[:, :, None])
        y = (h @ C[..., None]).squeeze(-1) + self.D[:, None] * x
        return self.out_proj(self.norm(y.flatten(-2), z)), (recent.copy_(inputs[:, 1:]), h)

    def _split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gate, inputs of the convolution, step sizes before bias and softplus."""
        return projected.split([self.d_inner, self.conv1d.out_channels, self.n_heads], -1)

    def _selection(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs [..., H, P], and matrices B and C [..., G, N]."""
        size = self.n_groups * self.d_state
        x, B, C = convolved.split([self.d_inner, size, size], -1)
        return (x.unflatten(-1, (self.n_heads, self.head_dim)),
                *(part.unflatten(-1, (self.n_groups, self.d_state)) for part in (B, C)))

    def _fused(self, kernels: SimpleNamespace, projected: Tensor) -> Tensor:
        """The rest of the block from the initial state by mamba-ssm's fused kernel, without the last state."""
        return kernels.mamba_split_conv1d_scan_combined(
            projected, self.filter, self.conv1d.bias, self.dt_bias, -torch.exp(self.A_log.float()),
            D=self.D, chunk_size=256, activation="silu", rmsnorm_weight=self.norm.weight, rmsnorm_eps=self.norm.eps,
            outproj_weight=self.out_proj.weight, outproj_bias=None, headdim=self.head_dim, ngroups=self.n_groups,
            norm_before_gate=False)


def chunk_scan(x: Tensor, dt: Tensor, dt_bias: Tensor, A: Tensor, B: Tensor, C: Tensor,
               state: Tensor, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """The state space model of section 3 from any state, with step sizes delta = step_sizes(dt + dt_bias, floor):

        h_t = exp(delta_t A) h_{t-1} + delta_t x_t B_t^T      h: [B, H, P, N]
        y_t = h_t C_t                                         y: [B, T, H, P]

    x [B, T, H, P]; dt [B, T, H]; A [H], negative; B, C [B, T, G, N], each group for H / G heads. Returns y and the last
    state. Half-precision inputs on CUDA take mamba-ssm's kernel. It multiplies float32 in TF32, whose error a long
    problem would not forgive, so float32 takes the matrix form there too.
    """
    if x.is_cuda and x.dtype != torch.float32 and not floor and (kernels := cuda_kernels()):
        return kernels.mamba_chunk_scan_combined(
            x.contiguous(), dt.contiguous(), A.float(), B.contiguous(), C.contiguous(), chunk_size=256,
            dt_bias=dt_bias.float(), dt_softplus=True, initial_states=state.float(), return_final_states=True)
    return matrix_scan(x, step_sizes(dt.to(dt_bias.dtype) + dt_bias, floor), A, B, C, state)


def matrix_scan(x: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """`chunk_scan` in the chunked matrix form (section 6, "SSD"): quadratic within a chunk, a recurrence between
    chunks.

    Shapes as there; delta [B, T, H] are the step sizes, in the parameters' type, in which all is computed.
    """
    return decay_scan(x.to(A.dtype) * delta[..., None], delta * A, B.to(A.dtype), C.to(A.dtype), state)


def decay_scan(x: Tensor, decay: Tensor, B: Tensor, C: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = exp(decay_t) h_{t-1} + x_t B_t^T, y_t = h_t C_t in the chunked matrix form; decay [B, T, H], not above 0.

    The other shapes are those of `chunk_scan`, whose delta is in x and decay here.
    """
    batch, length, heads, width = x.shape
    groups, size = B.shape[2:]
    shape = batch, groups, heads // groups
    chunk = min(CHUNK, length)
    count = -(-length // chunk)
    padding = count * chunk - length  # steps without decay and input change nothing
    x, B, C = (F.pad(part, (0, 0, 0, 0, 0, padding)) for part in (x, B, C))
    kind, decay = x.dtype, F.pad(decay, (0, 0, 0, padding))
    # [B, K, G, (H / G,) Q, ...]: K chunks of Q tokens.
    x = x.view(batch, count, chunk, groups, -1, width).permute(0, 1, 3, 4, 2, 5)
    B, C = (part.view(batch, count, chunk, groups, size).transpose(2, 3) for part in (B, C))
    # Differences of these sums must be exact where the sums are large: hence float64.
    decay = decay.double().view(batch, count, chunk, groups, -1).permute(0, 1, 3, 4, 2).cumsum(-1)
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).triu(1)
    between = torch.exp((decay[..., None] - decay[..., None, :]).to(kind).masked_fill(future, -torch.inf))
    within = ((C @ B.mT)[:, :, :, None] * between) @ x
    # [B, K, G, H / G, P, N]
    added = (x * torch.exp((decay[..., -1:] - decay).to(kind))[..., None]).mT @ B[:, :, :, None]
    decay = decay.to(kind)
    kept = torch.exp(decay[..., -1])[..., None, None]
    h, before = state.view(*shape, width, size), []
    for k in range(count):
        before.append(h)
        h = kept[:, k] * h + added[:, k]
    across = (C[:, :, :, None] @ torch.stack(before, 1).mT) * torch.exp(decay)[..., None]
    y = (within + across).permute(0, 1, 4, 2, 3, 5).reshape(batch, -1, heads, width)[:, :length]
    return y, h.reshape(batch, heads, width, size)


@functools.cache
def cuda_kernels() -> SimpleNamespace | None:
    """mamba-ssm's chunked scan and its fused block, or None with a warning where they cannot be imported."""
    return import_kernels("mamba_ssm.ops.triton.ssd_combined")[0]
