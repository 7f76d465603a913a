"""CUDA kernels of our own: compiled when first used, by cuda.core (NVRTC), and launched on PyTorch's stream."""

import atexit
import functools
import os
import shutil
import tempfile
import warnings
from importlib.util import find_spec
from pathlib import Path

import torch


def compiler() -> bool:
    """Whether cuda.core, which compiles, is installed, and PyTorch is for NVIDIA's GPUs."""
    return not torch.version.hip and find_spec("cuda") is not None and find_spec("cuda.core") is not None


@functools.cache
def kernels(device: int, file: str, names: tuple[str, ...], capability: str, /, code: str = "",
            **defined: int | str) -> dict:
    """The kernels of a .cu file here by name, for a device, the current one; raises what the compiler raises.

    capability: of the GPU, as nvcc writes it, such as 90a
    code: goes before the file's own, after device.cuh
    """
    from cuda.core import Device, Program, ProgramOptions

    Device(device).set_current()
    lines = "".join(f"#define {name} {value}\n" for name, value in defined.items())
    common, own = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("device.cuh", file))
    options = ProgramOptions(arch=f"sm_{capability}", std="c++17", use_fast_math=True)
    program = Program("\n".join((lines, common, code, own)), "c++", options).compile("cubin")
    return {name: program.get_kernel(name) for name in names}


def ensure_triton_cache() -> None:
    """Give Triton a temporary folder for what it compiles where its own cannot hold a file: it runs nothing without."""
    home = os.path.join(os.environ.get("TRITON_HOME") or os.path.expanduser("~"), ".triton", "cache")
    folder = os.environ.get("TRITON_CACHE_DIR") or home
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**20))  # on a full disk an empty file can still be made
    except OSError as error:
        os.environ["TRITON_CACHE_DIR"] = own = tempfile.mkdtemp(prefix="triton")
        atexit.register(shutil.rmtree, own, ignore_errors=True)
        warnings.warn(f"Triton's kernels are compiled again in every run: {folder} cannot be written to "
                      f"({error.strerror}); TRITON_CACHE_DIR can name another folder to keep them in", stacklevel=2)


def current_stream():
    """PyTorch's current stream as one of cuda.core's."""
    from cuda.core import Stream

    return Stream.from_handle(torch.cuda.current_stream().cuda_stream)


def allow_shared_memory(kernel, size: int, device: int) -> None:
    """Let a kernel be launched with so many bytes of dynamic shared memory; by default they are 48 KiB. Raises
    RuntimeError where the GPU has not as many."""
    from cuda.bindings import driver

    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    function = driver.CUkernel(int(kernel.handle))
    (error,) = driver.cuKernelSetAttribute(attribute, size, function, driver.CUdevice(device))
    if error != driver.CUresult.CUDA_SUCCESS:
        raise RuntimeError(f"{size} bytes of shared memory for a kernel: {error.name}")
