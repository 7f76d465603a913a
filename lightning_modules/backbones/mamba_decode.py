"""One decoding step of Mamba on CUDA in four Triton kernels a layer; imported where it is used, since Triton is.

A step reads the weights once and reads and writes the states: it is bound by memory where the batch is large, and by
the latency of many small kernels where it is small. So the norm and the convolution ride on the input projection; the
two projections to the step size are one matrix (nothing stands between them); and on Hopper each kernel is launched
while the one before it runs (programmatic dependent launch), and fetches its weights into the cache meanwhile.

Kernels take `rows` of a batch. Weights are [out, in], as torch has them. What they call `squares` [rows, tiles] are
the sums of squares of each tile of the residual stream, which the next norm adds up.
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
def _fetch(weight, n, K: tl.constexpr):
    """Ask for rows `n` of a matrix [N, K] of 2-byte numbers to be brought into the L2 cache: a line has 128 bytes."""
    k = tl.arange(0, triton.next_power_of_2(K) // 64) * 64
    lines = weight + n[:, None] * K + tl.where(k < K, k, 0)
    tl.inline_asm_elementwise("prefetch.global.L2 [$1]; // $0", "=r,l", [lines], dtype=tl.int32, is_pure=False, pack=1)


@triton.jit
def _begin(weight, n, N: tl.constexpr, K: tl.constexpr, EARLY: tl.constexpr):
    """Let the next kernel start, and wait for the one before; nothing that it writes may be read before this."""
    if EARLY:
        cuda.gdc_launch_dependents()
        if weight.dtype.element_ty == tl.bfloat16 and K >= 64:
            _fetch(weight, tl.minimum(n, N - 1), K)
        cuda.gdc_wait()


@triton.jit
def _product(x, weight, m, n, rows, N: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
             BK: tl.constexpr, PRECISION: tl.constexpr):
    """Tile [BM, BN], float32, of x [rows, K] @ weight [N, K].T."""
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        a = tl.load(x + m[:, None] * K + k, mask=(m < rows)[:, None] & (k < K), other=0.0)
        w = tl.load(weight + n * K + k[:, None], mask=(n < N) & (k < K)[:, None], other=0.0)
        total = tl.dot(a, w, total, input_precision=PRECISION)
    return total


@triton.jit
def _scale(squares, m, rows, eps, WIDTH: tl.constexpr, TILES: tl.constexpr, TP: tl.constexpr):
    """1 / rms of each row of the residual stream, which is WIDTH wide."""
    t = tl.arange(0, TP)
    parts = tl.load(squares + m[:, None] * TILES + t, mask=(m < rows)[:, None] & (t < TILES), other=0.0)
    return tl.rsqrt(tl.sum(parts, 1) / WIDTH + eps)


@triton.jit
def embed(tokens, table, hidden, stream, squares, W: tl.constexpr, WP: tl.constexpr, TILES: tl.constexpr,
          TP: tl.constexpr):
    """hidden [rows, W] float32 and stream [rows, W], the same in the weights' type, from table [V, W]."""
    row, w, t = tl.program_id(0), tl.arange(0, WP), tl.arange(0, TP)
    token = tl.load(tokens + row).to(tl.int64)
    value = tl.load(table + token * W + w, mask=w < W, other=0.0).to(tl.float32)
    tl.store(hidden + row * W + w, value, mask=w < W)
    tl.store(stream + row * W + w, value.to(stream.dtype.element_ty), mask=w < W)
    tl.store(squares + row * TILES + t, tl.where(t == 0, tl.sum(value * value, 0), 0.0), mask=t < TILES)


@triton.jit
def enter(stream, squares, weight, recent, taps, bias, u, gate, rows, eps, W: tl.constexpr, D: tl.constexpr,
          TILES: tl.constexpr, TP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
          PRECISION: tl.constexpr, EARLY: tl.constexpr):
    """u [rows, D] = silu(convolution of x), gate [rows, D] = silu(z), with (x, z) = norm(stream) @ weight.T.

    weight [2 D, W], the norm's included; recent [rows, 3, D]: the inputs x before, shifted by one; taps [4, D]. D is a
    multiple of BN, so that a tile is of x or of z.
    """
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    _begin(weight, n, 2 * D, W, EARLY)
    x = _product(stream, weight, m, n, rows, 2 * D, W, BM, BN, BK, PRECISION)
    x *= _scale(squares, m, rows, eps, W, TILES, TP)[:, None]
    mask = (m < rows)[:, None] & (n < 2 * D)
    if tl.program_id(0) * BN >= D:
        tl.store(gate + m[:, None] * D + n - D, (x * tl.sigmoid(x)).to(gate.dtype.element_ty), mask=mask)
    else:
        before = recent + m[:, None] * (3 * D) + n
        x0 = tl.load(before, mask=mask, other=0.0)
        x1 = tl.load(before + D, mask=mask, other=0.0)
        x2 = tl.load(before + 2 * D, mask=mask, other=0.0)
        tl.store(before, x1, mask=mask)
        tl.store(before + D, x2, mask=mask)
        tl.store(before + 2 * D, x.to(x2.dtype), mask=mask)
        value = tl.load(bias + n) + tl.load(taps + n) * x0.to(tl.float32) + tl.load(taps + D + n) * x1.to(tl.float32)
        value += tl.load(taps + 2 * D + n) * x2.to(tl.float32) + tl.load(taps + 3 * D + n) * x
        tl.store(u + m[:, None] * D + n, (value * tl.sigmoid(value)).to(u.dtype.element_ty), mask=mask)


@triton.jit
def select(u, weight, bias, delta, ends, rows, D: tl.constexpr, N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
           BK: tl.constexpr, PRECISION: tl.constexpr, EARLY: tl.constexpr):
    """delta [rows, D] = softplus(first D columns of u @ weight.T + bias), ends [rows, 2 N] = the others, B and C.

    weight [D + 2 N, D]; delta and ends are float32. D is a multiple of BN.
    """
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    _begin(weight, n, D + 2 * N, D, EARLY)
    value = _product(u, weight, m, n, rows, D + 2 * N, D, BM, BN, BK, PRECISION)
    if tl.program_id(0) * BN < D:
        value += tl.load(bias + n)
        grown = tl.exp(tl.minimum(value, 20.0))
        # log(1 + e) of a small e would lose its digits.
        soft = tl.where(grown < 1e-3, grown * (1 - 0.5 * grown), tl.log(1 + grown))
        tl.store(delta + m[:, None] * D + n, tl.where(value > 20.0, value, soft), mask=(m < rows)[:, None])
    else:
        place = n - D
        tl.store(ends + m[:, None] * (2 * N) + place, value, mask=(m < rows)[:, None] & (place < 2 * N))


@triton.jit
def update(delta, ends, u, gate, state, rates, skip, y, rows, D: tl.constexpr, N: tl.constexpr, BM: tl.constexpr,
           BD: tl.constexpr, EARLY: tl.constexpr):
    """y [rows, D] = (C h + D u) gate, after h = exp(delta A) h + delta u B: state [rows, D, N], in place.

    rates [D, N]: A / log(2), negative; D is a multiple of BD.
    """
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.arange(0, N)
    rate = tl.load(rates + d[:, None] * N + n)
    weight = tl.load(skip + d)
    if EARLY:
        cuda.gdc_launch_dependents()
        cuda.gdc_wait()
    alive = m < rows
    mask = alive[:, None] & (d < D)
    place = m[:, None] * D + d
    cells = state + place[:, :, None] * N + n
    h = tl.load(cells, mask=mask[:, :, None], other=0.0).to(tl.float32)
    step = tl.load(delta + place, mask=mask, other=0.0)
    x = tl.load(u + place, mask=mask, other=0.0).to(tl.float32)
    into = tl.load(ends + m[:, None] * (2 * N) + n, mask=alive[:, None], other=0.0)
    out = tl.load(ends + m[:, None] * (2 * N) + N + n, mask=alive[:, None], other=0.0)
    h = tl.exp2(step[:, :, None] * rate[None]) * h + (step * x)[:, :, None] * into[:, None, :]
    tl.store(cells, h.to(state.dtype.element_ty), mask=mask[:, :, None])
    result = tl.sum(h * out[:, None, :], 2) + weight * x
    result *= tl.load(gate + place, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + place, result.to(y.dtype.element_ty), mask=mask)


@triton.jit
def leave(y, weight, hidden, stream, squares, rows, W: tl.constexpr, D: tl.constexpr, TILES: tl.constexpr,
          BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr, EARLY: tl.constexpr):
    """hidden [rows, W] float32 += y [rows, D] @ weight.T, also into `stream`, and the sums of squares of its tiles."""
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    _begin(weight, n, W, D, EARLY)
    value = _product(y, weight, m, n, rows, W, D, BM, BN, BK, PRECISION)
    place, mask = m[:, None] * W + n, (m < rows)[:, None] & (n < W)
    value += tl.load(hidden + place, mask=mask, other=0.0)
    tl.store(hidden + place, value, mask=mask)
    tl.store(stream + place, value.to(stream.dtype.element_ty), mask=mask)
    total = tl.sum(tl.where(mask, value * value, 0.0), 1)
    tl.store(squares + m * TILES + tl.program_id(0), total, mask=m < rows)


@triton.jit
def score(stream, squares, weight, logits, rows, eps, W: tl.constexpr, V: tl.constexpr, TILES: tl.constexpr,
          TP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr,
          EARLY: tl.constexpr):
    """logits [rows, V] float32 = norm(stream) @ weight.T; weight [V, W], the norm's included."""
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    _begin(weight, n, V, W, EARLY)
    value = _product(stream, weight, m, n, rows, V, W, BM, BN, BK, PRECISION)
    value *= _scale(squares, m, rows, eps, W, TILES, TP)[:, None]
    tl.store(logits + m[:, None] * V + n, value, mask=(m < rows)[:, None] & (n < V))


@dataclass(frozen=True, slots=True)
class Tiles:
    """Rows, columns and depth of a program's tile, and its warps and pipeline stages."""

    rows: int
    columns: int
    depth: int = 0
    warps: int = 4
    stages: int = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """Tiles of the kernels for a number of rows, as measured on an H100 by benchmarks/decode.py."""

    enter: Tiles
    select: Tiles
    update: Tiles
    leave: Tiles
    early: bool = True


def plan(rows: int) -> Plan:
    """The plan for so many rows."""
    if rows <= 64:
        return Plan(Tiles(64, 32, 128), Tiles(64, 16, 128), Tiles(2, 32), Tiles(16, 32, 128))
    if rows <= 256:
        return Plan(Tiles(64, 128, 64), Tiles(64, 64, 64), Tiles(4, 32), Tiles(64, 32, 128))
    return Plan(Tiles(128, 256, 64, 8), Tiles(128, 128, 64, 8), Tiles(4, 32), Tiles(64, 64, 128))


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
        self.precision = "tf32x3" if weights == torch.float32 else "tf32"  # of float32 operands only
        self.embedding = body["embedding"].weight.detach()
        device = self.embedding.device
        self.early = self.plan.early and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9
        self.head = _weight(backbone.lm_head.weight * body["norm_f"].weight, weights)
        self.layers = [_layer(layer["norm"], layer["mixer"], weights) for layer in layers]
        self.recent = torch.zeros(len(layers), rows, TAPS - 1, self.D, dtype=weights, device=device)
        self.state = torch.zeros(len(layers), rows, self.D, self.N, dtype=states, device=device)

        def new(width: int, dtype: torch.dtype) -> Tensor:
            return torch.empty(rows, width, dtype=dtype, device=device)

        self.tiles = triton.cdiv(self.W, self.plan.leave.columns)
        self.stream, self.u, self.gate, self.y = (new(n, weights) for n in (self.W, self.D, self.D, self.D))
        self.hidden, self.squares, self.delta, self.ends, self.logits = (
            new(n, torch.float32) for n in (self.W, self.tiles, self.D, 2 * self.N, self.V))

    def step(self, tokens: Tensor) -> Tensor:
        """Logits, float32 [B, V], after one more token a row, [B]; the same tensor every time."""
        power = triton.next_power_of_2
        embed[(self.rows,)](tokens.contiguous(), self.embedding, self.hidden, self.stream, self.squares, self.W,
                            power(self.W), self.tiles, power(self.tiles))
        for i in range(len(self.layers)):
            for kernel in ("enter", "select", "update", "leave"):
                self.run(kernel, i)
        grid = triton.cdiv(self.V, 16), triton.cdiv(self.rows, 16)
        score[grid](self.stream, self.squares, self.head, self.logits, self.rows, self.eps, self.W, self.V, self.tiles,
                    power(self.tiles), 16, 16, self._depth(128, self.W), self.precision, self.early,
                    launch_pdl=self.early)
        return self.logits

    def reset(self, rows: Tensor) -> None:
        self.recent.index_fill_(1, rows, 0)
        self.state.index_fill_(1, rows, 0)

    @staticmethod
    def _depth(depth: int, width: int) -> int:
        return max(16, min(depth, triton.next_power_of_2(width)))

    def _columns(self, tiles: Tiles) -> int:
        """Columns of a tile: a divisor of the inner width."""
        columns = tiles.columns
        while self.D % columns:
            columns //= 2
        return columns

    def run(self, kernel: str, i: int) -> None:
        """One of the kernels of layer `i`, named as in `Plan`."""
        inwards, taps, conv_bias, selection, dt_bias, rates, skip, outwards = self.layers[i]
        tiles, power = getattr(self.plan, kernel), triton.next_power_of_2
        columns = tiles.columns if kernel == "leave" else self._columns(tiles)
        down = triton.cdiv(self.rows, tiles.rows)
        options = {"num_warps": tiles.warps, "num_stages": tiles.stages, "launch_pdl": self.early}
        W, D, N, rows = self.W, self.D, self.N, self.rows
        if kernel == "enter":
            enter[triton.cdiv(2 * D, columns), down](
                self.stream, self.squares, inwards, self.recent[i], taps, conv_bias, self.u, self.gate, rows, self.eps,
                W, D, self.tiles, power(self.tiles), tiles.rows, columns, self._depth(tiles.depth, W), self.precision,
                self.early, **options)
        elif kernel == "select":
            select[triton.cdiv(D + 2 * N, columns), down](
                self.u, selection, dt_bias, self.delta, self.ends, rows, D, N, tiles.rows, columns,
                self._depth(tiles.depth, D), self.precision, self.early, **options)
        elif kernel == "update":
            update[D // columns, down](
                self.delta, self.ends, self.u, self.gate, self.state[i], rates, skip, self.y, rows, D, N, tiles.rows,
                columns, self.early, **options)
        else:
            leave[triton.cdiv(W, columns), down](
                self.y, outwards, self.hidden, self.stream, self.squares, rows, W, D, self.tiles, tiles.rows, columns,
                self._depth(tiles.depth, D), self.precision, self.early, **options)


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
