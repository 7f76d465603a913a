"""Gated DeltaNet (Yang, Kautz and Hatamizadeh 2024, arXiv 2412.06464), with the parameter names and the initialisation
of flash-linear-attention's layer.

    S_t = a_t (I - b_t k_t k_t^T) S_{t-1} + b_t k_t v_t^T      S: [K, V] of each head, a_t in (0, 1]
    o_t = S_t^T q_t

A key of length 1 replaces what the state holds of it by the share b_t, where Mamba-2 can only add. With b_t up to 2 an
eigenvalue of the transition can be negative, which tracking a state needs (Grazzi et al. 2024, arXiv 2411.12537).
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from length_gen.lightning_modules.backbones.base import check_sizes, check_step_sizes
from length_gen.lightning_modules.backbones.convolution import causal_convolution
from length_gen.lightning_modules.backbones.decoder import Decoder, MixedDecoder
from length_gen.lightning_modules.backbones.fading import start_bias
from length_gen.lightning_modules.backbones.layered import Layer, LayeredBackbone

State = tuple[Tensor, Tensor]

CHUNK = 32
"""Tokens that the parallel form takes at a time."""


class GatedDeltaNet(LayeredBackbone):
    """Embedding, `n_layer` blocks of norm and mixer on a residual stream, norm, head; without the MLPs of the paper.

    Args:
        vocab_size: number of tokens
        n_layer: number of blocks
        d_model: width of the residual stream
        n_head: heads; null: as many as make all keys together 3/4 of d_model wide, as in flash-linear-attention
        head_dim: width of a head's keys and queries
        head_v_dim: width of a head's values; null: 2 head_dim
        d_conv: width of the convolutions on queries, keys and values
        allow_neg_eigval: whether a write can go beyond what it replaces, b_t up to 2 in place of 1
        tie_embeddings: whether the head shares the embedding's weights
        dt_min, dt_max: range of the step sizes of the decay at the start
        initializer_range: standard deviation of the embedding at the start
        norm_eps: of the RMS norms
    """

    def __init__(self, vocab_size: int, n_layer: int = 2, d_model: int = 64, n_head: int | None = None,
                 head_dim: int = 16, head_v_dim: int | None = None, d_conv: int = 4, allow_neg_eigval: bool = False,
                 tie_embeddings: bool = True, dt_min: float = 0.001, dt_max: float = 0.1,
                 initializer_range: float = 0.02, norm_eps: float = 1e-5) -> None:
        super().__init__(vocab_size)
        check_sizes("GatedDeltaNet", n_layer=n_layer, d_model=d_model, head_dim=head_dim, d_conv=d_conv)
        n_head = max(1, round(0.75 * d_model / head_dim)) if n_head is None else n_head
        head_v_dim = 2 * head_dim if head_v_dim is None else head_v_dim
        check_sizes("GatedDeltaNet", n_head=n_head, head_v_dim=head_v_dim)
        check_step_sizes("GatedDeltaNet", dt_min, dt_max)
        mixers = (DeltaMixer(d_model, n_head, head_dim, head_v_dim, d_conv, allow_neg_eigval, dt_min, dt_max, norm_eps)
                  for _ in range(n_layer))
        self.stack(d_model, mixers, norm_eps, initializer_range, tie_embeddings)

    def decoder(self, rows: int, length: int, weights: torch.dtype = torch.float32,
                states: torch.dtype = torch.float32) -> Decoder:
        return MixedDecoder(self, rows, length, weights)


class DeltaMixer(Layer):
    """The Gated DeltaNet block (section 3.4). State: the last d_conv - 1 inputs of the convolutions
    [B, d_conv - 1, H (2 K + V)], and S [B, H, K, V]."""

    def __init__(self, d_model: int, n_head: int, head_dim: int, head_v_dim: int, d_conv: int, allow_neg_eigval: bool,
                 dt_min: float, dt_max: float, norm_eps: float) -> None:
        super().__init__()
        self.n_head, self.head_dim, self.head_v_dim, self.d_conv = n_head, head_dim, head_v_dim, d_conv
        self.largest_write = 2.0 if allow_neg_eigval else 1.0
        self.widths = [n_head * head_dim, n_head * head_dim, n_head * head_v_dim]
        linear = functools.partial(nn.Linear, d_model, bias=False)
        self.q_proj, self.k_proj, self.v_proj = (linear(width) for width in self.widths)
        self.a_proj, self.b_proj, self.g_proj = linear(n_head), linear(n_head), linear(n_head * head_v_dim)
        self.A_log = nn.Parameter((16 * (1 - torch.rand(n_head))).log())
        self.dt_bias = nn.Parameter(start_bias(n_head, dt_min, dt_max))
        self.q_conv1d, self.k_conv1d, self.v_conv1d = (
            nn.Conv1d(width, width, d_conv, groups=width, padding=d_conv - 1, bias=False) for width in self.widths)
        self.o_norm = nn.RMSNorm(head_v_dim, norm_eps)
        self.o_proj = nn.Linear(n_head * head_v_dim, d_model, bias=False)

    def initial_state(self, batch_size: int) -> State:
        new = self.A_log.new_zeros
        return (new(batch_size, self.d_conv - 1, sum(self.widths)),
                new(batch_size, self.n_head, self.head_dim, self.head_v_dim))

    def forward(self, hidden: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        recent, S = self.initial_state(len(hidden)) if state is None else state
        weight = self.filter
        convolved, recent = causal_convolution(self._projected(hidden), recent, weight, weight.new_zeros(len(weight)))
        q, k, v, decay, write = *self._heads(convolved), *self._gates(hidden)
        with torch.autocast(hidden.device.type, enabled=False):  # what is carried on over a row needs its digits
            o, S = chunked_delta_rule(q, k, v, decay, write, S)
        return self._output(o, hidden), (recent, S)

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        recent, S = state
        inputs = torch.cat([recent, self._projected(hidden)[:, None]], 1)
        q, k, v = self._heads(F.silu(torch.linalg.vecdot(inputs, self.filter.t(), dim=1)))
        decay, write = self._gates(hidden)
        S.mul_(decay.exp()[..., None, None])
        new = write[..., None] * (v - (k[..., None, :] @ S).squeeze(-2))
        S.addcmul_(k[..., None], new[..., None, :])
        return self._output((q[..., None, :] @ S).squeeze(-2), hidden), (recent.copy_(inputs[:, 1:]), S)

    @property
    def filter(self) -> Tensor:
        """Weights of the three convolutions, [H (2 K + V), d_conv], the latest token's last."""
        return torch.cat([conv1d.weight[:, 0] for conv1d in (self.q_conv1d, self.k_conv1d, self.v_conv1d)])

    def _projected(self, hidden: Tensor) -> Tensor:
        """Inputs of the convolutions, [..., H (2 K + V)], in the parameters' type."""
        return torch.cat([project(hidden) for project in (self.q_proj, self.k_proj, self.v_proj)], -1).to(
            self.A_log.dtype)

    def _heads(self, convolved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries of length K^(-1/2) and keys of length 1, [..., H, K], and values [..., H, V]."""
        q, k, v = (part.unflatten(-1, (self.n_head, -1)) for part in convolved.split(self.widths, -1))
        return _scaled(q, self.head_dim**-0.5), _scaled(k, 1.0), v

    def _gates(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the decay a, and the written share b, [..., H], in the parameters' type."""
        dt, write = self.a_proj(hidden).to(self.A_log.dtype), self.b_proj(hidden).to(self.A_log.dtype)
        return -torch.exp(self.A_log) * F.softplus(dt + self.dt_bias), self.largest_write * torch.sigmoid(write)

    def _output(self, o: Tensor, hidden: Tensor) -> Tensor:
        """The gated norm of o [..., H, V] and the last projection, [..., d_model]."""
        gate = self.g_proj(hidden).to(o.dtype).unflatten(-1, (self.n_head, -1))
        return self.o_proj((self.o_norm(o) * F.silu(gate)).flatten(-2))


def chunked_delta_rule(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, write: Tensor,
                       state: Tensor) -> tuple[Tensor, Tensor]:
    """The recurrence above in parallel within chunks (section 3.3, and arXiv 2406.06484): o [B, T, H, V], last state.

    q, k [B, T, H, K]; v [B, T, H, V]; decay, the logarithm of a, not above 0, and write, b, [B, T, H]; state
    [B, H, K, V]. What a token writes, u_t = b_t (v_t - a_t S_{t-1}^T k_t), depends on what the chunk's earlier tokens
    wrote: a triangular system, solved as u = values - keys S for any state S before the chunk. Nothing is divided by a
    product of decays: those over spans of tokens are exponentials of differences. What has 16 bits is computed in 32.
    """
    length, size, width = k.shape[1], k.shape[-1], v.shape[-1]
    kind, full = v.dtype, torch.promote_types(v.dtype, torch.float32)
    chunk = min(CHUNK, length)
    padding = -length % chunk  # tokens that decay and write nothing
    # [B, N, H, C, ...]: N chunks of C tokens.
    q, k, v, decay, write = (
        F.pad(part.to(full), (0, 0, 0, 0, 0, padding)).unflatten(1, (-1, chunk)).transpose(2, 3)
        for part in (q, k, v, decay[..., None], write[..., None]))
    # Differences of these sums must be exact where the sums are large: hence float64.
    sums = decay.double().cumsum(-2)
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=v.device).triu(1)
    between = torch.exp((sums - sums.mT).to(full).masked_fill(future, -torch.inf))
    since, until = torch.exp(sums.to(full)), torch.exp((sums[..., -1:, :] - sums).to(full))
    written = write * k
    # [..., C, V + K]: values and keys
    solved = torch.linalg.solve_triangular((written @ k.mT) * between, torch.cat([write * v, since * written], -1),
                                           upper=False, unitriangular=True)
    read = ((q @ k.mT) * between) @ solved
    added = (k * until).mT @ solved
    kept = since[..., -1:, :] * torch.eye(size, dtype=full, device=v.device) - added[..., width:]
    state, before = state.to(full), []
    for n in range(k.shape[1]):
        before.append(state)
        state = kept[:, n] @ state + added[:, n, ..., :width]
    o = read[..., :width] + (since * q - read[..., width:]) @ torch.stack(before, 1)
    return o.transpose(2, 3).flatten(1, 2)[:, :length].to(kind), state.to(kind)


def _scaled(x: Tensor, length: float) -> Tensor:
    """x [..., K] of such a length, but 0 where it is 0."""
    return x * (length * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6))
