import pytest
import torch

from length_gen.lightning_modules.backbones import Mamba2
from length_gen.lightning_modules.backbones.mamba2 import matrix_scan

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def plain_scan(x, delta, A, B, C, state):
    """The recurrence as the docstring has it, one token at a time."""
    repeats = x.shape[2] // B.shape[2]
    B, C = (part.repeat_interleave(repeats, 2) for part in (B, C))
    outputs = []
    for t in range(x.shape[1]):
        added = delta[:, t, :, None, None] * x[:, t, ..., None] * B[:, t, :, None]
        state = torch.exp(delta[:, t] * A)[..., None, None] * state + added
        outputs.append((state * C[:, t, :, None]).sum(-1))
    return torch.stack(outputs, 1), state


def results(scan, dtype, length):
    torch.manual_seed(0)
    shapes = [(2, length, 6, 5), (2, length, 6), (6,), (2, length, 3, 7), (2, length, 3, 7), (2, 6, 5, 7)]
    x, delta, a, b, c, state = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    inputs = [p.to(dtype).requires_grad_() for p in (x, delta.exp(), -a.exp() * 4, b, c, state)]
    y, last = scan(*inputs)
    (y.sin().sum() + (last * last.detach().cos()).sum()).backward()
    return [y.detach(), last.detach(), *(p.grad for p in inputs)]


@pytest.mark.parametrize("length", [1, 63, 64, 150])
def test_matrix_form_and_its_gradients_equal_the_recurrence_in_float64(length):
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 3e-5)):
        for ours, exact in zip(results(matrix_scan, dtype, length), results(plain_scan, torch.float64, length),
                               strict=True):
            assert (ours - exact).norm() / exact.norm() < tolerance


@CUDA
def test_kernels_equal_the_matrix_form():
    torch.manual_seed(0)
    net = Mamba2(50, n_layer=2, d_model=64, d_state=64, head_dim=32, initializer_range=0.3)
    tokens = torch.randint(50, (3, 300))
    logits = net(tokens)[0]
    logits.square().mean().backward()
    expected = {k: v.grad.clone() for k, v in net.named_parameters()}
    net.zero_grad()
    net.cuda()
    fused = net(tokens.cuda(), return_state=False)[0]
    assert (fused.cpu() - logits).norm() < 1e-2 * logits.norm()
    fused.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad.cpu() - expected[name]).norm() <= 3e-2 * expected[name].norm() + 1e-7, name
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        first, state = net(tokens[:, :77].cuda())
        rest, _ = net(tokens[:, 77:].cuda(), state)
    assert (torch.cat([first, rest], 1).float().cpu() - logits).norm() < 5e-2 * logits.norm()
