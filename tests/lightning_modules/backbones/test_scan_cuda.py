"""The scan in CUDA, on a GPU, or, where there is a C++ compiler, with threads of the CPU for the lanes of a warp."""

import copy
import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves

from length_gen.lightning_modules.backbones import Mamba, scan_cuda
from length_gen.lightning_modules.backbones.mamba import Mixer
from length_gen.lightning_modules.backbones.selective_scan import reference_scan

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SOURCES = Path(scan_cuda.__file__).parent


@pytest.fixture(scope="module")
def emulation(tmp_path_factory):
    probe = ["g++", "-std=c++20", "-include", "barrier", "-fsyntax-only", "-x", "c++", "/dev/null"]
    if not shutil.which("g++") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs a g++ that knows C++20, or a GPU")
    library = tmp_path_factory.mktemp("emulation") / "scan.so"
    subprocess.run(["g++", "-O1", "-std=c++20", "-w", "-shared", "-fPIC", "-pthread", "-I", SOURCES, "-o", library,
                    Path(__file__).with_name("emulation.cpp")], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture
def emulated(emulation, monkeypatch):
    """The kernels on the CPU, at the same arguments."""
    def launch(name, x, floor, *parts):
        ctypes.c_float.in_dll(emulation, "floor_now").value = floor
        numbers = scan_cuda.arguments(x, *parts)
        columns, rows = (ctypes.c_longlong(n) for n in (x.shape[2] // scan_cuda.WIDTH, len(x)))
        getattr(emulation, f"emulate_{name}")(columns, rows, (ctypes.c_longlong * len(numbers))(*numbers))

    monkeypatch.setattr(scan_cuda, "_launch", launch)


def formulas(x, dt, z, B, C, A, skip, bias, floor):
    y, _ = reference_scan(x, F.softplus(dt + bias) + floor, A, B, C, x.new_zeros(len(x), *A.shape))
    return (y + skip * x) * F.silu(z)


def results(scan, dtype, device="cpu", width=64, length=48, shift=0.0, floor=0.0):
    """Outputs and gradients; B and C are parts of wider rows, as projections leave them. shift: of the bias"""
    generator = torch.Generator().manual_seed(0)
    numbers = [torch.randn(*shape, generator=generator) for shape in (
        *[(2, length, width)] * 4, (2, length, 40), (width, 16), (width,), (width,))]
    x, dt, z, dout, wide, A, skip, bias = numbers
    bias += shift
    rounded = [part.bfloat16().to(device, dtype) for part in (x, 2 * dt - 1, z, dout, wide)]
    exact = [part.to(device, torch.float64 if dtype == torch.float64 else torch.float32)
             for part in (-torch.exp(A / 3), skip, bias)]
    x, dt, z, wide, *exact = inputs = [part.requires_grad_() for part in (*rounded[:3], rounded[4], *exact)]
    y = scan(x, dt, z, wide[..., 8:24], wide[..., 24:], *exact, floor)
    y.backward(rounded[3])
    return [part.detach().double().cpu() for part in (y, *(part.grad for part in inputs))]


def compare(ours, **options):
    for given, exact in zip(ours, results(formulas, torch.float64, **options), strict=True):
        assert given.shape == exact.shape
        assert (given - exact).norm() < 3e-3 * exact.norm()  # bfloat16 rounds to 1.7e-3 on average


@pytest.mark.parametrize("floor", [0.0, 0.3])
def test_the_kernels_and_their_gradients_equal_the_formulas_in_float64(floor, emulated):
    compare(results(scan_cuda.token_scan, torch.bfloat16, floor=floor), floor=floor)


def test_gradients_keep_their_digits_where_step_sizes_are_tiny(emulated):
    compare(results(scan_cuda.token_scan, torch.bfloat16, shift=-16.0, length=16), shift=-16.0, length=16)


@CUDA
@pytest.mark.parametrize(("shift", "floor"), [(0.0, 0.0), (0.0, 0.3), (-16.0, 0.0), (22.0, 0.0)])
def test_on_a_gpu_too(shift, floor):
    options = {"shift": shift, "floor": floor, "length": 16 if shift else 48}
    compare(results(scan_cuda.token_scan, torch.bfloat16, "cuda", **options), **options)


@pytest.fixture
def convolution(monkeypatch):
    """causal-conv1d's, by its documentation."""
    def convolve(x, weight, bias, initial_states=None, activation=None):
        before = x.new_zeros(*x.shape[:2], weight.shape[1] - 1) if initial_states is None else initial_states
        assert activation == "silu" and (initial_states is None or x.stride(1) == initial_states.stride(1) == 1)
        return F.silu(F.conv1d(torch.cat([before, x], -1), weight[:, None], bias, groups=len(weight)))

    monkeypatch.setattr("length_gen.lightning_modules.backbones.mamba.convolution_kernel", lambda: convolve)


@pytest.mark.parametrize("fading", [(), (0.3, 2)])
def test_a_block_with_it_equals_the_formulas(fading, emulated, convolution, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(scan_cuda, "usable", lambda *sizes: True)
    mixer = Mixer(32, 64, 16, 4, 2, 0.01, 1.0, *fading)
    hidden = torch.randn(2, 21, 32)  # 21 tokens: they are filled up to 32
    expected = mixer(hidden, mixer.initial_state(2))[0]
    given = mixer.bfloat16().fused(hidden.bfloat16())
    assert given.shape == expected.shape and (given - expected).norm() < 2e-2 * expected.norm()


@pytest.mark.parametrize("fading", [(), (0.3, 2)])
@torch.no_grad()
def test_chunks_of_a_block_with_it_equal_the_formulas(fading, emulated, convolution):
    torch.manual_seed(0)
    mixer = Mixer(32, 64, 16, 4, 2, 0.01, 1.0, *fading)
    small, state, other = copy.deepcopy(mixer).bfloat16(), mixer.initial_state(2), mixer.initial_state(2)
    for length in (21, 2, 1, 16):
        hidden = torch.randn(2, length, 32)
        expected, state = mixer(hidden, state)
        given, other = small._carried_scan(hidden.bfloat16(), other)
        for a, b in ((given, expected), *zip(other, state, strict=True)):
            assert a.shape == b.shape and (a - b).norm() < 2e-2 * b.norm()
        assert other[1].dtype == torch.float32


@pytest.mark.skipif(importlib.util.find_spec("cuda") is not None, reason="cuda.core is installed")
def test_where_it_cannot_be_compiled_a_warning_says_what_to_install(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    rows = torch.zeros(64, 16, 128, dtype=torch.bfloat16)
    assert not any((scan_cuda.usable(rows.float(), 256, 16), scan_cuda.usable(rows[:8], 256, 16),
                    scan_cuda.usable(rows, 256, 64)))
    with pytest.warns(UserWarning, match="pip install -e '.\\[cuda\\]'"):
        assert not scan_cuda.usable(rows, 256, 16)


@CUDA
@pytest.mark.parametrize("fading", [{}, {"dt_floor": 0.3, "taps": [3, 1]}])
def test_a_training_pass_with_it_equals_that_of_the_library(fading, monkeypatch):
    monkeypatch.setattr(scan_cuda, "FEWEST", 1)
    assert scan_cuda.usable(torch.zeros(4, 256, 64, dtype=torch.bfloat16, device="cuda"), 128, 16)
    torch.manual_seed(0)
    net = Mamba(50, n_layer=2, d_model=64, dt_min=0.01, dt_max=1.0, initializer_range=0.3, **fading).cuda()
    tokens = torch.randint(50, (4, 256)).cuda()
    found = []
    for fewest in (10**9, 1):  # of the library, and ours
        monkeypatch.setattr(scan_cuda, "FEWEST", fewest)
        net.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            logits = net(tokens, return_state=False)[0]
        logits.float().log_softmax(-1)[..., 7].mean().backward()
        found.append([logits.float().detach(), *(p.grad.clone() for p in net.parameters())])
    for ours, theirs in zip(*reversed(found), strict=True):
        assert (ours - theirs).norm() < 3e-2 * theirs.norm()


@CUDA
@pytest.mark.parametrize("fading", [{}, {"dt_floor": 0.3, "taps": [3, 1]}])
@torch.no_grad()
def test_chunks_with_it_equal_those_of_the_library_in_float32(fading, monkeypatch):
    monkeypatch.setattr(scan_cuda, "FEWEST", 1)
    torch.manual_seed(0)
    net = Mamba(50, n_layer=2, d_model=64, dt_min=0.01, dt_max=1.0, initializer_range=0.3, **fading).cuda()
    tokens = torch.randint(50, (4, 300)).cuda()
    state, other = net.initial_state(4), net.initial_state(4)
    calls, plain = [], scan_cuda.carried_scan
    monkeypatch.setattr(scan_cuda, "carried_scan", lambda *parts: calls.append(1) or plain(*parts))
    for chunk in tokens.split([129, 1, 2, 168], 1):
        expected, state = net(chunk, state)
        assert not calls
        with torch.autocast("cuda", torch.bfloat16):
            given, other = net(chunk, other)
        assert len(calls) == 2
        calls.clear()
        assert (given - expected).norm() < 3e-2 * expected.norm()
        for a, b in zip(tree_leaves(other), tree_leaves(state), strict=True):
            assert (a - b).norm() < 3e-2 * b.norm()
