"""Whether every backbone gives the same logits whole, in chunks and step by step, over 10,000 tokens.

    python benchmarks/agreement.py                 # on a GPU with its kernels, and its decoder in bfloat16 too
    python benchmarks/agreement.py --small         # smaller models; about 4 minutes on the CPU

Three rows of random tokens go through an untrained model: at once (the reference), in chunks of uneven sizes, step by
step, and through the decoder of the rollout engine. Halfway, the second row begins anew. Counted are the positions
whose largest logit is another one than in the reference; the widest margin is by how much, of them, the reference
preferred its own: rounding decides where two logits are closer than it. Prints a table and writes
results/benchmarks/agreement.json, or agreement_cpu.json.
"""

import functools
import itertools
from collections.abc import Iterator

import lightning
import torch
from torch import Tensor

from length_gen.lightning_modules.backbones import (
    GRU,
    LSTM,
    XLSTM,
    GatedDeltaNet,
    Hybrid,
    Mamba,
    Mamba2,
    Mamba3,
    Mistral,
    Pythia,
)
from length_gen.lightning_modules.backbones.base import Backbone, reset_rows
from length_gen.lightning_modules.backbones.decoder import capture
from length_gen.lightning_modules.reporting.measurements import Records, arguments

VOCABULARY, ROWS, AGAIN = 40, 3, 1
SIZES = (1, 7, 333, 64, 1024, 3, 2049)
"""Of the chunks, in turns."""


def backbones(small: bool) -> dict[str, functools.partial]:
    """Constructors of the backbones by name, of 2 x 64 if small, else of 8 x 512; they take the size of the
    vocabulary."""
    layers, width = (2, 64) if small else (8, 512)
    shape = {"n_layer": layers, "d_model": width}
    return {"mamba": functools.partial(Mamba, **shape, dt_min=0.1, dt_max=1.0),
            "mamba2": functools.partial(Mamba2, **shape, d_state=64, head_dim=32),
            "mamba3": functools.partial(Mamba3, **shape, d_state=64, head_dim=32),
            "gateddeltanet": functools.partial(GatedDeltaNet, **shape, head_dim=16 if small else 64),
            "xlstm": functools.partial(XLSTM, **shape),
            "lstm": functools.partial(LSTM, **shape), "gru": functools.partial(GRU, **shape),
            "pythia": functools.partial(Pythia, **shape, n_head=4),
            "mistral": functools.partial(Mistral, **shape, n_head=4, window=256),
            "hybrid": functools.partial(Hybrid, **shape, n_head=4)}


def main() -> None:
    """Compare the ways through each backbone."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = arguments(__doc__, f"agreement{'' if device.type == 'cuda' else '_cpu'}", tokens=10_000, small=False,
                        only=backbones(True))
    key = ("backbone", "what", "type", "tokens")
    records = Records(options.out, device, key)
    for name in options.only:
        lightning.seed_everything(1, verbose=False)
        model = backbones(options.small)[name](VOCABULARY).to(device).eval()
        tokens = torch.randint(VOCABULARY, (ROWS, options.tokens), device=device)
        try:
            for way, kind, logits in results(model, tokens):
                place = (model.description, way, kind, options.tokens)
                records.add(dict(zip(key, place, strict=True)) | compare(whole(model, tokens), logits)
                            | {"rows": ROWS, "seed": 1})
        except Exception as error:  # one backbone must not cost the others
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}")
    records.show()


@torch.inference_mode()
def whole(model: Backbone, tokens: Tensor) -> Tensor:
    """Logits [B, T, V] of whole rows, the second of which is two halves."""
    logits, half = model(tokens)[0], tokens.shape[1] // 2
    logits[AGAIN, half:] = model(tokens[AGAIN : AGAIN + 1, half:])[0][0]
    return logits


def results(model: Backbone, tokens: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """Name, type and logits [B, T, V] of each other way."""
    yield "chunks", "float32", chunks(model, tokens)
    yield "steps", "float32", steps(model, tokens)
    if tokens.is_cuda:
        for kind in (torch.float32, torch.bfloat16):
            yield "decoder", str(kind)[6:], decoded(model, tokens, kind)


@torch.inference_mode()
def chunks(model: Backbone, tokens: Tensor) -> Tensor:
    """Logits [B, T, V] of `forward` in chunks of `SIZES`."""
    half, ends = tokens.shape[1] // 2, [0]
    for size in itertools.cycle(SIZES):
        ends.append(min(ends[-1] + size, half if ends[-1] < half else tokens.shape[1]))
        if ends[-1] == tokens.shape[1]:
            break
    state, parts = model.initial_state(ROWS), []
    for start, end in itertools.pairwise(ends):
        if start == half:
            state = again(model, state)
        logits, state = model(tokens[:, start:end], state)
        parts.append(logits)
    return torch.cat(parts, 1)


@torch.inference_mode()
def steps(model: Backbone, tokens: Tensor) -> Tensor:
    """Logits [B, T, V] of `step`."""
    state, parts = model.reserve(model.initial_state(ROWS), tokens.shape[1]), []
    for t in range(tokens.shape[1]):
        if t == tokens.shape[1] // 2:
            state = again(model, state)
        logits, state = model.step(tokens[:, t], state)
        parts.append(logits.clone())
    return torch.stack(parts, 1)


@torch.inference_mode()
def decoded(model: Backbone, tokens: Tensor, kind: torch.dtype) -> Tensor:
    """Logits [B, T, V], float32, of the decoder with weights and states of a type, in a CUDA graph where it can be."""
    decoder = model.decoder(ROWS, tokens.shape[1], kind, kind)
    given, parts, logits = tokens[:, 0].clone(), [], []

    def step() -> None:
        logits[:] = [decoder.step(given)]

    run = capture(step).replay if model.capturable else step  # as the engine does
    decoder.reset(torch.arange(ROWS, device=tokens.device))
    for t in range(tokens.shape[1]):
        if t == tokens.shape[1] // 2:
            decoder.reset(torch.tensor([AGAIN], device=tokens.device))
        given.copy_(tokens[:, t])
        run()
        parts.append(logits[0].float().clone())
    return torch.stack(parts, 1)


def again(model: Backbone, state):
    """The state with row `AGAIN` at its start."""
    rows = torch.arange(ROWS, device=next(model.parameters()).device) == AGAIN
    return reset_rows(state, rows, model.initial_state(1))


def compare(reference: Tensor, other: Tensor) -> dict[str, float]:
    """How far logits [B, T, V] are from the reference's, and how often and by how much their choices differ."""
    choices, others = reference.argmax(-1), other.argmax(-1)
    margins = (reference.gather(-1, choices[..., None]) - reference.gather(-1, others[..., None])).squeeze(-1)
    return {"largest_difference": float((reference - other).abs().max()), "deviation": float(reference.std()),
            "other_choices": int((margins > 0).sum()),
            "of": choices.numel(), "widest_margin": float(margins.max())}


if __name__ == "__main__":
    main()
