"""The selective scan of Mamba-1 on CUDA, in bfloat16 (scan.cu), for training and for prompts; compiled when first used.

mamba-ssm's kernel gives every channel of a row a block of threads that divide its time, so that the gradients of B and
C, sums over the channels, are added up in memory, one atomic addition for every channel, state and token. Here a warp
takes 32 channels through time, so that those sums are made in registers; tensors stay as the projections write them,
channels last. The forward pass keeps the state before every CHUNK-th token; the backward pass makes the others again,
eight at a time.
"""

import functools
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from length_gen.lightning_modules.backbones import cuda_kernels
from length_gen.lightning_modules.backbones.base import computed_in

CHUNK = 16
"""Tokens between the states that the forward pass keeps."""

SIZE = 16
"""States of a channel."""

WIDTH = 32
"""Channels of a warp."""

FEWEST = 256
"""Warps that there must be: with fewer, time goes by slower than in mamba-ssm's kernel, which divides it."""

MOST = 65_535
"""Rows that there can be."""

LOG2E = 1.4426950408889634


def token_scan(x: Tensor, dt: Tensor, z: Tensor, B: Tensor, C: Tensor, A: Tensor, skip: Tensor, bias: Tensor,
               floor: float = 0.0) -> Tensor:
    """(y + skip x) silu(z), [B, T, D], of the scan from zero with delta = softplus(dt + bias) + floor, in bfloat16.

    x, dt, z: bfloat16 [B, T, D], T a multiple of CHUNK; B, C: bfloat16 [B, T, N]; all also as parts of wider rows;
    A: [D, N], negative; skip, bias: [D]. `fits` says which sizes it is for.
    """
    return _TokenScan.apply(x, dt, z, B, C, A, skip, bias, floor, torch.is_grad_enabled())


def carried_scan(x: Tensor, dt: Tensor, z: Tensor, B: Tensor, C: Tensor, A: Tensor, skip: Tensor, bias: Tensor,
                 state: Tensor, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """`token_scan` from `state`, [B, D, N], and the state after it, float32; without gradients.

    A token whose `dt` is -inf leaves the state as it is, whatever the floor.
    """
    x, dt, z, B, C, *parameters = _prepared(x, dt, z, B, C, A, skip, bias)
    before, out = state.float().contiguous(), _empty(x)
    after = torch.empty_like(before)
    _launch("scan_forward", x, floor, (x, dt, z, B, C, *parameters, out, None, before, after), (x, dt, z, B, C, out))
    return out, after


def usable(hidden: Tensor, width: int, size: int) -> bool:
    """Whether the kernels are for these rows [B, T, d_model], this many channels and states of one, and can be
    compiled; a warning tells where they cannot."""
    return (computed_in(hidden) == torch.bfloat16 and fits(len(hidden), width, size)
            and _compiles(hidden.device.index, width))


def fits(rows: int, width: int, size: int) -> bool:
    """Whether the kernels take so many channels, and states of a channel, and are fast with so many rows."""
    return width % WIDTH == 0 and size == SIZE and rows * width >= FEWEST * WIDTH and rows <= MOST


@functools.cache
def _compiles(device: int, width: int) -> bool:
    try:
        with torch.cuda.device(device):
            kernels(device, width)
    except Exception as error:  # no cuda.core, or one whose compiler does not know the GPU
        text = " ".join(str(error).split())[:200]
        warnings.warn(f"the suite's scan cannot be compiled ({type(error).__name__}: {text}): Mamba trains, and takes "
                      f"prompts, with mamba-ssm's, which is slower; cuda.core, and cuda.bindings of the GPU's CUDA, "
                      f"come with pip install -e '.[cuda]'", stacklevel=5)
        return False
    return True


class _TokenScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dt, z, B, C, A, skip, bias, floor, differentiable):
        x, dt, z, B, C, rates, skip, bias = _prepared(x, dt, z, B, C, A, skip, bias)
        batch, length, width = x.shape
        out = _empty(x)
        kept = out.new_empty(batch, length // CHUNK, SIZE, width, dtype=torch.float32) \
            if differentiable and any(ctx.needs_input_grad) else None
        _launch("scan_forward", x, floor, (x, dt, z, B, C, rates, skip, bias, out, kept, None, None),
                (x, dt, z, B, C, out))
        ctx.floor = floor
        ctx.save_for_backward(x, dt, z, B, C, rates, skip, bias, kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        x, dt, z, B, C, rates, skip, bias, kept = ctx.saved_tensors
        batch, length, width = x.shape
        dout = _aligned(dout)
        dx, ddt, dz = (_empty(x) for _ in range(3))
        sums = x.new_zeros(batch * length * 2 * SIZE + (SIZE + 2) * width, dtype=torch.float32)
        dBC, dA, rest = sums.split([batch * length * 2 * SIZE, SIZE * width, 2 * width])
        dBC, dA, (dskip, dbias) = dBC.view(batch, length, -1), dA.view(SIZE, width), rest.view(2, width)
        _launch("scan_backward", x, ctx.floor, (x, dt, z, B, C, rates, skip, bias, kept, dout, dx, ddt, dz, dBC, dA,
                                                dskip, dbias), (x, dt, z, B, C, dout, dx, ddt, dz))
        dB, dC = dBC.to(B.dtype).chunk(2, -1)
        return dx, ddt, dz, dB, dC, dA.t(), dskip, dbias, None, None


def _prepared(x: Tensor, dt: Tensor, z: Tensor, B: Tensor, C: Tensor, A: Tensor, skip: Tensor,
              bias: Tensor) -> tuple[Tensor, ...]:
    rates = (A.float() * LOG2E).t().contiguous()
    return (*map(_aligned, (x, dt, z, B, C)), rates, skip.float().contiguous(), bias.float().contiguous())


def _empty(x: Tensor) -> Tensor:
    """Contiguous, whatever x is part of."""
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _aligned(part: Tensor) -> Tensor:
    """As the kernels read it, 16 bytes at a time."""
    even = part.stride(2) == 1 and part.stride(0) % 8 == part.stride(1) % 8 == part.data_ptr() % 16 == 0
    return part if even else part.clone(memory_format=torch.contiguous_format)


def arguments(x: Tensor, tensors: Sequence[Tensor | None], strided: Sequence[Tensor]) -> list[int]:
    """What a kernel is launched with: addresses, the length, and strides of rows and tokens, in scan.cu's order."""
    addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    return [*addresses, x.shape[1], *(stride for tensor in strided for stride in tensor.stride()[:2])]


def _launch(name: str, x: Tensor, floor: float, *parts) -> None:
    from cuda.core import LaunchConfig, launch

    batch, _, width = x.shape
    with torch.cuda.device(x.device):
        kernel = kernels(x.device.index, width, floor)[name]
        launch(cuda_kernels.current_stream(), LaunchConfig(grid=(width // WIDTH, batch), block=32), kernel,
               *arguments(x, *parts))


def kernels(device: int, width: int, floor: float = 0.0) -> dict:
    """The two kernels by name, compiled for a device, the current one, a number of channels and a floor."""
    capability = "{}{}".format(*torch.cuda.get_device_capability(device))
    return cuda_kernels.kernels(device, "scan.cu", ("scan_forward", "scan_backward"), capability, WIDTH=width,
                                FLOOR=f"{float(floor)!r}f")
