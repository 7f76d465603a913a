"""xLSTM as the 7B model has it (Beck et al. 2025, arXiv 2503.13427): blocks of an mLSTM (Beck et al. 2024, arXiv
2405.04517) and a gated MLP, with the parameter names and the initialisation of transformers.

    C_t = f_t C_{t-1} + i_t k_t v_t^T        C: [K, V] of each head, f_t = sigmoid(~f_t), i_t = exp(~i_t)
    n_t = f_t n_{t-1} + i_t k_t              n: [K]
    h_t = C_t^T q_t / max(|n_t^T q_t|, 1)

An exponential gate lets a token outweigh all before it. Against overflow C and n are kept divided by exp(m_t),
m_t = max(log f_t + m_{t-1}, ~i_t), and the 1 becomes exp(-m_t).
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from length_gen.lightning_modules.backbones.base import LARGEST, check_sizes
from length_gen.lightning_modules.backbones.decoder import Decoder, MixedDecoder
from length_gen.lightning_modules.backbones.layered import Layer, LayeredBackbone
from length_gen.tools import UserError

State = tuple[Tensor, Tensor, Tensor]

CHUNK = 32
"""Tokens that the parallel form takes at a time."""
GATE_CAP, LOGIT_CAP = 15.0, 30.0
"""Bounds of the gates before their exponential and sigmoid, and of the logits."""
LEAST_DIVISOR = 1e-6
"""Added to what h is divided by."""
MLP_MULTIPLE = 64
"""What the width of the MLPs is rounded up to a multiple of."""


class XLSTM(LayeredBackbone):
    """Embedding, `n_layer` blocks of mLSTM and gated MLP on a residual stream, norm, head with bounded logits.

    Args:
        vocab_size: number of tokens
        n_layer: number of blocks
        d_model: width of the residual stream
        n_head: heads of the mLSTMs
        qk_dim_factor: width of all heads' keys, and of their queries, in units of d_model; a multiple of n_head
        v_dim_factor: width of all heads' values in units of d_model; a multiple of n_head
        ffn_proj_factor: width of the MLPs in units of d_model; rounded up to a multiple of 64
        tie_embeddings: whether the head shares the embedding's weights
        norm_eps: of the norms
    """

    def __init__(self, vocab_size: int, n_layer: int = 2, d_model: int = 64, n_head: int = 4,
                 qk_dim_factor: float = 0.5, v_dim_factor: float = 1.0, ffn_proj_factor: float = 2.667,
                 tie_embeddings: bool = False, norm_eps: float = 1e-6) -> None:
        super().__init__(vocab_size)
        check_sizes("XLSTM", n_layer=n_layer, d_model=d_model, n_head=n_head)
        keys = _width("qk_dim_factor", qk_dim_factor, d_model, n_head)
        values = _width("v_dim_factor", v_dim_factor, d_model, n_head)
        inner = math.ceil(_width("ffn_proj_factor", ffn_proj_factor, d_model) / MLP_MULTIPLE) * MLP_MULTIPLE
        self.backbone = nn.ModuleDict({
            "embeddings": nn.Embedding(vocab_size, d_model),
            "blocks": nn.ModuleList(XLSTMBlock(d_model, n_head, keys, values, inner, norm_eps)
                                    for _ in range(n_layer)),
            "out_norm": nn.RMSNorm(d_model, norm_eps)})
        self.lm_head = BoundedLinear(d_model, vocab_size, bias=False)
        if tie_embeddings:
            self.lm_head.weight = self.backbone["embeddings"].weight
        self._initialize(d_model)

    @property
    def parts(self) -> tuple[nn.Embedding, Sequence[Layer], nn.Module, nn.Linear]:
        return self.backbone["embeddings"], self.backbone["blocks"], self.backbone["out_norm"], self.lm_head

    def decoder(self, rows: int, length: int, weights: torch.dtype = torch.float32,
                states: torch.dtype = torch.float32) -> Decoder:
        return MixedDecoder(self, rows, length, weights)

    @torch.no_grad()
    def _initialize(self, d_model: int) -> None:
        """All gates start blind to what a token is: nothing is written at first, and the MLPs give nothing."""
        embedding, blocks, _, head = self.parts
        small = math.sqrt(2 / (5 * d_model))
        for table in (embedding, head):
            nn.init.normal_(table.weight, std=small)
        for block in blocks:
            cell, mlp = block.mlstm_layer, block.ffn
            for linear in (cell.q, cell.k, cell.v, mlp["proj_up"]):
                nn.init.normal_(linear.weight, std=small)
            nn.init.normal_(cell.out_proj.weight, std=2 / len(blocks) / math.sqrt(d_model))
            nn.init.normal_(mlp["proj_down"].weight, std=2 / len(blocks) / math.sqrt(mlp["proj_down"].in_features))
            for linear in (cell.igate_preact, cell.fgate_preact, cell.ogate_preact, mlp["proj_up_gate"]):
                nn.init.zeros_(linear.weight)
            nn.init.constant_(cell.igate_preact.bias, -10.0)
            cell.fgate_preact.bias.copy_(torch.linspace(3.0, 6.0, cell.n_head))


class BoundedLinear(nn.Linear):
    """A linear map whose outputs stay between -LOGIT_CAP and LOGIT_CAP."""

    def forward(self, hidden: Tensor) -> Tensor:
        return _bounded(super().forward(hidden), LOGIT_CAP)


class HeadNorm(nn.Module):
    """Layer norm of each head's channels, with weights [width] and no biases."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, h: Tensor) -> Tensor:
        """h [..., H, V] to [..., H V]."""
        return F.layer_norm(h, h.shape[-1:], eps=self.eps).flatten(-2) * self.weight


class XLSTMBlock(Layer):
    """mLSTM, then a gated MLP, each behind a norm and added to the residual. State: the mLSTM's."""

    def __init__(self, d_model: int, n_head: int, keys: int, values: int, inner: int, norm_eps: float) -> None:
        super().__init__()
        self.norm_mlstm = nn.RMSNorm(d_model, norm_eps)
        self.mlstm_layer = MLSTM(d_model, n_head, keys, values, norm_eps)
        self.norm_ffn = nn.RMSNorm(d_model, norm_eps)
        self.ffn = nn.ModuleDict({"proj_up_gate": nn.Linear(d_model, inner, bias=False),
                                  "proj_up": nn.Linear(d_model, inner, bias=False),
                                  "proj_down": nn.Linear(inner, d_model, bias=False)})

    def initial_state(self, batch_size: int) -> State:
        return self.mlstm_layer.initial_state(batch_size)

    def forward(self, hidden: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        update, state = self.mlstm_layer(self.norm_mlstm(hidden), state)
        return self._mlp(hidden + update), state

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        update, state = self.mlstm_layer.step(self.norm_mlstm(hidden), state)
        return self._mlp(hidden + update), state

    def _mlp(self, hidden: Tensor) -> Tensor:
        normed = self.norm_ffn(hidden)
        gated = F.silu(self.ffn["proj_up_gate"](normed)) * self.ffn["proj_up"](normed)
        return hidden + self.ffn["proj_down"](gated)


class MLSTM(Layer):
    """The mLSTM with output gate (section 2.1). State: C [B, H, K, V], n [B, H, K] and m [B, H], all 0 at first, in
    float32 at least, since bfloat16 has too few digits for sums over a row."""

    def __init__(self, d_model: int, n_head: int, keys: int, values: int, norm_eps: float) -> None:
        super().__init__()
        self.n_head, self.head_dim, self.head_v_dim = n_head, keys // n_head, values // n_head
        self.q, self.k = (nn.Linear(d_model, keys, bias=False) for _ in range(2))
        self.v, self.ogate_preact = (nn.Linear(d_model, values, bias=False) for _ in range(2))
        self.igate_preact, self.fgate_preact = (nn.Linear(d_model, n_head) for _ in range(2))
        self.multihead_norm = HeadNorm(values, norm_eps)
        self.out_proj = nn.Linear(values, d_model, bias=False)

    def initial_state(self, batch_size: int) -> State:
        weight = self.multihead_norm.weight
        return tuple(weight.new_zeros(batch_size, self.n_head, *shape, dtype=_full(weight.dtype))
                     for shape in ((self.head_dim, self.head_v_dim), (self.head_dim,), ()))

    def forward(self, hidden: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        state = self.initial_state(len(hidden)) if state is None else state
        inputs = *self._heads(hidden), *self._gates(hidden)
        with torch.autocast(hidden.device.type, enabled=False):  # what is carried on over a row needs its digits
            h, state = chunked_mlstm(*inputs, state)
        return self._output(h, hidden), state

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        C, n, m = state
        q, k, v, forget, write = (part.to(m.dtype) for part in (*self._heads(hidden), *self._gates(hidden)))
        largest = torch.maximum(forget + m, write)
        # In this order what rounding takes from m, such as a forget gate of nearly 1, goes to C and n.
        kept, k = torch.exp(forget + (m - largest))[..., None], torch.exp(write - largest)[..., None] * k
        C.mul_(kept[..., None]).addcmul_(k[..., None], v[..., None, :])
        n.mul_(kept).add_(k)
        m.copy_(largest)
        h = _divided((q[..., None, :] @ C).squeeze(-2), (q * n).sum(-1), m)
        return self._output(h.to(self.multihead_norm.weight.dtype), hidden), (C, n, m)

    def _heads(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries divided by K^(1/2), keys [..., H, K], and values [..., H, V], in the parameters' type."""
        q, k, v = (project(hidden).to(self.multihead_norm.weight.dtype).unflatten(-1, (self.n_head, -1))
                   for project in (self.q, self.k, self.v))
        return q * self.head_dim**-0.5, k, v

    def _gates(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithms of the gates f and i, [..., H], in the parameters' type."""
        forget, write = (_bounded(gate(hidden).to(self.multihead_norm.weight.dtype), GATE_CAP)
                         for gate in (self.fgate_preact, self.igate_preact))
        return F.logsigmoid(forget), write

    def _output(self, h: Tensor, hidden: Tensor) -> Tensor:
        """The gated norm of h [..., H, V] and the last projection, [..., d_model]."""
        gate = self.ogate_preact(hidden).to(h.dtype)
        return self.out_proj(torch.sigmoid(gate) * self.multihead_norm(h))


def chunked_mlstm(q: Tensor, k: Tensor, v: Tensor, forget: Tensor, write: Tensor,
                  state: State) -> tuple[Tensor, State]:
    """The recurrence above in parallel within chunks: h [B, T, H, V], last state.

    q, k [B, T, H, K]; v [B, T, H, V]; forget, log f, not above 0, and write, log i, [B, T, H]; state: C [B, H, K, V],
    n [B, H, K] and m [B, H]. n is what C would be for a value of 1, so it is one more column of C. What has 16 bits is
    computed in 32, as the last state stays.
    """
    C, n, first = state
    length, kind, full = v.shape[1], v.dtype, _full(v.dtype)
    chunk = min(CHUNK, length)
    padding = -length % chunk
    q, k, v = (F.pad(part.to(full), (0, 0, 0, 0, 0, padding)) for part in (q, k, F.pad(v, (0, 1), value=1.0)))
    # Tokens that forget and write nothing. Differences of sums must be exact where the sums are large: hence float64.
    forget, write = (F.pad(part.double(), (0, 0, 0, padding), value=value)
                     for part, value in ((forget, 0.0), (write, -torch.inf)))
    sums = forget.cumsum(1)
    # Any m gives the same h, but for LEAST_DIVISOR: m itself need not be exact, only the same wherever it is used.
    m = (sums + torch.maximum(first.double()[:, None], (write - sums).cummax(1).values)).to(full)
    # [B, N, H, C, ...]: N chunks of C tokens.
    q, k, v, forget, write, m = (part.unflatten(1, (-1, chunk)).transpose(2, 3)
                                 for part in (q, k, v, forget, write, m))
    before = torch.cat([first.to(full)[:, None], m[:, :-1, :, -1]], 1)[..., None]
    sums = forget.cumsum(-1)
    future = torch.ones(chunk, chunk, dtype=torch.bool, device=v.device).triu(1)
    since = torch.exp((sums + before - m).to(full))[..., None]
    between = torch.exp(((sums - m)[..., None] + (write - sums)[..., None, :]).to(full).masked_fill(future, -torch.inf))
    added = (k * between[..., -1, :, None]).mT @ v
    memory, memories = torch.cat([C, n[..., None]], -1).to(full), []
    for i in range(k.shape[1]):
        memories.append(memory)
        memory = since[:, i, :, -1:] * memory + added[:, i]
    read = ((q @ k.mT) * between) @ v + since * (q @ torch.stack(memories, 1))
    h = _divided(read[..., :-1], read[..., -1], m).transpose(2, 3).flatten(1, 2)[:, :length]
    last = memory[..., :-1], memory[..., -1], m[:, -1, :, -1]
    return h.to(kind), tuple(part.clone() for part in last)  # without what they are parts of


def _divided(read: Tensor, weight: Tensor, m: Tensor) -> Tensor:
    """h [..., V] of C^T q [..., V], n^T q [...] and m [...]."""
    return read / (torch.maximum(weight.abs(), torch.exp(-m)) + LEAST_DIVISOR)[..., None]


def _bounded(x: Tensor, cap: float) -> Tensor:
    return cap * torch.tanh(x / cap)


def _full(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _width(name: str, factor: float, d_model: int, n_head: int = 1) -> int:
    """`factor` times d_model, rounded down; raises UserError unless it is a positive multiple of n_head."""
    if not 1 <= factor * d_model <= LARGEST:
        raise UserError(f"XLSTM {name} {factor} is not allowed: expected a width of at least 1 and at most {LARGEST:,} "
                        f"with d_model {d_model}")
    width = int(factor * d_model)
    if width % n_head:
        raise UserError(f"XLSTM n_head {n_head} does not divide the {width} channels of {name} {factor}: give a "
                        f"divisor of them")
    return width
