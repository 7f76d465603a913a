"""The scan in Triton, on a GPU, or on the CPU where Triton is installed: TRITON_INTERPRET=1 python -m pytest ..."""

import os

import pytest
import torch
import torch.nn.functional as F

from lightning_modules.backbones import Mamba
from lightning_modules.backbones.fast import Fast
from lightning_modules.backbones.selective_scan import reference_scan

pytest.importorskip("triton")
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
RUNS = pytest.mark.skipif(not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
                          reason="needs a GPU or TRITON_INTERPRET=1")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def formulas(x, dt, z, B, C, A, skip, bias):
    y, _ = reference_scan(x, F.softplus(dt + bias), A, B, C, x.new_zeros(len(x), *A.shape))
    return (y + skip * x) * F.silu(z)


def results(scan, dtype, device):
    """Outputs and gradients; x and z, and B and C, are parts of wider rows, as projections leave them."""
    generator = torch.Generator().manual_seed(0)
    x, dt, z, B, C = (torch.randn(2, 24, width, generator=generator, dtype=torch.float64) for width in
                      (64, 64, 64, 16, 16))
    A, skip, bias = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in
                     ((64, 16), (64,), (64,)))
    xz, dt, BC, A, skip, bias = (part.to(device, dtype).requires_grad_() for part in (
        torch.cat([x, z], -1), dt, torch.cat([B, C], -1), -torch.exp(A / 3), skip, bias))
    y = scan(xz[..., :64], dt, xz[..., 64:], BC[..., :16], BC[..., 16:], A, skip, bias)
    y.sin().sum().backward()
    return [y.detach(), *(part.grad for part in (xz, dt, BC, A, skip, bias))]


@RUNS
def test_the_kernels_and_their_gradients_equal_the_formulas_in_float64():
    from lightning_modules.backbones.scan_cuda import token_scan

    for ours, exact in zip(results(token_scan, torch.float32, DEVICE), results(formulas, torch.float64, "cpu"),
                           strict=True):
        assert (ours.double().cpu() - exact).norm() < 1e-5 * exact.norm()


@CUDA
def test_a_training_pass_with_it_equals_that_of_the_library():
    torch.manual_seed(0)
    net = Mamba(50, n_layer=2, d_model=64, dt_min=0.01, dt_max=1.0, initializer_range=0.3).cuda()
    tokens = torch.randint(50, (4, 256)).cuda()
    found = []
    for fast in (Fast(scan=False), Fast(scan=True)):
        net.fast = fast
        net.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            logits = net(tokens, return_state=False)[0]
        logits.float().log_softmax(-1)[..., 7].mean().backward()
        found.append([logits.float().detach(), *(p.grad.clone() for p in net.parameters())])
    for ours, theirs in zip(*reversed(found), strict=True):
        assert (ours - theirs).norm() < 3e-2 * theirs.norm()
