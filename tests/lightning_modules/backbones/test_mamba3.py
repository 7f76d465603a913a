import pytest
import torch

from length_gen.lightning_modules.backbones import Mamba3

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def model():
    torch.manual_seed(0)
    return Mamba3(50, n_layer=2, d_model=128, d_state=64, head_dim=32, dt_min=0.01, dt_max=1.0, initializer_range=0.3)


@CUDA
def test_the_kernel_equals_the_matrix_form_from_any_state():
    net, tokens = model(), torch.randint(50, (3, 300), generator=torch.Generator().manual_seed(1))
    logits = net(tokens)[0]
    logits.square().mean().backward()
    expected = {k: v.grad.clone() for k, v in net.named_parameters()}
    net.zero_grad()
    net.cuda()
    with torch.autocast("cuda", torch.bfloat16):
        whole = net(tokens.cuda(), return_state=False)[0].float()
    assert (whole.cpu() - logits).norm() < 5e-2 * logits.norm()
    whole.square().mean().backward()
    for name, parameter in net.named_parameters():
        assert (parameter.grad.cpu() - expected[name]).norm() <= 8e-2 * expected[name].norm() + 1e-6, name
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
        first, state = net(tokens[:, :77].cuda())
        second, state = net(tokens[:, 77:78].cuda(), state)
        third, _ = net(tokens[:, 78:].cuda(), state)
    chunks = torch.cat([first, second, third], 1).float().cpu()
    assert (chunks - logits).norm() < 5e-2 * logits.norm()


@CUDA
@torch.no_grad()
def test_equals_the_module_of_mamba_ssm():
    module = pytest.importorskip("mamba_ssm.modules.mamba3")
    net, hidden = model().cuda(), torch.randn(2, 128, 128, device="cuda")
    mixer = net.backbone["layers"][0].mixer
    theirs = module.Mamba3(128, d_state=64, headdim=32, device="cuda")
    theirs.load_state_dict(mixer.state_dict(), strict=True)
    with torch.autocast("cuda", torch.bfloat16):
        expected, ours = theirs(hidden).float(), mixer(hidden)[0].float()
    assert (ours - expected).norm() < 2e-2 * expected.norm()
