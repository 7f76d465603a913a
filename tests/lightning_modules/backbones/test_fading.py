"""A floor under the step sizes, and taps of the convolution: of Mamba and of Mamba-2."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from length_gen.lightning_modules.backbones import Mamba, Mamba2
from length_gen.lightning_modules.backbones.fading import start_bias
from length_gen.lightning_modules.backbones.mamba2 import chunk_scan
from length_gen.tools import UserError
from tests.lightning_modules.backbones.test_mamba2 import plain_scan

FADING = {"dt_floor": 0.5, "taps": [3, 1]}
BUILD = pytest.mark.parametrize("build", [functools.partial(Mamba, 50, d_model=32),
                                          functools.partial(Mamba2, 50, d_model=32)], ids=["mamba", "mamba2"])


@BUILD
def test_they_change_no_draw_of_the_weights(build):
    torch.manual_seed(3)
    plain, after = build().state_dict(), torch.rand(1)
    for i, taps in enumerate((3, 1)):
        plain[f"backbone.layers.{i}.mixer.conv1d.weight"][..., : 4 - taps] = 0
    torch.manual_seed(3)
    fading = build(**FADING).state_dict()
    assert torch.equal(torch.rand(1), after)
    assert list(plain) == list(fading) and all(map(torch.equal, plain.values(), fading.values()))


def test_step_sizes_start_evenly_in_their_logarithm():
    torch.manual_seed(0)
    logs = F.softplus(start_bias(10_000, 0.002, 0.2)).log10()
    assert logs.histc(4, math.log10(0.002), math.log10(0.2)).sub(2500).abs().max() < 150  # 3.5 standard deviations
    assert F.softplus(start_bias(100, 1e-9, 1e-8)).tolist() == pytest.approx([1e-4] * 100)


@BUILD
@torch.no_grad()
def test_a_floor_makes_every_state_fade(build):
    """Two states of the recurrence, here of the first layer, come closer by exp(floor A) a token."""
    net, tokens = build(dt_floor=0.02), torch.randint(50, (1, 12))
    mixer = net.backbone["layers"][0].mixer
    (mixer.dt_proj.bias if isinstance(net, Mamba) else mixer.dt_bias).fill_(-50)  # no time would pass without a floor
    one, other = net.initial_state(1), net.initial_state(1)
    one[0][1].normal_()
    rates = torch.exp(mixer.A_log) if isinstance(net, Mamba) else torch.exp(mixer.A_log)[:, None, None]
    expected = (one[0][1] - other[0][1]) * torch.exp(-0.02 * 12 * rates)
    found = net(tokens, one)[1][0][1] - net(tokens, other)[1][0][1]
    assert (found - expected).abs().max() < 1e-6 and expected.abs().max() > 1e-3


@BUILD
def test_taps_that_are_left_out_stay_zero(build):
    net, tokens = build(n_layer=3, taps=[4, 2]), torch.randint(50, (2, 20))
    weights = [layer.mixer.conv1d.weight for layer in net.backbone["layers"]]
    before = [weight.clone() for weight in weights]
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=3.0)
    for _ in range(3):
        optimizer.zero_grad()
        net(tokens)[0].square().mean().backward()
        optimizer.step()
    for weight, old, taps in zip(weights, before, (4, 2, 2), strict=True):
        assert not weight[..., : 4 - taps].any() and (weight != old)[..., 4 - taps :].all()


@BUILD
@torch.no_grad()
def test_what_is_older_than_the_taps_is_not_read(build):
    """With one tap, and states that are gone after a token, no layer looks back."""
    net, tokens = build(dt_floor=200.0, taps=[1]), torch.randint(50, (1, 9))
    changed = tokens.clone()
    changed[0, :-1] = (tokens[0, :-1] + 1) % 50
    assert torch.allclose(net(changed)[0][:, -1], net(tokens)[0][:, -1], atol=1e-5)
    wide = build(dt_floor=200.0, taps=[2, 1])  # one token back in one layer
    changed[0, -2] = tokens[0, -2]
    assert torch.allclose(wide(changed)[0][:, -1], wide(tokens)[0][:, -1], atol=1e-5)
    assert not torch.allclose(wide(changed)[0][:, -2], wide(tokens)[0][:, -2], atol=1e-3)


@torch.no_grad()
def test_mamba2_s_scan_with_a_floor_equals_the_recurrence():
    shapes = [(2, 70, 6, 5), (2, 70, 6), (6,), (6,), (2, 70, 3, 7), (2, 70, 3, 7), (2, 6, 5, 7)]
    x, dt, bias, a, b, c, state = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    pairs = zip(chunk_scan(x, dt, bias, -a.exp(), b, c, state, 0.5),
                plain_scan(x, F.softplus(dt + bias) + 0.5, -a.exp(), b, c, state), strict=True)
    assert all((found - expected).norm() < 1e-10 * expected.norm() for found, expected in pairs)


@BUILD
@pytest.mark.parametrize(("settings", "message"), [
    ({"dt_floor": -1.0}, "dt_floor -1.0 is not allowed: expected a step size from 0 on"),
    ({"dt_floor": float("nan")}, "dt_floor nan is not allowed"), ({"taps": []}, r"taps \[\] are not allowed"),
    ({"taps": [4, 0]}, r"from 1 to 4 \(d_conv\)"), ({"taps": [4, 5]}, r"from 1 to 4")])
def test_impossible_ones(build, settings, message):
    with pytest.raises(UserError, match=message):
        build(**settings)
