"""What makes the training pass of Mamba fast on CUDA; each measure gives the same results, up to rounding."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from lightning_modules.backbones.selective_scan import import_kernels


@dataclass(frozen=True)
class Fast:
    """Which measures are taken; benchmarks/train.py measures each.

    norm:   the residual addition and the RMS norm after it are one kernel (mamba-ssm's)
    layout: the input projection writes its result with time last, as the scan reads it, so that nothing is transposed
    keep:   what the convolution and the step sizes were is kept for the backward pass, not computed again
    scan:   in half precision, the suite's own kernel (`scan_cuda`) in place of mamba-ssm's block; then nothing is
            transposed or computed again but the states, and `layout` and `keep` have no effect
    """

    norm: bool = True
    layout: bool = True
    keep: bool = True
    scan: bool = False


@functools.cache
def norm_kernel() -> Callable | None:
    """mamba-ssm's `layer_norm_fn`, or None with a warning where it cannot be imported."""
    kernels = import_kernels("mamba_ssm.ops.triton.layer_norm")[0]
    return kernels and kernels.layer_norm_fn


def half_precision(hidden: Tensor) -> bool:
    """Whether linear maps of `hidden` on CUDA come out in half precision."""
    return torch.is_autocast_enabled("cuda") or hidden.dtype in (torch.bfloat16, torch.float16)


@functools.cache
def scan_kernel(length: int, width: int, size: int) -> Callable | None:
    """`scan_cuda.token_scan`, or None where Triton is missing or the kernels do not take these sizes."""
    if not find_spec("triton"):
        return None
    from lightning_modules.backbones import scan_cuda

    return scan_cuda.token_scan if scan_cuda.fits(length, width, size) else None


@functools.cache
def convolution_kernel() -> Callable:
    """causal-conv1d's convolution, which is there where mamba-ssm's block is."""
    return import_kernels("causal_conv1d")[0].causal_conv1d_fn
