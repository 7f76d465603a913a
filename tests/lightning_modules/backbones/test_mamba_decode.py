"""Decoding kernels, on a GPU, or on the CPU where Triton is installed: TRITON_INTERPRET=1 python -m pytest ..."""

import os

import pytest
import torch

from length_gen.lightning_modules.backbones import Mamba

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1",
                                reason="needs a GPU or TRITON_INTERPRET=1")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("tiles", [None, (1, 16), (4, 32)])
@pytest.mark.parametrize(("states", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 1e-2)])
def test_steps_are_the_model_in_any_tiles(tiles, states, tolerance):
    from length_gen.lightning_modules.backbones.mamba_decode import MambaDecoder, Tiles

    torch.manual_seed(0)
    model = Mamba(19, n_layer=2, d_model=24, d_state=8).to(DEVICE).eval()
    tokens = torch.randint(0, 19, (5, 7), device=DEVICE)
    chosen = {} if tiles is None else {"convolve_tiles": Tiles(*tiles), "update_tiles": Tiles(*tiles)}
    decoder = MambaDecoder(model, 5, torch.float32, states, **chosen)
    with torch.inference_mode():
        expected = model(tokens)[0]
        decoder.step(tokens[:, 3])
        decoder.reset(torch.arange(5, device=DEVICE))  # the ring of inputs starts anywhere
        found = torch.stack([decoder.step(tokens[:, t]).clone() for t in range(7)], 1)
    assert (found - expected).norm() < tolerance * expected.norm()


def test_kernels_that_are_not_there_are_named():
    from length_gen.lightning_modules.backbones.mamba_decode import MambaDecoder

    model = Mamba(19, n_layer=1, d_model=24, d_state=8).to(DEVICE)
    with pytest.raises(ValueError, match="unknown kernels 'three': expected 'layer' or 'six'"):
        MambaDecoder(model, 5, torch.float32, torch.float32, kernels="three")
    with pytest.raises(ValueError, match="kernels 'layer' do not take 5 rows of "):
        MambaDecoder(model, 5, torch.float32, torch.float32, kernels="layer")
