"""Parameters that are shared out are whole wherever a training step computes with them."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from length_gen.lightning_modules.backbones import LSTM, XLSTM, GatedDeltaNet, Hybrid, Mamba, Mamba2, Pythia
from length_gen.lightning_modules.training.initial_states import InitialStates
from length_gen.lightning_modules.training.sharding import shard_units
from tests.lightning_modules.backbones.test_mamba import library_norm


@pytest.fixture
def mesh(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("backbone", [Mamba, Mamba2, GatedDeltaNet, Hybrid, Pythia, XLSTM])
def test_all_that_training_calls(backbone, mesh):
    shape = {"n_layer": 2, "d_model": 32} | ({"head_dim": 8} if backbone is Mamba2 else {})
    torch.manual_seed(0)
    net = backbone(20, **shape)
    tokens = torch.randint(20, (2, 9))
    chosen = tokens % 2 == 0
    hidden = torch.randn(2, 9, 32)
    layer = net.parts[1][0]

    def all_ways():  # the whole first, since only then a layer knows what it is part of
        whole = [net(tokens, return_state=False)[0], net.logits_at(tokens, chosen)]
        return whole + [layer.add(hidden, None, library_norm)[0] for _ in layer.forwards]

    expected = all_ways()
    shard_units(net, mesh)
    for result, reference in zip(all_ways(), expected, strict=True):
        assert torch.equal(result, reference)


@pytest.mark.parametrize("backbone", [Mamba, LSTM])
def test_rows_start_from_states(backbone, mesh):
    torch.manual_seed(0)
    net, tokens = backbone(20, n_layer=2, d_model=32), torch.randint(20, (2, 18))
    expected = net(tokens)[0][:, 9:]
    states, logits = InitialStates(net, passing=1.0, noise=0.0), None
    shard_units(net, mesh)
    for part in tokens.split(9, 1):
        logits, ends = net(part, states.draw(2, tokens.device))
        states.keep(ends)
    assert torch.allclose(logits, expected, atol=1e-5)
    logits.sum().backward()


@pytest.mark.parametrize("backbone", [Mamba, Mamba2, Pythia])
def test_one_layer_is_whole_at_a_time(backbone, mesh):
    """Also on a GPU's way through blocks, where a norm is one kernel with the addition before it."""
    net = backbone(20, n_layer=4, d_model=32, **({"head_dim": 8} if backbone is Mamba2 else {}))
    shard_units(net, mesh)
    layers, tokens, seen = net.parts[1], torch.randint(20, (2, 9)), []
    for layer in layers:
        inner = layer.attention["dense"] if backbone is Pythia else layer.mixer
        inner.register_forward_hook(lambda *_: seen.append([not isinstance(next(each.parameters()), DTensor)
                                                            for each in layers]))
    net(tokens, return_state=False)
    if backbone is not Pythia:
        hidden, residual = torch.randn(2, 9, 32), None
        for layer in layers:
            hidden, residual, _ = layer.add(hidden, residual, library_norm)
    assert seen == [[i == n for i in range(4)] for n in range(4)] * (1 if backbone is Pythia else 2)
