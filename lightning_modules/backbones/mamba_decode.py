"""One decoding step of Mamba on CUDA; imported where it is used, since Triton is.

A step reads the weights once and reads and writes the states: it is bound by memory where the batch is large, and by
the latency of many small kernels where it is small. Here a layer has six: three matrix products, and between them the
convolution (norm included), the recurrence (step size and gate included) and the residual. The two projections to the
step size are one matrix, as nothing stands between them. On Hopper a kernel starts while the one before it runs
(programmatic dependent launch); in small batches the products bring their weights in meanwhile.

Weights are [out, in], as torch has them.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra import cuda

from lightning_modules.backbones.decoder import Decoder

TAPS = 4
"""Width of the convolution that the kernels are written for."""


@triton.jit
def _begin(EARLY: tl.constexpr):
    """Let the next kernel start, and wait for the one before; nothing that it writes may be read before this."""
    if EARLY:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()


@triton.jit
def embed(tokens, table, hidden, stream, squares, clock, W: tl.constexpr, WP: tl.constexpr):
    """hidden [rows, W] float32 and stream [rows, W], the same in the weights' type, from table [V, W].

    squares [rows]: sum of a row's squares; clock [1] counts the steps.
    """
    row, w = tl.program_id(0), tl.arange(0, WP)
    if row == 0:
        tl.store(clock, tl.load(clock) + 1)
    token = tl.load(tokens + row).to(tl.int64)
    value = tl.load(table + token * W + w, mask=w < W, other=0.0).to(tl.float32)
    tl.store(hidden + row * W + w, value, mask=w < W)
    tl.store(stream + row * W + w, value.to(stream.dtype.element_ty), mask=w < W)
    tl.store(squares + row, tl.sum(value * value, 0))


@triton.jit
def add(change, hidden, stream, squares, W: tl.constexpr, WP: tl.constexpr, EARLY: tl.constexpr):
    """hidden [rows, W] += change [rows, W], and what `embed` derives from it."""
    _begin(EARLY)
    place, w = tl.program_id(0) * W + tl.arange(0, WP), tl.arange(0, WP)
    value = tl.load(hidden + place, mask=w < W, other=0.0)
    value += tl.load(change + place, mask=w < W, other=0.0).to(tl.float32)
    tl.store(hidden + place, value, mask=w < W)
    tl.store(stream + place, value.to(stream.dtype.element_ty), mask=w < W)
    tl.store(squares + tl.program_id(0), tl.sum(value * value, 0))


@triton.jit
def product(x, weight, out, rows, N: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
            BK: tl.constexpr, EARLY: tl.constexpr):
    """out [rows, N] = x [rows, K] @ weight.T; all of the tile's weights are on their way before the wait.

    K is a multiple of BK.
    """
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    columns = weight + n * K + k[:, None]
    known = (n < N) & (k < K)[:, None]
    lines = x + m[:, None] * K + k
    alive = (m < rows)[:, None]
    w0 = tl.load(columns, mask=known, other=0.0)
    if K > BK:
        w1 = tl.load(columns + BK, mask=known, other=0.0)
    if K > 2 * BK:
        w2 = tl.load(columns + 2 * BK, mask=known, other=0.0)
    if K > 3 * BK:
        w3 = tl.load(columns + 3 * BK, mask=known, other=0.0)
    if K > 4 * BK:
        w4 = tl.load(columns + 4 * BK, mask=known, other=0.0)
    if K > 5 * BK:
        w5 = tl.load(columns + 5 * BK, mask=known, other=0.0)
    _begin(EARLY)
    total = tl.dot(tl.load(lines, mask=alive, other=0.0), w0)
    if K > BK:
        total = tl.dot(tl.load(lines + BK, mask=alive, other=0.0), w1, total)
    if K > 2 * BK:
        total = tl.dot(tl.load(lines + 2 * BK, mask=alive, other=0.0), w2, total)
    if K > 3 * BK:
        total = tl.dot(tl.load(lines + 3 * BK, mask=alive, other=0.0), w3, total)
    if K > 4 * BK:
        total = tl.dot(tl.load(lines + 4 * BK, mask=alive, other=0.0), w4, total)
    if K > 5 * BK:
        total = tl.dot(tl.load(lines + 5 * BK, mask=alive, other=0.0), w5, total)
    tl.store(out + m[:, None] * N + n, total.to(out.dtype.element_ty), mask=alive & (n < N))


@triton.jit
def convolve(xz, squares, recent, clock, taps, bias, u, rows, eps, W: tl.constexpr, D: tl.constexpr, BM: tl.constexpr,
             BD: tl.constexpr, EARLY: tl.constexpr):
    """u [rows, D] = silu(convolution of x), where xz [rows, 2 D], of a stream W wide, still needs its norm's scale.

    recent [rows, 3, D]: the inputs before, a ring; taps [4, D]. D is a multiple of BD.
    """
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    first, second, third, last = (tl.load(taps + d), tl.load(taps + D + d), tl.load(taps + 2 * D + d),
                                  tl.load(taps + 3 * D + d))
    value = tl.load(bias + d)[None]
    _begin(EARLY)
    mask = (m < rows)[:, None] & (d < D)
    oldest = tl.load(clock) % 3
    line = recent + m[:, None] * (3 * D) + d
    x0 = tl.load(line + oldest * D, mask=mask, other=0.0).to(tl.float32)
    x1 = tl.load(line + (oldest + 1) % 3 * D, mask=mask, other=0.0).to(tl.float32)
    x2 = tl.load(line + (oldest + 2) % 3 * D, mask=mask, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.load(squares + m, mask=m < rows, other=1.0) / W + eps)
    x3 = tl.load(xz + m[:, None] * (2 * D) + d, mask=mask, other=0.0).to(tl.float32) * scale[:, None]
    tl.store(line + oldest * D, x3.to(recent.dtype.element_ty), mask=mask)
    value = value + first * x0 + second * x1 + third * x2 + last * x3
    tl.store(u + m[:, None] * D + d, (value * tl.sigmoid(value)).to(u.dtype.element_ty), mask=mask)


@triton.jit
def update(selection, xz, squares, u, state, bias, rates, skip, y, rows, eps, W: tl.constexpr, D: tl.constexpr,
           N: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr, EARLY: tl.constexpr):
    """y [rows, D] = (C h + D u) silu(z), after h = exp(delta A) h + delta u B: state [rows, D, N], in place.

    selection [rows, D + 2 N]: delta before bias and softplus, B, C; rates [D, N]: A / log(2), negative; z: the second
    half of xz, which still needs its norm's scale. D is a multiple of BD.
    """
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.arange(0, N)
    rate, weight, offset = tl.load(rates + d[:, None] * N + n), tl.load(skip + d), tl.load(bias + d)
    alive = m < rows
    mask = alive[:, None] & (d < D)
    place = m[:, None] * D + d
    cells = state + place[:, :, None] * N + n
    _begin(EARLY)
    h = tl.load(cells, mask=mask[:, :, None], other=0.0).to(tl.float32)
    line = selection + m[:, None] * (D + 2 * N)
    step = tl.load(line + d, mask=mask, other=0.0).to(tl.float32) + offset
    grown = tl.exp(tl.minimum(step, 20.0))
    # log(1 + e) of a small e would lose its digits.
    step = tl.where(step > 20.0, step, tl.where(grown < 1e-3, grown * (1 - 0.5 * grown), tl.log(1 + grown)))
    x = tl.load(u + place, mask=mask, other=0.0).to(tl.float32)
    into = tl.load(line + D + n, mask=alive[:, None], other=0.0).to(tl.float32)
    out = tl.load(line + D + N + n, mask=alive[:, None], other=0.0).to(tl.float32)
    h = tl.exp2(step[:, :, None] * rate[None]) * h + (step * x)[:, :, None] * into[:, None, :]
    tl.store(cells, h.to(state.dtype.element_ty), mask=mask[:, :, None])
    result = tl.sum(h * out[:, None, :], 2) + weight * x
    scale = tl.rsqrt(tl.load(squares + m, mask=alive, other=1.0) / W + eps)
    z = tl.load(xz + m[:, None] * (2 * D) + D + d, mask=mask, other=0.0).to(tl.float32) * scale[:, None]
    tl.store(y + place, (result * z * tl.sigmoid(z)).to(y.dtype.element_ty), mask=mask)


@triton.jit
def score(stream, squares, weight, logits, rows, eps, W: tl.constexpr, V: tl.constexpr, BM: tl.constexpr,
          BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, EARLY: tl.constexpr):
    """logits [rows, V] float32 = norm(stream) @ weight.T; weight [V, W], the norm's included."""
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    _begin(EARLY)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, W, BK):
        k = start + tl.arange(0, BK)
        a = tl.load(stream + m[:, None] * W + k, mask=(m < rows)[:, None] & (k < W), other=0.0)
        w = tl.load(weight + n * W + k[:, None], mask=(n < V) & (k < W)[:, None], other=0.0)
        total = tl.dot(a, w, total, input_precision=PRECISION)
    total *= tl.rsqrt(tl.load(squares + m, mask=m < rows, other=1.0) / W + eps)[:, None]
    tl.store(logits + m[:, None] * V + n, total, mask=(m < rows)[:, None] & (n < V))


@dataclass(frozen=True, slots=True)
class Tiles:
    """Rows and columns of a program's tile, and its warps."""

    rows: int
    columns: int
    warps: int = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """Tiles for a number of rows, as measured on an H100 by benchmarks/decode.py.

    enter, select, leave: of the three products; None: by cuBLAS
    early: whether a kernel starts while the one before it runs
    """

    convolve: Tiles
    update: Tiles
    enter: Tiles | None = None
    select: Tiles | None = None
    leave: Tiles | None = None
    early: bool = True


def plan(rows: int) -> Plan:
    """The plan for so many rows."""
    if rows <= 64:
        high = 16 if rows <= 16 else 64
        return Plan(Tiles(2, 128), Tiles(2, 64), Tiles(high, 32), Tiles(high, 16), Tiles(high, 16))
    return Plan(Tiles(4, 128), Tiles(2, 64))


def can_decode(backbone) -> bool:
    """Whether the kernels are written for a Mamba of this shape."""
    mixer = backbone.backbone["layers"][0]["mixer"]
    return mixer.d_conv == TAPS and mixer.d_inner % 16 == 0 and mixer.d_state in (8, 16, 32, 64, 128)


class MambaDecoder(Decoder):
    """Steps of a Mamba with weights and states in types of their own, for a fixed number of rows.

    States: recent inputs [n_layer, B, 3, D] in the weights' type, and h [n_layer, B, D, N] in `states`' type.
    """

    def __init__(self, backbone, rows: int, weights: torch.dtype, states: torch.dtype,
                 tiles: Plan | None = None) -> None:
        layers, body = backbone.backbone["layers"], backbone.backbone
        mixer = layers[0]["mixer"]
        self.rows, self.plan, self.eps = rows, tiles or plan(rows), body["norm_f"].eps
        self.W, self.D, self.N, self.V = (backbone.lm_head.in_features, mixer.d_inner, mixer.d_state,
                                          backbone.vocab_size)
        self.weights = weights
        self.embedding = body["embedding"].weight.detach()
        device = self.embedding.device
        self.early = self.plan.early and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9
        self.head = _weight(backbone.lm_head.weight * body["norm_f"].weight, weights)
        self.layers = [_layer(layer["norm"], layer["mixer"], weights) for layer in layers]
        self.recent = torch.zeros(len(layers), rows, TAPS - 1, self.D, dtype=weights, device=device)
        self.state = torch.zeros(len(layers), rows, self.D, self.N, dtype=states, device=device)
        self.clock = torch.zeros(1, dtype=torch.int32, device=device)

        def new(width: int, dtype: torch.dtype = weights) -> Tensor:
            return torch.empty(rows, width, dtype=dtype, device=device)

        self.stream, self.change, self.u, self.y, self.xz, self.selection = (
            new(n) for n in (self.W, self.W, self.D, self.D, 2 * self.D, self.D + 2 * self.N))
        self.hidden, self.squares, self.logits = (new(n, torch.float32) for n in (self.W, 1, self.V))

    def step(self, tokens: Tensor) -> Tensor:
        """Logits, float32 [B, V], after one more token a row, [B]; the same tensor every time."""
        wide = triton.next_power_of_2(self.W)
        embed[(self.rows,)](tokens.contiguous(), self.embedding, self.hidden, self.stream, self.squares, self.clock,
                            self.W, wide)
        for i in range(len(self.layers)):
            for kernel in ("enter", "convolve", "select", "update", "leave", "add"):
                self.run(kernel, i)
        grid = triton.cdiv(self.V, 16), triton.cdiv(self.rows, 16)
        score[grid](self.stream, self.squares, self.head, self.logits, self.rows, self.eps, self.W, self.V, 16, 16,
                    max(16, min(128, wide)), "ieee", self.early, launch_pdl=self.early)
        return self.logits

    def reset(self, rows: Tensor) -> None:
        self.recent.index_fill_(1, rows, 0)
        self.state.index_fill_(1, rows, 0)

    def run(self, kernel: str, i: int) -> None:
        """One of the kernels of layer `i`."""
        inwards, taps, conv_bias, selection, bias, rates, skip, outwards = self.layers[i]
        W, D, N, rows = self.W, self.D, self.N, self.rows
        options = {"EARLY": self.early, "launch_pdl": self.early}
        if kernel == "enter":
            self._product(self.stream, inwards, self.xz, self.plan.enter)
        elif kernel == "convolve":
            tiles, columns = self.plan.convolve, self._columns(self.plan.convolve)
            convolve[D // columns, triton.cdiv(rows, tiles.rows)](
                self.xz, self.squares, self.recent[i], self.clock, taps, conv_bias, self.u, rows, self.eps, W, D,
                tiles.rows, columns, num_warps=tiles.warps, **options)
        elif kernel == "select":
            self._product(self.u, selection, self.selection, self.plan.select)
        elif kernel == "update":
            tiles, columns = self.plan.update, self._columns(self.plan.update)
            update[D // columns, triton.cdiv(rows, tiles.rows)](
                self.selection, self.xz, self.squares, self.u, self.state[i], bias, rates, skip, self.y, rows, self.eps,
                W, D, N, tiles.rows, columns, num_warps=tiles.warps, **options)
        elif kernel == "leave":
            self._product(self.y, outwards, self.change, self.plan.leave)
        else:
            add[(rows,)](self.change, self.hidden, self.stream, self.squares, W, triton.next_power_of_2(W), **options)

    def _columns(self, tiles: Tiles) -> int:
        """Columns of a tile: a divisor of the inner width."""
        columns = tiles.columns
        while self.D % columns:
            columns //= 2
        return columns

    def _product(self, x: Tensor, weight: Tensor, out: Tensor, tiles: Tiles | None) -> None:
        (count, depth), rows = weight.shape, self.rows
        block = min(256, depth & -depth)  # the largest power of two that divides it
        if tiles is None or self.weights != torch.bfloat16 or not block >= 16 or depth > 6 * block:
            torch.mm(x, weight.t(), out=out)
            return
        product[triton.cdiv(count, tiles.columns), triton.cdiv(rows, tiles.rows)](
            x, weight, out, rows, count, depth, tiles.rows, tiles.columns, block, EARLY=self.early,
            launch_pdl=self.early, num_warps=tiles.warps)


def _weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return weight.detach().to(dtype).contiguous()


def _layer(norm, mixer, weights: torch.dtype) -> tuple[Tensor, ...]:
    """Weights in the order in which `MambaDecoder.run` takes them."""
    def exact(x: Tensor) -> Tensor:
        return _weight(x, torch.float32)

    step, *ends = mixer.x_proj.weight.split([mixer.dt_rank, mixer.d_state, mixer.d_state])
    step = (mixer.dt_proj.weight.double() @ step.double()).to(step.dtype)
    return (_weight(mixer.in_proj.weight * norm.weight, weights), exact(mixer.conv1d.weight[:, 0].t()),
            exact(mixer.conv1d.bias), _weight(torch.cat([step, *ends]), weights), exact(mixer.dt_proj.bias),
            exact(-torch.exp(mixer.A_log.double()) / 0.6931471805599453), exact(mixer.D),
            _weight(mixer.out_proj.weight, weights))
