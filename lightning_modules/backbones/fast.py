"""What makes passes of Mamba over many tokens fast on CUDA; each measure gives the same results, up to rounding.

What each is worth: benchmarks/train.py (`--only measures`).
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from length_gen.lightning_modules.backbones import scan_cuda
from length_gen.lightning_modules.backbones.selective_scan import import_kernels


@dataclass(frozen=True)
class Fast:
    """Which measures are taken.

    norm:   the residual addition and the RMS norm after it are one kernel (mamba-ssm's)
    layout: the input projection writes its result with time last, as the scan reads it, so that nothing is transposed
    keep:   what the convolution and the step sizes were is kept for the backward pass, not computed again
    scan:   in bfloat16, the suite's own kernel (`scan_cuda`) in place of mamba-ssm's; `layout` and `keep` then are part
            of it
    """

    norm: bool = True
    layout: bool = True
    keep: bool = True
    scan: bool = True


@functools.cache
def norm_kernel() -> Callable | None:
    """mamba-ssm's `layer_norm_fn`, or None with a warning where it cannot be imported."""
    kernels = import_kernels("mamba_ssm.ops.triton.layer_norm")[0]
    return kernels and kernels.layer_norm_fn


def computed_in(hidden: Tensor) -> torch.dtype:
    """The type in which linear maps of `hidden` on CUDA come out."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else hidden.dtype


def scan_kernel(hidden: Tensor, width: int, size: int) -> Callable | None:
    """`scan_cuda.token_scan`; None where it is not for these rows [B, T, d_model], this many channels and states of
    one, or cannot be compiled, of which a warning tells."""
    return scan_cuda.token_scan if _can_scan(hidden, width, size) else None


def carried_scan_kernel(hidden: Tensor, width: int, size: int) -> Callable | None:
    """`scan_cuda.carried_scan`; None where `scan_kernel` is, and where gradients are asked for."""
    return scan_cuda.carried_scan if not torch.is_grad_enabled() and _can_scan(hidden, width, size) else None


def _can_scan(hidden: Tensor, width: int, size: int) -> bool:
    fits = computed_in(hidden) == torch.bfloat16 and scan_cuda.fits(len(hidden), width, size)
    return fits and _compiles(hidden.device.index, width)


@functools.cache
def _compiles(device: int, width: int) -> bool:
    try:
        with torch.cuda.device(device):
            scan_cuda.kernels(device, width)
    except Exception as error:  # no cuda.core, or one whose compiler does not know the GPU
        text = " ".join(str(error).split())[:200]
        warnings.warn(f"the suite's scan cannot be compiled ({type(error).__name__}: {text}): Mamba trains, and takes "
                      f"prompts, with mamba-ssm's, which is slower; cuda.core, and cuda.bindings of the GPU's CUDA, "
                      f"come with pip install -e '.[cuda]'", stacklevel=5)
        return False
    return True


@functools.cache
def convolution_kernel() -> Callable:
    """causal-conv1d's convolution, which is there where mamba-ssm's block is."""
    return import_kernels("causal_conv1d")[0].causal_conv1d_fn
