"""The certificate's file: all that the independent checker needs beside the weights.

An .npz file with the automaton (`windows`, `source`, `target`, `wanted`), the proved boxes of the short windows of each
layer (`low.0`, `high.0`, ...: float32 [short windows, channels, states]), and a header in JSON (`header`), a dict:

    claim, assumptions      in words
    unit                    u: the rounding error of an operation that is covered
    order, short, sweeps    K, the length of the short windows, and steps over the graph that are enough from them
    family, settings        what the weights do not say: floors, taps, epsilon
    weights, automaton, source, boxes    SHA-256: of the weights, of the automaton, of the task's and tool's source
    task, setting, style, nodes, edges, decisions, least_margin, commit, versions
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from length_gen.datamodules.automaton.windows import Automaton
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.tools.files import atomic_path

CLAIM = ("for every problem of every length, greedy decoding yields the reference trajectory, token by token, in real "
         "arithmetic and in arithmetic whose rounding error per operation is at most u")

ASSUMPTIONS = (
    "the automaton holds all windows of the last K tokens that occur in any reference trajectory, with all tokens that "
    "can follow (certificates/check.py takes it as given)",
    "an operation's result is the exact one times 1 + d, plus t, with |d| <= u and |t| <= 1e-30; sums may be taken in "
    "any order; the inverse of a root may be off by 16 u; exp, softplus and silu by 16 u and, a below 0, by 2 a u more "
    "(exp of A_log by twice its size); nothing overflows",
    "weights are the stored ones, exactly; where float32 is computed with, they are float32",
    "the tool answers as its source says, and the rollout gives the model what the setting shows of the question",
)


def weights_of(backbone: Backbone) -> dict[str, np.ndarray]:
    """The weights by name, as they are stored, tied ones under each of their names."""
    return {name: value.detach().cpu().numpy() for name, value in sorted(backbone.state_dict().items())}


def digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of arrays by name, in hexadecimal: of name, type, shape and bytes of each, in the names' order."""
    found = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        array = np.ascontiguousarray(array)
        found.update(f"{name} {array.dtype.str} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def write_certificate(path: Path, automaton: Automaton, boxes: list[tuple[Tensor, Tensor]], backbone: Backbone,
                      **header: Any) -> None:
    """Write the file, and the weights as `weights.npz` beside it.

    boxes: lower and upper ends of the short windows' states, of every layer
    """
    arrays = {name: np.asarray(getattr(automaton, name)) for name in ("windows", "source", "target", "wanted")}
    short = {f"{end}.{layer}": half.to(torch.float32).cpu().numpy()
             for layer, pair in enumerate(boxes) for end, half in zip(("low", "high"), pair, strict=True)}
    weights = weights_of(backbone)
    header = {"claim": CLAIM, "assumptions": ASSUMPTIONS, **header, "weights": digest(weights),
              "automaton": automaton.digest(), "boxes": digest(short)}
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, content in ((path, {**arrays, **short, "header": np.array(json.dumps(header))}),
                          (path.with_name("weights.npz"), weights)):
        with atomic_path(file) as target, open(target, "wb") as stream:
            np.savez_compressed(stream, **content)
