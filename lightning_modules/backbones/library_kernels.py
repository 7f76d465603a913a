"""CUDA kernels of mamba-ssm and causal-conv1d, imported when they are first used: they need a GPU, and take seconds."""

import functools
import importlib
import warnings
from collections.abc import Callable
from types import SimpleNamespace


@functools.cache
def cuda_kernels():
    """mamba-ssm's scan and its fused block, or None with a warning where they cannot be imported."""
    return import_kernels("mamba_ssm.ops.selective_scan_interface", "causal_conv1d")[0]


@functools.cache
def step_kernels():
    """`selective_state_update` and `causal_conv1d_update`, or None with a warning where they cannot be imported."""
    update, convolution = import_kernels("mamba_ssm.ops.triton.selective_state_update", "causal_conv1d")
    if update is None:
        return None
    return SimpleNamespace(selective_state_update=update.selective_state_update,
                           causal_conv1d_update=convolution.causal_conv1d_update)


def import_kernels(*modules: str) -> list:
    """The modules, or None for each, with a warning, where one is missing. Importing them takes seconds."""
    try:
        return [importlib.import_module(module) for module in modules]
    except ImportError as error:
        warnings.warn(f"the CUDA kernels of Mamba cannot be imported ({error}): it runs much slower without them; "
                      f"install them with pip install -e '.[cuda]'", stacklevel=3)
        return [None] * len(modules)


@functools.cache
def norm_kernel() -> Callable | None:
    """mamba-ssm's `layer_norm_fn`, or None with a warning where it cannot be imported."""
    kernels = import_kernels("mamba_ssm.ops.triton.layer_norm")[0]
    return kernels and kernels.layer_norm_fn


@functools.cache
def convolution_kernel() -> Callable:
    """causal-conv1d's convolution, which is there where mamba-ssm's block is."""
    return import_kernels("causal_conv1d")[0].causal_conv1d_fn
