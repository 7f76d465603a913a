"""The kernels for a layer of a step, on a GPU, or, where there is a C++ compiler, emulated on the CPU."""

import ctypes
import os
import shutil
import subprocess
from functools import cache, partial
from pathlib import Path

import pytest
import torch

from length_gen.lightning_modules.backbones import Mamba, mamba_layer

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
HALF, LAYERS = torch.bfloat16, 2
MOST_SHARED = 113 * 1024
"""Bytes of shared memory for each of two blocks on a multiprocessor (compute capability 9.0)."""

SMALL = mamba_layer.Tiles(64, 128, 64, 2, 64, 64, 3, 4, 64, 2)
WIDE = mamba_layer.Tiles(128, 128, 192, 4, 128, 64, 3, 1, 192, 1)
"""Groups of warps with rows of their own, and no terms that blocks share."""
NARROW = mamba_layer.Tiles(64, 64, 96, 4, 64, 64, 3, 1, 96, 1)
"""Columns of a group of warps that are no multiple of 32."""


def backbone(**sizes) -> Mamba:
    """Large enough steps and inputs that every part of a layer counts; weights that bfloat16 does not round."""
    torch.manual_seed(0)
    model = Mamba(19, initializer_range=0.1, dt_min=0.05, dt_max=1.0, **sizes).eval()
    with torch.no_grad():
        for block in model.backbone["layers"]:
            block.norm.weight.uniform_(0.5, 1.5)
            for weight in (block.mixer.in_proj.weight, block.mixer.x_proj.weight, block.mixer.out_proj.weight,
                           block.mixer.dt_proj.weight):
                weight.copy_(weight.to(HALF))
            block.mixer.out_proj.weight.mul_(4)
            block.mixer.D.uniform_(0.5, 1.5)
    return model


def build(folder: Path, source: str, defined: dict) -> ctypes.CDLL:
    """An emulation, with these definitions."""
    probe = ["g++", "-std=c++20", "-include", "ucontext.h", "-fsyntax-only", "-x", "c++", "/dev/null"]
    if not shutil.which("g++") or subprocess.run(probe, capture_output=True).returncode:
        pytest.skip("needs a g++ that knows C++20, or a GPU")
    library = folder / f"{Path(source).stem}_{'_'.join(map(str, defined.values()))}.so"
    subprocess.run(["g++", "-O2", "-std=c++20", "-w", "-shared", "-fPIC", *(f"-D{k}={v}" for k, v in defined.items()),
                    "-I", Path(mamba_layer.__file__).parent, "-o", library,
                    Path(__file__).with_name(source)], check=True)
    return ctypes.CDLL(str(library))


@pytest.fixture(scope="module")
def models() -> dict:
    thin = backbone(n_layer=LAYERS, d_model=64, d_inner=192, dt_rank=16)
    return {SMALL: backbone(n_layer=LAYERS, d_model=256, d_inner=256, dt_rank=40), WIDE: thin, NARROW: thin}


class Emulation:
    """The kernels for a model, compiled for the CPU; it can take the place of `MambaLayers._launch`."""

    def __init__(self, folder: Path, model: Mamba, states: torch.dtype, shape: mamba_layer.Tiles) -> None:
        defined = mamba_layer.definitions(model, 1, states, shape)
        self.library, self.seed = build(folder, "emulation_layer.cpp", defined), 0
        self.bytes = mamba_layer.shared_bytes(defined)

    def __call__(self, name: str, grid: tuple, cluster: tuple, numbers: list[int]) -> None:
        self.seed += 1
        run = getattr(self.library, f"emulate_{name}")
        assert run((ctypes.c_int * 3)(*grid), (ctypes.c_int * 3)(*cluster), ctypes.c_longlong(self.bytes[name]),
                   (ctypes.c_longlong * len(numbers))(*numbers), self.seed)


@pytest.fixture(scope="module")
def emulations(tmp_path_factory, models):
    folder = tmp_path_factory.mktemp("emulation")
    return cache(lambda shape, states: Emulation(folder, models[shape], states, shape))


def by_row(recent: torch.Tensor) -> torch.Tensor:
    """[n_layer, rows, 3, D], with the rows that fill the last block."""
    return recent.flatten(4).flatten(1, 2)


class Emulated:
    """Steps with the kernels on the CPU, between the embedding and the head as MambaDecoder has them."""

    def __init__(self, model: Mamba, rows: int, states: torch.dtype, shape: mamba_layer.Tiles,
                 emulation: Emulation) -> None:
        mixer, layers = model.backbone["layers"][0].mixer, len(model.backbone["layers"])
        self.model, self.rows = model, rows
        self.recent = mamba_layer.recent_inputs(layers, rows, mixer.d_inner, torch.device("cpu"))
        self.state = torch.zeros(layers, rows, mixer.d_inner, 16, dtype=states)
        self.clock = torch.zeros(1, dtype=torch.int32)
        self.layers = mamba_layer.MambaLayers(model, rows, self.recent, self.state, self.clock, emulation, shape)

    @torch.no_grad()
    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        layers, rows, body = self.layers, self.rows, self.model.backbone
        value = body["embedding"](tokens)
        stream = torch.nn.functional.pad(value.to(HALF), (0, 0, 0, layers.padded - rows))
        layers.stream.copy_(mamba_layer.blocks(stream, 64).flatten())
        layers.squares[0, :rows, 0] = value.square().sum(1)
        layers.hidden.copy_(value)
        self.clock += 1
        layers.step()
        scale = torch.rsqrt(layers.squares[1, :rows].sum(1) / value.shape[1] + body["norm_f"].eps)
        return layers.hidden * scale[:, None] @ (self.model.lm_head.weight * body["norm_f"].weight).t()


@pytest.mark.parametrize(("shape", "states", "rows", "steps"), [
    pytest.param(SMALL, HALF, 70, 2, marks=pytest.mark.slow), (SMALL, HALF, 9, 5),
    pytest.param(WIDE, torch.float32, 70, 2, marks=pytest.mark.slow), (WIDE, torch.float32, 5, 5),
    pytest.param(NARROW, HALF, 70, 2, marks=pytest.mark.slow)])
@torch.no_grad()
def test_a_step_is_the_model(models, emulations, shape, states, rows, steps):
    model, tokens = models[shape], torch.randint(0, 19, (steps, rows), generator=torch.Generator().manual_seed(1))
    assert mamba_layer.takes(model, rows, HALF, states)
    decoder, state = Emulated(model, rows, states, shape, emulations(shape, states)), model.initial_state(rows)
    for now in tokens:
        expected, state = model.step(now, state)
        found = decoder.step(now)
        assert (found - expected).norm() < 1e-2 * expected.norm()
    order = (torch.arange(1, 4) + int(decoder.clock)) % 3
    for i, (recent, h) in enumerate(state):
        assert (by_row(decoder.recent)[i, :rows, order] - recent).norm() < 1e-2 * recent.norm()
        assert (decoder.state[i] - h).norm() < 1e-2 * h.norm()


@pytest.mark.slow
def test_the_order_of_the_blocks_changes_no_bit(models, emulations):
    tokens = torch.randint(0, 19, (2, 70), generator=torch.Generator().manual_seed(1))
    found = []
    for seed in (0, 100):
        emulation = emulations(SMALL, HALF)
        emulation.seed = seed
        decoder = Emulated(models[SMALL], 70, HALF, SMALL, emulation)
        logits = [decoder.step(now) for now in tokens]
        found.append((*logits, decoder.recent, decoder.state, decoder.layers.hidden, decoder.layers.squares))
    assert all(map(torch.equal, *found))


def test_what_is_not_a_number_stays_in_its_row(models, emulations):
    tokens = torch.randint(0, 19, (2, 5), generator=torch.Generator().manual_seed(1))
    decoder = Emulated(models[SMALL], 5, HALF, SMALL, emulations(SMALL, HALF))
    decoder.step(tokens[0])
    decoder.state[0, 2, 7, 3] = float("nan")
    assert decoder.step(tokens[1]).isfinite().all(1).tolist() == [True, True, False, True, True]
    decoder.recent[:, 0, 2], decoder.state[:, 2] = 0, 0  # the row begins again
    assert decoder.step(tokens[0]).isfinite().all()


def test_the_kernels_are_not_for_every_model(models):
    assert not mamba_layer.fits(models[SMALL], 5, HALF, HALF)  # on the CPU
    large = Mamba(7, n_layer=1, d_model=768)
    assert mamba_layer.takes(large, 1024, HALF, HALF) and mamba_layer.takes(large, 1, HALF, torch.float32)
    assert not mamba_layer.takes(large, 256, torch.float32, HALF)
    assert not mamba_layer.takes(large, 1, HALF, torch.half)
    assert not mamba_layer.takes(Mamba(7, n_layer=1, d_model=40), 1, HALF, HALF)
    assert not mamba_layer.takes(Mamba(7, n_layer=1, d_model=1024), 1, HALF, HALF)  # 32 parts of the selection
    for states in (HALF, torch.float32):
        sizes = mamba_layer.shared_bytes(mamba_layer.definitions(large, 256, states))
        assert sizes["update"] <= MOST_SHARED
        assert max(sizes.values()) <= mamba_layer.MOST_SHARED


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") != "1", reason="needs TRITON_INTERPRET=1")
@torch.inference_mode()
def test_a_decoder_with_them_steps_and_resets_as_with_six(models, emulations, monkeypatch):
    from length_gen.lightning_modules.backbones.mamba_decode import MambaDecoder

    monkeypatch.setattr(mamba_layer, "MambaLayers", partial(mamba_layer.MambaLayers, launch=emulations(SMALL, HALF),
                                                            shape=SMALL))
    six, three = (MambaDecoder(models[SMALL], 70, HALF, HALF, kernels=kernels) for kernels in ("six", "layer"))
    for t, now in enumerate(torch.randint(0, 19, (4, 70), generator=torch.Generator().manual_seed(1))):
        for decoder in (six, three):
            if t == 2:
                decoder.reset(torch.tensor([0, 3, 66]))
            decoder.step(now)
        # The interpreter takes the bits of bfloat16 for integers in products, so that it has no logits to compare.
        expected, found = (decoder.last[:70].float() * torch.rsqrt(decoder.last_squares.sum(1)[:70, None])
                           for decoder in (six, three))
        assert (found - expected).norm() < 2e-2 * expected.norm()
    for decoder in (six, three):
        decoder.prefill(torch.tensor([1, 65]), torch.tensor([[2, 3, 4, 5, 6], [6, 5, 4, 3, 2]]))
    for ours, theirs in ((by_row(three.recent)[:, :70], by_row(six.recent)), (three.state, six.state)):
        assert ours.shape == theirs.shape and (ours.float() - theirs.float()).norm() < 2e-2 * theirs.float().norm()


@torch.inference_mode()
def compare_in_a_graph(model: Mamba, rows: int, states: torch.dtype) -> None:
    """Fifty steps on a GPU are those of the six kernels, and again the same bits."""
    from length_gen.lightning_modules.backbones.decoder import capture
    from length_gen.lightning_modules.backbones.mamba_decode import MambaDecoder

    tokens = torch.randint(0, 19, (50, rows), device="cuda")
    found = []
    for way in ("six", "layer", "layer"):
        decoder, given = MambaDecoder(model, rows, HALF, states, kernels=way), tokens[0].clone()
        graph = capture(lambda decoder=decoder, given=given: decoder.step(given))
        decoder.reset(torch.arange(rows, device="cuda"))
        logits = []
        for t, now in enumerate(tokens):
            if t == 20:
                decoder.reset(torch.arange(0, rows, 3, device="cuda"))
            given.copy_(now)
            graph.replay()
            logits.append(decoder.logits.clone())
        found.append(torch.stack(logits))
    six, ours, again = found
    assert torch.isfinite(ours).all()
    assert torch.equal(ours, again)
    errors = (ours - six).flatten(1).norm(dim=1) / six.flatten(1).norm(dim=1)
    assert errors.max() < 5e-2, errors


@CUDA
@pytest.mark.parametrize("states", [torch.float32, HALF])
@pytest.mark.parametrize(("width", "rows"), [(768, 1), (768, 5), (768, 65), (768, 256), (768, 300), (768, 900),
                                             (128, 70), (384, 70)])
def test_fifty_steps_in_a_graph_are_those_of_the_six_kernels(width, rows, states):
    if torch.cuda.get_device_capability() != mamba_layer.CAPABILITY:
        pytest.skip("needs compute capability 9.0")
    compare_in_a_graph(backbone(n_layer=6, d_model=width).cuda(), rows, states)
