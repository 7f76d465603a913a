import importlib.util
import types

import pytest
import torch
import torch.nn.functional as F
from torch.utils._pytree import tree_leaves, tree_map

from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.backbones.base import reset_rows, select_rows
from length_gen.lightning_modules.backbones.convolution import causal_convolution
from length_gen.lightning_modules.backbones.layered import add_blocks
from length_gen.lightning_modules.backbones.library_kernels import cuda_kernels, step_kernels
from length_gen.lightning_modules.backbones.mamba import Mixer
from length_gen.lightning_modules.backbones.selective_scan import (
    injected,
    reference_scan,
    selective_scan,
)
from length_gen.tools import UserError

FADING = {"dt_floor": 0.5, "taps": [3, 1]}
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def gradients(scan, dtype):
    torch.manual_seed(0)
    shapes = [(3, 77, 24)] * 2 + [(24, 16)] + [(3, 77, 16)] * 2 + [(3, 24, 16)]
    u, delta, a, b, c, state = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    inputs = [x.to(dtype).requires_grad_() for x in (u, F.softplus(delta), -torch.exp(a / 3), b, c, state)]
    y, last = scan(*inputs)
    (y.sin().sum() + (last * last.detach().cos()).sum()).backward()
    return [y.detach(), last.detach(), *(x.grad for x in inputs)]


def close(fast, exact):
    return all((one - other).norm() / other.norm() < 1e-5 for one, other in zip(fast, exact, strict=True))


def test_compiled_scan_and_its_gradients_equal_the_formulas_in_float64():
    def scan(u, delta, A, B, C, state):
        skip, gate = B[0, 0, :1] + A[:, 0], 3 * u.flip(1)  # of either sign, with gradients of their own
        return selective_scan(u, delta, A, B, C, skip, gate, state)

    found = gradients(scan, torch.float64)
    assert close(gradients(scan, torch.float32), found)
    whole = gradients(lambda *parts: ((scan(*parts)[0], reference_scan(*parts)[1])), torch.float64)
    assert close(found, whole)


@pytest.mark.parametrize("length", [1, 2, 3, 9])
def test_compiled_convolution_and_its_gradients_equal_the_librarys_in_float64(length):
    """Also of chunks shorter than what it looks back."""
    def outputs(convolution, dtype):
        torch.manual_seed(1)
        parts = [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_()
                 for shape in ((2, length, 24), (2, 3, 24), (24, 4), (24,))]
        y, recent = convolution(*parts)
        (y.sin().sum() + recent.cos().sum()).backward()
        return [y.detach(), recent.detach(), *(part.grad for part in parts)]

    def library(x, recent, weight, bias):
        inputs = torch.cat([recent, x], 1)
        return F.silu(F.conv1d(inputs.mT, weight[:, None], bias, groups=24)).mT, inputs[:, -3:]

    assert close(outputs(causal_convolution, torch.float32), outputs(library, torch.float64))
    assert close(outputs(causal_convolution, torch.float64), outputs(library, torch.float64))


def test_mixed_precision_takes_the_compiled_scan(monkeypatch):
    """The formulas, a token at a time, are as good and very slow."""
    mixer, hidden = model().backbone["layers"][0].mixer, torch.randn(2, 40, 32)
    expected, (_, h) = mixer(hidden)
    monkeypatch.setattr("length_gen.lightning_modules.backbones.selective_scan.reference_scan", None)
    with torch.autocast("cpu", torch.bfloat16):
        found, state = mixer(hidden)
    assert (found - expected).norm() < 0.02 * expected.norm() and found.dtype == torch.bfloat16
    assert (state[1] - h).norm() < 0.02 * h.norm() and state[1].dtype == torch.float32


def test_state_injection_is_exact():
    def scan(u, delta, A, B, C, state):
        size = A.shape[1]
        u, delta, B, C = (part.mT for part in injected(*(part.mT for part in (u, delta, B, C)), state))
        y, last = reference_scan(u, delta, A, B, C, torch.zeros_like(state))
        return y[:, size:], last

    for given, direct in zip(gradients(scan, torch.float64), gradients(reference_scan, torch.float64), strict=True):
        assert torch.allclose(given, direct, rtol=1e-12, atol=1e-12)


def library_scan(u, delta, A, B, C, D, z, return_last_state):
    """mamba-ssm's `selective_scan_fn` by its documentation: time last, D and the gate within."""
    y, last = reference_scan(u.mT, delta.mT, A, B.mT, C.mT, u.new_zeros(len(u), *A.shape))
    assert return_last_state
    return (y.mT + D[:, None] * u) * F.silu(z), last


def library_convolution(x, weight, bias, activation):
    assert activation == "silu" and x.shape[2] % 8 == 0
    width = weight.shape[1]
    return F.silu(F.conv1d(x, weight[:, None], bias, padding=width - 1, groups=len(weight))[..., : x.shape[2]])


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, FADING])
def test_chunks_by_the_kernels_equal_the_formulas(settings, monkeypatch):
    """With stand-ins for the kernels; `test_cuda_whole_equals_chunks_equals_steps` has the real ones."""
    mixer = model(**settings).backbone["layers"][1].mixer
    monkeypatch.setattr("length_gen.lightning_modules.backbones.mamba.convolution_kernel", lambda: library_convolution)
    kernels, state, other = types.SimpleNamespace(selective_scan_fn=library_scan), None, mixer.initial_state(2)
    for length in (16, 8, 24):
        hidden = torch.randn(2, length, 32)
        expected, state = mixer(hidden, state or mixer.initial_state(2))
        given, other = mixer._carried(kernels, hidden, other)
        assert (given - expected).abs().max() < 1e-5
        for a, b in zip(other, state, strict=True):
            assert (a - b).abs().max() < 1e-5 and a.is_contiguous()


def plain_logits(model, tokens, floor=0.0):
    """mamba-ssm's reference formulas in float64, written with a library convolution and the plain scan."""
    p = {k: v.double() for k, v in model.state_dict().items()}

    def norm(x, weight):
        return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5) * weight

    hidden = p["backbone.embedding.weight"][tokens]
    for i in range(2):
        q = {k.split("mixer.")[-1]: v for k, v in p.items() if f"layers.{i}." in k}
        x, z = (norm(hidden, p[f"backbone.layers.{i}.norm.weight"]) @ q["in_proj.weight"].T).chunk(2, -1)
        width, size = q["A_log"].shape
        x = F.silu(F.conv1d(x.mT, q["conv1d.weight"], q["conv1d.bias"], padding=3, groups=width)[..., : x.shape[1]].mT)
        dt, b, c = (x @ q["x_proj.weight"].T).split([q["dt_proj.weight"].shape[1], size, size], -1)
        dt = F.softplus(dt @ q["dt_proj.weight"].T + q["dt_proj.bias"]) + floor
        start = torch.zeros(len(tokens), width, size, dtype=torch.float64)
        y, _ = reference_scan(x, dt, -torch.exp(q["A_log"]), b, c, start)
        hidden = hidden + ((y + q["D"] * x) * F.silu(z)) @ q["out_proj.weight"].T
    return norm(hidden, p["backbone.norm_f.weight"]) @ p["lm_head.weight"].T


def model(**settings):
    torch.manual_seed(3)
    return Mamba(50, n_layer=2, d_model=32, **settings).eval()


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, FADING])
def test_equals_the_reference_formulas_in_float64(settings):
    net, tokens = model(**settings), torch.randint(50, (3, 41))
    assert (net(tokens)[0] - plain_logits(net, tokens, settings.get("dt_floor", 0))).abs().max() < 1e-4


@torch.no_grad()
def test_equals_transformers():
    transformers = pytest.importorskip("transformers")
    if importlib.util.find_spec("causal_conv1d"):
        pytest.skip("with causal-conv1d installed, transformers calls its CUDA kernel on the CPU")
    own = model()
    config = transformers.MambaConfig(vocab_size=50, hidden_size=32, num_hidden_layers=2, state_size=16)
    reference = transformers.MambaForCausalLM(config).eval()
    names = {k.replace("backbone.embedding.", "backbone.embeddings."): v for k, v in own.state_dict().items()}
    reference.load_state_dict(names, strict=True)
    tokens = torch.randint(50, (2, 30))
    assert (own(tokens)[0] - reference(tokens).logits).abs().max() < 1e-4


def check_chunks_and_steps(net, tokens, tolerance):
    whole, last = net(tokens)
    state, parts = None, []
    for chunk in tokens.split([1, 2, 7, 333, tokens.shape[1] - 343], dim=1):
        logits, state = net(chunk, state)
        parts.append(logits)
    assert (torch.cat(parts, 1) - whole).abs().max() < tolerance
    for a, b in zip(tree_leaves(state), tree_leaves(last), strict=True):
        assert (a - b).abs().max() < tolerance
    state, steps = net.initial_state(2), []
    for t in range(tokens.shape[1]):
        logits, state = net.step(tokens[:, t], state)
        steps.append(logits)
    assert (torch.stack(steps, 1) - whole).abs().max() < tolerance
    assert torch.equal(torch.stack(steps, 1).argmax(-1), whole.argmax(-1))


@torch.no_grad()
def test_whole_equals_chunks_equals_steps():
    check_chunks_and_steps(model(), torch.randint(50, (2, 500)), 1e-4)


@torch.no_grad()
def test_rows_are_selected_and_reset():
    net, tokens = model(), torch.randint(50, (3, 20))
    _, state = net(tokens)
    _, alone = net(tokens[[2, 0]])
    for a, b in zip(tree_leaves(select_rows(state, torch.tensor([2, 0]))), tree_leaves(alone), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    state = reset_rows(state, torch.tensor([False, True, False]), net.initial_state(3))
    assert all(not leaf[1].any() and leaf[0].any() for leaf in tree_leaves(state))


def test_state_size_does_not_grow():
    assert model().state_size(10) == model().state_size(10**6) == 2 * 4 * 64 * (3 + 16)


def test_impossible_shape():
    with pytest.raises(UserError, match="n_layer 0"):
        Mamba(50, n_layer=0)


@pytest.mark.skipif(importlib.util.find_spec("mamba_ssm") is not None, reason="mamba-ssm is installed")
@pytest.mark.parametrize("kernels", [cuda_kernels, step_kernels])
def test_missing_kernels_are_a_warning_that_says_what_to_install(kernels):
    kernels.cache_clear()
    with pytest.warns(UserWarning, match="pip install -e '.\\[cuda\\]'"):
        assert kernels() is None


@CUDA
@pytest.mark.parametrize("settings", [{}, FADING])
@pytest.mark.parametrize("carried", [False, True])
def test_cuda_equals_cpu(carried, settings):
    net, tokens, state = model(**settings), torch.randint(50, (3, 200)), None
    if carried:
        with torch.no_grad():
            state = net(tokens.flip(1))[1]
    logits = net(tokens, state)[0]
    logits.square().mean().backward()
    expected = {k: v.grad.clone() for k, v in net.named_parameters()}
    net.zero_grad()
    net.cuda()
    fused = net(tokens.cuda(), tree_map(torch.Tensor.cuda, state) if carried else None, return_state=carried)[0]
    assert (fused.cpu() - logits).abs().max() < 1e-3
    fused.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad.cpu() - expected[name]).norm() <= 1e-3 * expected[name].norm() + 1e-7, name


@CUDA
@pytest.mark.parametrize("settings", [{}, FADING])
@torch.no_grad()
def test_cuda_whole_equals_chunks_equals_steps(settings):
    check_chunks_and_steps(model(**settings).cuda(), torch.randint(50, (2, 700)).cuda(), 1e-4)


def library_block(xz, conv_weight, conv_bias, x_proj, dt_proj, out_proj, out_bias, A, B, C, D, delta_bias,
                  delta_softplus, checkpoint_lvl):
    """mamba-ssm's `mamba_inner_fn` by the formulas, which is what its kernel does: xz [B, 2 D, T]."""
    assert out_bias is None and B is None and C is None and delta_softplus
    x, z = xz.chunk(2, 1)
    x = F.silu(F.conv1d(x, conv_weight, conv_bias, padding=3, groups=x.shape[1])[..., : x.shape[2]]).mT
    dt, b, c = (x @ x_proj.T).split([dt_proj.shape[1], A.shape[1], A.shape[1]], -1)
    y, _ = reference_scan(x, F.softplus(dt @ dt_proj.T + delta_bias), A, b, c, torch.zeros(len(x), *A.shape))
    return ((y + D * x) * F.silu(z.mT)) @ out_proj.T


def library_norm(x, weight, bias, residual, eps, residual_in_fp32, is_rms_norm, prenorm=False):
    """mamba-ssm's `layer_norm_fn` by its documentation."""
    assert bias is None and residual_in_fp32 and is_rms_norm
    residual = x.float() if residual is None else residual + x
    normed = (residual * torch.rsqrt(residual.square().mean(-1, keepdim=True) + eps) * weight).to(x.dtype)
    return (normed, residual) if prenorm else normed


@torch.no_grad()
def test_fused_blocks_equal_the_formulas(monkeypatch):
    """With stand-ins for the kernels; `test_cuda_equals_cpu` has the real ones."""
    net, tokens = model(), torch.randint(50, (3, 20))
    kernels = types.SimpleNamespace(mamba_inner_fn=library_block)
    monkeypatch.setattr("length_gen.lightning_modules.backbones.mamba.cuda_kernels", lambda: kernels)
    hidden = net.backbone["embedding"](tokens)
    with monkeypatch.context() as patch:
        patch.setattr(Mixer, "forward", lambda mixer, hidden, state: (mixer.fused(hidden), state))
        normed, _ = add_blocks(hidden, net.backbone["layers"], net.backbone["norm_f"], library_norm)
        logits = net.lm_head(normed)
    assert (logits - net(tokens)[0]).abs().max() < 1e-5
