"""Parameters that are shared out are whole wherever a training step computes with them."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from length_gen.lightning_modules.backbones import LSTM, Hybrid, Mamba, Mamba2, Pythia
from length_gen.lightning_modules.training.initial_states import InitialStates
from length_gen.lightning_modules.training.sharding import shard_units
from tests.lightning_modules.backbones.test_mamba import library_norm


@pytest.fixture
def mesh(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("backbone", [Mamba, Mamba2, Hybrid, Pythia])
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
