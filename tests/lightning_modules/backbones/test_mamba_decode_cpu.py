"""The compiled step of a small Mamba on the CPU, against the formulas in float64."""

import pytest
import torch

from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.backbones.decoder import StepDecoder
from length_gen.lightning_modules.backbones.mamba_decode_cpu import CompiledDecoder

SHAPES = {"plain": {}, "floor": {"dt_floor": 0.5, "taps": [3, 1]}, "untied": {"tie_embeddings": False, "n_layer": 3},
          "odd": {"d_model": 24, "d_inner": 40, "d_state": 5, "d_conv": 3, "dt_rank": 7}, "one tap": {"d_conv": 1}}


@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_those_of_the_formulas(shape):
    torch.manual_seed(0)
    model = Mamba(11, **{"d_model": 32, "initializer_range": 0.5, "dt_max": 1.0} | SHAPES[shape]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    tokens, decoder = torch.randint(11, (3, 40)), model.decoder(3, 40)
    assert type(decoder) is CompiledDecoder
    with torch.inference_mode():
        steps = [decoder.step(tokens[:, t]) for t in range(20)]
        decoder.prefill(torch.tensor([0, 2]), tokens[[0, 2], 20:30])  # from and to the same states as all others
        decoder.keep(torch.tensor([0, 2]))
        steps += [decoder.step(tokens[[0, 2], t]) for t in range(30, 40)]
        exact = model.double()(tokens)[0]
    for t, logits in zip([*range(20), *range(30, 40)], steps, strict=True):
        wanted = exact[:, t] if len(logits) == 3 else exact[[0, 2], t]
        assert (logits - wanted).abs().max() < 1e-5 * exact.abs().max()


def test_it_is_for_small_models_in_float32():
    assert type(Mamba(300, d_model=600, n_layer=1).decoder(1, 9)) is StepDecoder
    assert type(Mamba(9, d_model=16).double().decoder(1, 9)) is StepDecoder
