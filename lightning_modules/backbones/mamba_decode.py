"""One decoding step of Mamba on CUDA; imported where it is used, since Triton is.

A step reads the weights once and reads and writes the states: it is bound by memory where the batch is large, and by
the latency of many small kernels where it is small. `MambaDecoder` has two ways through the layers:

- six kernels a layer, here, for any rows, types and GPU: three matrix products (cuBLAS), and between them the
  convolution (norm included), the recurrence (step size and gate included) and the residual. The two projections to the
  step size are one matrix, as nothing stands between them;
- three kernels a layer that overlap (mamba_layer.py), with weights in bfloat16, on compute capability 9.0.

How fast they are, and what was tried: docs/performance.md. Weights are [out, in], as torch has them.
"""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from length_gen.lightning_modules.backbones import mamba_layer
from length_gen.lightning_modules.backbones.decoder import Decoder, device_guard

TAPS = 4
"""Width of the convolution that the kernels are written for."""


@triton.jit
def embed(tokens, table, hidden, stream, squares, clock, W: tl.constexpr, WP: tl.constexpr, PARTS: tl.constexpr,
          BLOCKS: tl.constexpr):
    """hidden [rows, W] float32 and stream [rows, W], the same in the weights' type, from table [V, W].

    squares [rows, PARTS]: sum of a row's squares, in the first part; clock [1] counts the steps.
    BLOCKS: whether stream is in blocks, as mamba_layer.cu has it (`tiled`)
    """
    row, w = tl.program_id(0), tl.arange(0, WP)
    if row == 0:
        tl.store(clock, tl.load(clock) + 1)
    token = tl.load(tokens + row).to(tl.int64)
    value = tl.load(table + token * W + w, mask=w < W, other=0.0).to(tl.float32)
    tl.store(hidden + row * W + w, value, mask=w < W)
    if BLOCKS:
        place = ((row // 64 * (W // 64) + w // 64) * 64 + row % 64) * 64 + (w % 64 // 8 ^ row % 8) * 8 + w % 8
    else:
        place = row * W + w
    tl.store(stream + place, value.to(stream.dtype.element_ty), mask=w < W)
    tl.store(squares + row * PARTS, tl.sum(value * value, 0))


@triton.jit
def add(change, hidden, stream, squares, W: tl.constexpr, WP: tl.constexpr):
    """hidden [rows, W] += change [rows, W], and what `embed` derives from it."""
    place, w = tl.program_id(0) * W + tl.arange(0, WP), tl.arange(0, WP)
    value = tl.load(hidden + place, mask=w < W, other=0.0)
    value += tl.load(change + place, mask=w < W, other=0.0).to(tl.float32)
    tl.store(hidden + place, value, mask=w < W)
    tl.store(stream + place, value.to(stream.dtype.element_ty), mask=w < W)
    tl.store(squares + tl.program_id(0), tl.sum(value * value, 0))


@triton.jit
def convolve(xz, squares, recent, clock, taps, bias, u, rows, eps, W: tl.constexpr, D: tl.constexpr, BM: tl.constexpr,
             BD: tl.constexpr):
    """u [rows, D] = silu(convolution of x), where xz [rows, 2 D], of a stream W wide, still needs its norm's scale.

    recent [rows, 3, D]: the inputs before, a ring; taps [4, D]. D is a multiple of BD.
    """
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    first, second, third, last = (tl.load(taps + d), tl.load(taps + D + d), tl.load(taps + 2 * D + d),
                                  tl.load(taps + 3 * D + d))
    value = tl.load(bias + d)[None]
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
           N: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr):
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
          BN: tl.constexpr, BK: tl.constexpr, PARTS: tl.constexpr, PP: tl.constexpr, PRECISION: tl.constexpr):
    """logits [rows, V] float32 = norm(stream) @ weight.T, in weight's type.

    weight: [V, W], the norm's included; squares: [rows, PARTS]
    """
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, W, BK):
        k = start + tl.arange(0, BK)
        a = tl.load(stream + m[:, None] * W + k, mask=(m < rows)[:, None] & (k < W), other=0.0)
        a = a.to(weight.dtype.element_ty)
        w = tl.load(weight + n * W + k[:, None], mask=(n < V) & (k < W)[:, None], other=0.0)
        total = tl.dot(a, w, total, input_precision=PRECISION)
    p = tl.arange(0, PP)
    parts = tl.load(squares + m[:, None] * PARTS + p, mask=(m < rows)[:, None] & (p < PARTS), other=0.0)
    total *= tl.rsqrt(tl.sum(parts, 1) / W + eps)[:, None]
    tl.store(logits + m[:, None] * V + n, total, mask=(m < rows)[:, None] & (n < V))


@dataclass(frozen=True, slots=True)
class Tiles:
    """Rows and columns of a program's tile, and its warps; the defaults below as measured by benchmarks/decode.py."""

    rows: int
    columns: int
    warps: int = 4


def can_decode(backbone) -> bool:
    """Whether the kernels are written for a Mamba of this shape; they have no floor under the step sizes."""
    mixer = backbone.backbone["layers"][0].mixer
    sizes = mixer.d_conv == TAPS and mixer.d_inner % 16 == 0 and mixer.d_state in (8, 16, 32, 64, 128)
    return sizes and not mixer.dt_floor


class MambaDecoder(Decoder):
    """Steps of a Mamba with weights and states in types of their own, for a fixed number of rows.

    States: recent inputs [n_layer, B / e, e, 3, D / c, c] in the weights' type, where the kernels have e rows and c
    channels in a block, and h [n_layer, B, D, N] in `states`' type.
    kernels: "layer": three a layer (mamba_layer); "six"; None: three where they are for this model (`fits`). Raises
             ValueError for another, or where three are asked for that are not for this model

    `can_decode` says which shapes it is for.
    """

    def __init__(self, backbone, rows: int, weights: torch.dtype, states: torch.dtype,
                 convolve_tiles: Tiles = Tiles(4, 64), update_tiles: Tiles = Tiles(1, 128),
                 kernels: str | None = None) -> None:
        layers, body = backbone.backbone["layers"], backbone.backbone
        mixer = layers[0].mixer
        super().__init__(backbone)
        self.rows, self.eps, self.weights = rows, body["norm_f"].eps, weights
        self.convolve_tiles, self.update_tiles = convolve_tiles, update_tiles
        self.W, self.D, self.N, self.V = (backbone.lm_head.in_features, mixer.d_inner, mixer.d_state,
                                          backbone.vocab_size)
        self.embedding = body["embedding"].weight.detach()
        device = self.embedding.device
        self.head = _weight(backbone.lm_head.weight * body["norm_f"].weight, weights)
        self.state = torch.zeros(len(layers), rows, self.D, self.N, dtype=states, device=device)
        self.clock = torch.zeros(1, dtype=torch.int32, device=device)

        def new(width: int, dtype: torch.dtype = weights) -> Tensor:
            return torch.empty(rows, width, dtype=dtype, device=device)

        self.whole, self.logits = None, new(self.V, torch.float32)
        if kernels is None:
            kernels = "layer" if mamba_layer.fits(backbone, rows, weights, states) else "six"
        elif kernels not in ("layer", "six"):
            raise ValueError(f"unknown kernels {kernels!r}: expected 'layer' or 'six'")
        elif kernels == "layer" and not mamba_layer.takes(backbone, rows, weights, states):
            raise ValueError(f"kernels 'layer' do not take {rows} rows of {backbone.description}, {weights}, "
                             f"{states}: see {mamba_layer.__name__}.takes")
        self.kernels = kernels
        self.recent = (mamba_layer.recent_inputs(len(layers), rows, self.D, device) if kernels == "layer" else
                       torch.zeros(len(layers), rows, 1, TAPS - 1, 1, self.D, dtype=weights, device=device))
        if kernels == "layer":
            self.whole = mamba_layer.MambaLayers(backbone, rows, self.recent, self.state, self.clock)
            # The embedding leaves sums of squares in the first; the head finds those after the last layer.
            self.stream, self.hidden, self.squares, self.last_squares = (
                self.whole.stream, self.whole.hidden, *self.whole.squares)
            self.last = self.hidden  # of the layers, row by row
            return
        self.layers = [_layer(layer.norm, layer.mixer, weights) for layer in layers]
        self.stream, self.change, self.u, self.y, self.xz, self.selection = (
            new(n) for n in (self.W, self.W, self.D, self.D, 2 * self.D, self.D + 2 * self.N))
        self.hidden, self.squares = (new(n, torch.float32) for n in (self.W, 1))
        self.last_squares, self.last = self.squares, self.stream

    def step(self, tokens: Tensor) -> Tensor:
        """Logits, float32 [B, V], after one more token a row, [B]; the same tensor every time."""
        with device_guard(self.embedding.device):
            return self._step(tokens)

    def _step(self, tokens: Tensor) -> Tensor:
        wide = triton.next_power_of_2(self.W)
        embed[(self.rows,)](tokens.contiguous(), self.embedding, self.hidden, self.stream, self.squares, self.clock,
                            self.W, wide, self.squares.shape[1], self.kernels == "layer")
        if self.whole:
            self.whole.step()
        else:
            for i in range(len(self.layers)):
                for kernel in ("enter", "convolve", "select", "update", "leave", "add"):
                    self.run(kernel, i)
        grid = triton.cdiv(self.V, 16), triton.cdiv(self.rows, 16)
        parts = self.last_squares.shape[1]
        score[grid](self.last, self.last_squares, self.head, self.logits, self.rows, self.eps, self.W, self.V, 16, 16,
                    max(16, min(128, wide)), parts, triton.next_power_of_2(parts), "ieee")
        return self.logits

    def reset(self, rows: Tensor) -> None:
        self.recent[(slice(None), *self._place(rows))] = self.recent.new_zeros(())  # the host would wait for 0
        self.state.index_fill_(1, rows, 0)

    def context(self) -> AbstractContextManager:
        return torch.autocast(self.embedding.device.type, self.weights, enabled=self.weights != torch.float32)

    def state_of(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        place = self._inputs(rows)
        return [(recent[place].flatten(2), state[rows])
                for recent, state in zip(self.recent, self.state, strict=True)]

    def set_state(self, rows: Tensor, state: list[tuple[Tensor, Tensor]]) -> None:
        place = self._inputs(rows)
        state = [(recent.to(self.recent.dtype), h.to(self.state.dtype)) for recent, h in state]
        for i, (recent, h) in enumerate(state):
            self.recent[(i, *place)] = recent.unflatten(2, self.recent.shape[4:])
            self.state[i, rows] = h

    def _inputs(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Of the recent inputs of rows, the oldest first, in those of a layer."""
        # A ring, whose oldest input the next step takes at its own number modulo the ring's length.
        order = (torch.arange(1, TAPS, device=rows.device) + self.clock) % (TAPS - 1)
        return (*(index[:, None] for index in self._place(rows)), order)

    def _place(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows in `recent`."""
        together = self.recent.shape[2]
        return rows // together, rows % together

    def run(self, kernel: str, i: int) -> None:
        """One of the kernels of layer `i`, where a layer is six."""
        inwards, taps, conv_bias, selection, bias, rates, skip, outwards = self.layers[i]
        W, D, N, rows = self.W, self.D, self.N, self.rows
        if kernel == "enter":
            torch.mm(self.stream, inwards.t(), out=self.xz)
        elif kernel == "convolve":
            tiles, columns = self.convolve_tiles, self._columns(self.convolve_tiles)
            convolve[D // columns, triton.cdiv(rows, tiles.rows)](
                self.xz, self.squares, self.recent[i], self.clock, taps, conv_bias, self.u, rows, self.eps, W, D,
                tiles.rows, columns, num_warps=tiles.warps)
        elif kernel == "select":
            torch.mm(self.u, selection.t(), out=self.selection)
        elif kernel == "update":
            tiles, columns = self.update_tiles, self._columns(self.update_tiles)
            update[D // columns, triton.cdiv(rows, tiles.rows)](
                self.selection, self.xz, self.squares, self.u, self.state[i], bias, rates, skip, self.y, rows, self.eps,
                W, D, N, tiles.rows, columns, num_warps=tiles.warps)
        elif kernel == "leave":
            torch.mm(self.y, outwards.t(), out=self.change)
        else:
            add[(rows,)](self.change, self.hidden, self.stream, self.squares, W, triton.next_power_of_2(W))

    def _columns(self, tiles: Tiles) -> int:
        """Columns of a tile: a divisor of the inner width."""
        columns = tiles.columns
        while self.D % columns:
            columns //= 2
        return columns


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
