"""The selective scan of Mamba-1 for training on CUDA, in Triton; imported where it is used, since Triton is.

mamba-ssm's kernel gives every channel of a row a block of threads that divide its time, so that the gradients of B and
C, sums over the channels, are added up in memory, one atomic addition for every channel, state and token. Here a warp
takes 32 channels through time, so that those sums are made in registers; tensors stay as the projections write them,
channels last; and the gate is part of the kernel. The forward pass keeps the state at every CHUNK-th token; the
backward pass makes the others again in registers.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 8
"""Tokens between the states that the forward pass keeps."""

WIDTH = 32
"""Channels of a program, a warp."""

REGISTERS: int | None = 168
"""Of a thread of the backward kernel, so that 12 warps share a multiprocessor; None: as many as the compiler likes."""

LOG2E = 1.4426950408889634


@triton.jit
def _softplus(x):
    return tl.where(x > 20.0, x, tl.log(1.0 + tl.exp(x)))


@triton.jit
def scan_forward(x, dt, z, B, C, A2, skip, bias, out, kept, length, x_row, dt_row, z_row, b_row, c_row,
                 D: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr):
    """out = (C h + D x) silu(z), [B, T, D]; kept [B, T / CHUNK, N, D] are the states before every chunk."""
    d = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, N)
    row = tl.program_id(1).to(tl.int64) * length
    rates = tl.load(A2 + n[:, None] * D + d)
    through, shift = tl.load(skip + d), tl.load(bias + d)
    h = tl.zeros_like(rates)
    for c in range(0, length // CHUNK):
        tl.store(kept + ((row // CHUNK + c) * N + n[:, None]) * D + d, h)
        for s in tl.static_range(CHUNK):
            t = row + c * CHUNK + s
            u = tl.load(x + t * x_row + d).to(tl.float32)
            step = _softplus(tl.load(dt + t * dt_row + d).to(tl.float32) + shift)
            gate = tl.load(z + t * z_row + d).to(tl.float32)
            into = tl.load(B + t * b_row + n)
            read = tl.load(C + t * c_row + n)
            h = tl.exp2(step * rates) * h + (step * u) * into[:, None]
            y = (tl.sum(h * read[:, None], 0) + through * u) * gate * tl.sigmoid(gate)
            tl.store(out + t * D + d, y.to(out.dtype.element_ty))


@triton.jit
def scan_backward(x, dt, z, B, C, A2, skip, bias, kept, dout, dx, ddt, dz, dB, dC, dA, dskip, dbias, length, x_row,
                  dt_row, z_row, b_row, c_row, D: tl.constexpr, N: tl.constexpr, WIDTH: tl.constexpr,
                  CHUNK: tl.constexpr):
    """Gradients: dx, ddt, dz [B, T, D]; dB, dC float32 [B, T, N], added to; dA [B, N, D], dskip, dbias [B, D] of each
    row."""
    d = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    n = tl.arange(0, N)
    row = tl.program_id(1).to(tl.int64) * length
    rates = tl.load(A2 + n[:, None] * D + d)
    through, shift = tl.load(skip + d), tl.load(bias + d)
    grad, grad_a = tl.zeros_like(rates), tl.zeros_like(rates)
    grad_skip, grad_bias = tl.zeros_like(through), tl.zeros_like(through)
    for back in range(0, length // CHUNK):
        c = length // CHUNK - 1 - back
        h = tl.load(kept + ((row // CHUNK + c) * N + n[:, None]) * D + d)
        states = ()
        for s in tl.static_range(CHUNK):
            t = row + c * CHUNK + s
            states = states + (h,)  # noqa: RUF005 (Triton knows no star)
            u = tl.load(x + t * x_row + d).to(tl.float32)
            step = _softplus(tl.load(dt + t * dt_row + d).to(tl.float32) + shift)
            into = tl.load(B + t * b_row + n)
            h = tl.exp2(step * rates) * h + (step * u) * into[:, None]
        for s in tl.static_range(CHUNK):
            t = row + c * CHUNK + (CHUNK - 1 - s)
            u = tl.load(x + t * x_row + d).to(tl.float32)
            raw = tl.load(dt + t * dt_row + d).to(tl.float32) + shift
            gate = tl.load(z + t * z_row + d).to(tl.float32)
            into = tl.load(B + t * b_row + n)
            read = tl.load(C + t * c_row + n)
            dy = tl.load(dout + t * D + d).to(tl.float32)
            step, opened = _softplus(raw), tl.sigmoid(gate)
            y = tl.sum(h * read[:, None], 0) + through * u
            tl.store(dz + t * D + d, (dy * y * opened * (1.0 + gate * (1.0 - opened))).to(dz.dtype.element_ty))
            dy = dy * gate * opened
            tl.atomic_add(dC + t * N + n, tl.sum(dy * h, 1), sem="relaxed")
            grad += dy * read[:, None]
            tl.atomic_add(dB + t * N + n, tl.sum(grad * (step * u), 1), sem="relaxed")
            inflow = tl.sum(grad * into[:, None], 0)
            tl.store(dx + t * D + d, (inflow * step + through * dy).to(dx.dtype.element_ty))
            h = states[CHUNK - 1 - s]
            grad *= tl.exp2(step * rates)
            past = grad * h
            draw = (tl.sum(past * rates, 0) * 0.6931471805599453 + inflow * u) * tl.sigmoid(raw)
            tl.store(ddt + t * D + d, draw.to(ddt.dtype.element_ty))
            grad_a += past * step
            grad_skip += dy * u
            grad_bias += draw
    batch = tl.program_id(1).to(tl.int64)
    tl.store(dA + (batch * N + n[:, None]) * D + d, grad_a)
    tl.store(dskip + batch * D + d, grad_skip)
    tl.store(dbias + batch * D + d, grad_bias)


class _TokenScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dt, z, B, C, A, skip, bias):
        batch, length, width = x.shape
        size = A.shape[1]
        rates = (A.float() * LOG2E).t().contiguous()
        skip, bias = skip.float().contiguous(), bias.float().contiguous()
        ctx.kinds = B.dtype, C.dtype
        B, C = (part.float().contiguous() for part in (B, C))
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        kept = torch.empty(batch, length // CHUNK, size, width, dtype=torch.float32, device=x.device)
        scan_forward[width // WIDTH, batch](
            x, dt, z, B, C, rates, skip, bias, out, kept, length, *(part.stride(1) for part in (x, dt, z, B, C)),
            D=width, N=size, WIDTH=WIDTH, CHUNK=CHUNK, num_warps=1)
        ctx.save_for_backward(x, dt, z, B, C, rates, skip, bias, kept)
        return out

    @staticmethod
    def backward(ctx, dout):
        x, dt, z, B, C, rates, skip, bias, kept = ctx.saved_tensors
        batch, length, width = x.shape
        size = rates.shape[0]
        dx, ddt, dz = (torch.empty(x.shape, dtype=part.dtype, device=x.device) for part in (x, dt, z))
        dB, dC = torch.zeros(2, batch, length, size, dtype=torch.float32, device=x.device)
        dA = torch.empty(batch, size, width, dtype=torch.float32, device=x.device)
        dskip, dbias = torch.empty(2, batch, width, dtype=torch.float32, device=x.device)
        scan_backward[width // WIDTH, batch](
            x, dt, z, B, C, rates, skip, bias, kept, dout.contiguous(), dx, ddt, dz, dB, dC, dA, dskip, dbias, length,
            *(part.stride(1) for part in (x, dt, z, B, C)), D=width, N=size, WIDTH=WIDTH, CHUNK=CHUNK, num_warps=1,
            maxnreg=REGISTERS)
        return (dx, ddt, dz, dB.to(ctx.kinds[0]), dC.to(ctx.kinds[1]), dA.sum(0).t(), dskip.sum(0), dbias.sum(0))


def token_scan(x: Tensor, dt: Tensor, z: Tensor, B: Tensor, C: Tensor, A: Tensor, skip: Tensor,
               bias: Tensor) -> Tensor:
    """(y + skip x) silu(z), [B, T, D], of the scan from zero with delta = softplus(dt + bias).

    x, dt, z: [B, T, D], also as parts of wider rows; B, C: [B, T, N]; A: [D, N], negative; skip, bias: [D]
    `fits` says which sizes it can take.
    """
    return _TokenScan.apply(*(_rows(part) for part in (x, dt, z, B, C)), A, skip, bias)


def fits(length: int, width: int, size: int) -> bool:
    """Whether the kernels take these sizes: tokens, channels, states of a channel."""
    return length % CHUNK == 0 and width % WIDTH == 0 and size == 16


def _rows(part: Tensor) -> Tensor:
    """With the channels side by side and the rows evenly apart."""
    even = part.stride(2) == 1 and part.stride(0) == part.shape[1] * part.stride(1)
    return part if even else part.contiguous()
