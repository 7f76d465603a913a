"""One decoding step of Mamba on CUDA in four Triton kernels a layer; imported where it is used, since Triton is.

A step is bound by memory: the weights are read once, the states are read and written. What these kernels save over the
library's step (seven kernels a layer) is launches and small passes: the norm rides on the input projection, the
convolution on the projection to step sizes, B and C, and the step sizes on the update of the state.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from lightning_modules.backbones.decoder import Decoder

TAPS = 4
"""Width of the convolution that the kernels are written for."""


@triton.jit
def project_normed(hidden, weight, out, rows, eps, K: tl.constexpr, N: tl.constexpr, BM: tl.constexpr,
                   BN: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr):
    """out [rows, N] = hidden / rms(hidden) @ weight.T; hidden [rows, K] float32; weight [N, K], the norm's included."""
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    inside = (m < rows)[:, None]
    total = tl.zeros((BM, BN), tl.float32)
    squares = tl.zeros((BM,), tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        a = tl.load(hidden + m[:, None] * K + k, mask=inside & (k < K), other=0.0)
        w = tl.load(weight + n * K + k[:, None], mask=(n < N) & (k < K)[:, None], other=0.0)
        squares += tl.sum(a * a, 1)
        total = tl.dot(a.to(w.dtype), w, total, input_precision=PRECISION)
    total *= tl.rsqrt(squares / K + eps)[:, None]
    tl.store(out + m[:, None] * N + n, total.to(out.dtype.element_ty), mask=inside & (n < N))


@triton.jit
def project_onto(x, weight, hidden, rows, K: tl.constexpr, N: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
                 BK: tl.constexpr, PRECISION: tl.constexpr):
    """hidden [rows, N] float32 += x [rows, K] @ weight.T, weight [N, K]."""
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    n = tl.program_id(0) * BN + tl.arange(0, BN)
    inside = (m < rows)[:, None]
    total = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        k = start + tl.arange(0, BK)
        a = tl.load(x + m[:, None] * K + k, mask=inside & (k < K), other=0.0)
        w = tl.load(weight + n * K + k[:, None], mask=(n < N) & (k < K)[:, None], other=0.0)
        total = tl.dot(a, w, total, input_precision=PRECISION)
    place, mask = hidden + m[:, None] * N + n, inside & (n < N)
    tl.store(place, tl.load(place, mask=mask, other=0.0) + total, mask=mask)


@triton.jit
def convolve_and_select(xz, recent, taps, bias, weight, u, partial, rows, D: tl.constexpr, P: tl.constexpr,
                        PP: tl.constexpr, SHARE: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr,
                        PRECISION: tl.constexpr):
    """u [rows, D] = silu(convolution), and this program's share of u @ weight.T (step size, B and C), weight [P, D].

    xz [rows, 2 D]: inputs, then gates; recent [rows, 3, D]: the inputs before, shifted by one; taps [4, D];
    partial [D / SHARE, rows, P] float32: sums over SHARE channels each, which the next kernel adds up.
    """
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    inside = (m < rows)[:, None]
    p = tl.arange(0, PP)
    total = tl.zeros((BM, PP), tl.float32)
    first = tl.program_id(0) * SHARE
    for start in range(0, SHARE, BK):
        k = first + start + tl.arange(0, BK)
        mask = inside & (k < D)
        before = recent + m[:, None] * (3 * D) + k
        x0 = tl.load(before, mask=mask, other=0.0).to(tl.float32)
        x1 = tl.load(before + D, mask=mask, other=0.0)
        x2 = tl.load(before + 2 * D, mask=mask, other=0.0)
        x3 = tl.load(xz + m[:, None] * (2 * D) + k, mask=mask, other=0.0)
        tl.store(before, x1, mask=mask)
        tl.store(before + D, x2, mask=mask)
        tl.store(before + 2 * D, x3.to(x2.dtype), mask=mask)
        known = k < D
        value = tl.load(bias + k, mask=known, other=0.0) + tl.load(taps + k, mask=known, other=0.0) * x0
        value += tl.load(taps + D + k, mask=known, other=0.0) * x1.to(tl.float32)
        value += tl.load(taps + 2 * D + k, mask=known, other=0.0) * x2.to(tl.float32)
        value += tl.load(taps + 3 * D + k, mask=known, other=0.0) * x3.to(tl.float32)
        value = value * tl.sigmoid(value)
        w = tl.load(weight + p * D + k[:, None], mask=(p < P) & known[:, None], other=0.0)
        value = value.to(w.dtype)
        tl.store(u + m[:, None] * D + k, value, mask=mask)
        total = tl.dot(value, w, total, input_precision=PRECISION)
    place = partial + (tl.program_id(0) * rows + m)[:, None] * P + p
    tl.store(place, total, mask=inside & (p < P))


@triton.jit
def update_state(partial, u, xz, state, dt_weight, dt_bias, rates, skip, y, rows, D: tl.constexpr, N: tl.constexpr,
                 R: tl.constexpr, RP: tl.constexpr, SHARES: tl.constexpr, BM: tl.constexpr, BD: tl.constexpr,
                 PRECISION: tl.constexpr):
    """y [rows, D] = (C h + D u) silu(z) after h = exp(delta A) h + delta u B, with delta = softplus(dt_proj(dt)).

    state [rows, D, N] is updated in place; rates [D, N]: A, negative; partial: see `convolve_and_select`.
    """
    d = tl.program_id(0) * BD + tl.arange(0, BD)
    m = tl.program_id(1) * BM + tl.arange(0, BM)
    r, n = tl.arange(0, RP), tl.arange(0, N)
    alive, known = m < rows, d < D
    P: tl.constexpr = R + 2 * N
    step, into, out = tl.zeros((BM, RP), tl.float32), tl.zeros((BM, N), tl.float32), tl.zeros((BM, N), tl.float32)
    for share in tl.static_range(SHARES):
        line = partial + (share * rows + m)[:, None] * P
        step += tl.load(line + r, mask=alive[:, None] & (r < R), other=0.0)
        into += tl.load(line + R + n, mask=alive[:, None], other=0.0)
        out += tl.load(line + R + N + n, mask=alive[:, None], other=0.0)
    w = tl.load(dt_weight + d * R + r[:, None], mask=known & (r < R)[:, None], other=0.0)
    step = tl.dot(step.to(w.dtype), w, input_precision=PRECISION) + tl.load(dt_bias + d, mask=known, other=0.0)
    grown = tl.exp(tl.minimum(step, 20.0))
    # log(1 + e) of a small e would lose its digits.
    delta = tl.where(step > 20.0, step, tl.where(grown < 1e-3, grown * (1 - 0.5 * grown), tl.log(1 + grown)))
    mask = alive[:, None] & known
    x = tl.load(u + m[:, None] * D + d, mask=mask, other=0.0).to(tl.float32)
    rate = tl.load(rates + d[:, None] * N + n, mask=known[:, None], other=0.0)
    cells = state + (m[:, None] * D + d)[:, :, None] * N + n
    h = tl.load(cells, mask=mask[:, :, None], other=0.0).to(tl.float32)
    h = tl.exp(delta[:, :, None] * rate[None]) * h + (delta * x)[:, :, None] * into[:, None, :]
    tl.store(cells, h.to(state.dtype.element_ty), mask=mask[:, :, None])
    result = tl.sum(h * out[:, None, :], 2) + tl.load(skip + d, mask=known, other=0.0) * x
    z = tl.load(xz + m[:, None] * (2 * D) + D + d, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + m[:, None] * D + d, (result * z * tl.sigmoid(z)).to(y.dtype.element_ty), mask=mask)


@triton.jit
def embed(tokens, table, hidden, K: tl.constexpr, KP: tl.constexpr):
    """hidden [rows, K] float32 = table[tokens]."""
    row, k = tl.program_id(0), tl.arange(0, KP)
    token = tl.load(tokens + row).to(tl.int64)
    tl.store(hidden + row * K + k, tl.load(table + token * K + k, mask=k < K, other=0.0).to(tl.float32), mask=k < K)


@dataclass(frozen=True, slots=True)
class Tiles:
    """Rows, columns and depth of a program's tile, and its warps and pipeline stages."""

    rows: int
    columns: int
    depth: int
    warps: int = 4
    stages: int = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """Tiles of the kernels for a number of rows, as measured on an H100 by benchmarks/decode.py."""

    inwards: Tiles
    convolve: Tiles
    update: Tiles
    outwards: Tiles


def plan(rows: int) -> Plan:
    """The plan for so many rows."""
    if rows <= 64:
        return Plan(Tiles(64, 32, 128), Tiles(16, 256, 64), Tiles(16, 32, 0), Tiles(16, 32, 128))
    if rows <= 256:
        return Plan(Tiles(64, 64, 64), Tiles(16, 256, 64), Tiles(16, 32, 0), Tiles(32, 32, 128))
    return Plan(Tiles(128, 128, 64, 8), Tiles(32, 384, 64), Tiles(16, 32, 0), Tiles(64, 64, 64))


class MambaDecoder(Decoder):
    """Steps of a Mamba with weights and states in types of their own, for a fixed number of rows.

    States: recent inputs [n_layer, B, 3, D] in the weights' type, and h [n_layer, B, D, N] in `states`' type.
    """

    def __init__(self, backbone, rows: int, weights: torch.dtype, states: torch.dtype,
                 tiles: Plan | None = None) -> None:
        layers = backbone.backbone["layers"]
        mixer = layers[0]["mixer"]
        self.rows, self.plan = rows, tiles or plan(rows)
        self.d_inner, self.d_state, self.dt_rank = mixer.d_inner, mixer.d_state, mixer.dt_rank
        self.d_model, self.vocab_size = backbone.lm_head.in_features, backbone.vocab_size
        self.eps = backbone.backbone["norm_f"].eps
        self.precision = "ieee" if weights == torch.float32 else "tf32"  # of float32 operands only
        self.embedding = backbone.backbone["embedding"].weight.detach()
        self.head = self._weight(backbone.lm_head.weight * backbone.backbone["norm_f"].weight, weights)
        self.layers = [self._layer(layer["norm"], layer["mixer"], weights) for layer in layers]
        device, D = self.embedding.device, self.d_inner
        self.recent = torch.zeros(len(layers), rows, TAPS - 1, D, dtype=weights, device=device)
        self.state = torch.zeros(len(layers), rows, D, self.d_state, dtype=states, device=device)
        self.share = min(self.plan.convolve.columns, triton.next_power_of_2(D))
        new = lambda *shape, dtype=weights: torch.empty(*shape, dtype=dtype, device=device)  # noqa: E731
        self.hidden, self.logits = (new(rows, n, dtype=torch.float32) for n in (self.d_model, self.vocab_size))
        self.xz, self.u, self.y = new(rows, 2 * D), new(rows, D), new(rows, D)
        self.partial = new(-(-D // self.share), rows, self.dt_rank + 2 * self.d_state, dtype=torch.float32)

    @staticmethod
    def _weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
        return weight.detach().to(dtype).contiguous()

    def _layer(self, norm, mixer, weights: torch.dtype) -> Sequence[Tensor]:
        """Weights in the order that `step` takes them."""
        def exact(x: Tensor) -> Tensor:
            return self._weight(x, torch.float32)

        return (self._weight(mixer.in_proj.weight * norm.weight, weights), exact(mixer.conv1d.weight[:, 0].t()),
                exact(mixer.conv1d.bias), self._weight(mixer.x_proj.weight, weights),
                self._weight(mixer.dt_proj.weight, weights), exact(mixer.dt_proj.bias), exact(-torch.exp(mixer.A_log)),
                exact(mixer.D), self._weight(mixer.out_proj.weight, weights))

    def step(self, tokens: Tensor) -> Tensor:
        """Logits, float32 [B, V], after one more token a row, [B]; the same tensor every time."""
        embed[(self.rows,)](tokens, self.embedding, self.hidden, self.d_model, triton.next_power_of_2(self.d_model))
        for i, layer in enumerate(self.layers):
            for kernel in ("inwards", "convolve", "update", "outwards"):
                self.run(kernel, layer, self.recent[i], self.state[i])
        self._normed(self.head, self.logits, Tiles(16, 16, 128))
        return self.logits

    def reset(self, rows: Tensor) -> None:
        self.recent.index_fill_(1, rows, 0)
        self.state.index_fill_(1, rows, 0)

    def _normed(self, weight: Tensor, out: Tensor, tiles: Tiles) -> None:
        count, depth = weight.shape
        grid = triton.cdiv(count, tiles.columns), triton.cdiv(self.rows, tiles.rows)
        project_normed[grid](self.hidden, weight, out, self.rows, self.eps, depth, count, tiles.rows, tiles.columns,
                             tiles.depth, self.precision, num_warps=tiles.warps, num_stages=tiles.stages)

    def run(self, kernel: str, layer: Sequence[Tensor], recent: Tensor, state: Tensor) -> None:
        """One of the four kernels of a layer, named as in `Plan`."""
        inwards, taps, bias, selection, dt_weight, dt_bias, rates, skip, outwards = layer
        rows, D, N, R = self.rows, self.d_inner, self.d_state, self.dt_rank
        tiles = getattr(self.plan, kernel)
        options = {"num_warps": tiles.warps, "num_stages": tiles.stages}
        down = triton.cdiv(rows, tiles.rows)
        if kernel == "inwards":
            self._normed(inwards, self.xz, tiles)
        elif kernel == "convolve":
            width = R + 2 * N
            convolve_and_select[len(self.partial), down](
                self.xz, recent, taps, bias, selection, self.u, self.partial, rows, D, width,
                max(16, triton.next_power_of_2(width)), self.share, tiles.rows, tiles.depth, self.precision, **options)
        elif kernel == "update":
            update_state[triton.cdiv(D, tiles.columns), down](
                self.partial, self.u, self.xz, state, dt_weight, dt_bias, rates, skip, self.y, rows, D, N, R,
                max(16, triton.next_power_of_2(R)), len(self.partial), tiles.rows, tiles.columns, self.precision,
                **options)
        else:
            project_onto[triton.cdiv(self.d_model, tiles.columns), down](
                self.y, outwards, self.hidden, rows, D, self.d_model, tiles.rows, tiles.columns, tiles.depth,
                self.precision, **options)
