"""Whether a backbone is one model: whole rows at once, in chunks, by step, and by the decoder of rollouts.

Training takes the first of these ways, verification the second, and rollouts the others: a backbone of one's own that
changes one and not the others would learn what no rollout does.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from length_gen.datamodules.tasks import Task
from length_gen.datamodules.tokens import Kind
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.backbones.decoder import device_guard
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.tools import UserError

MOST_TOKENS = 256
"""Of a trajectory that is longer a part, with the longest observation in its middle."""

EXACT = 1e-4
"""Largest difference of two logits, in units of the largest logit, where all is computed in float32."""

ROUNDED = 0.2
"""The same where something is in 16 bits. Two ways choose another token only where its margin is below twice their
difference, whatever that is: to bound it bounds the margins."""


def check_agreement(backbone: Backbone, task: Task, vocabulary: Vocabulary,
                    decoding: Decoding = Decoding(), rows: int = 2,  # noqa: B008 (frozen)
                    autocast: Callable[[], AbstractContextManager] = nullcontext) -> None:
    """Raises UserError, in one line, unless all ways of a backbone agree on a training trajectory of the task.

    Modes and random numbers are left as they were. A model whose logits are no numbers is not held to anything.

    decoding: of the rollouts
    rows:     of the decoder on a GPU, whose kernels depend on it, from 2 on
    autocast: the context in which training computes
    """
    device = next(backbone.parameters()).device
    tokens = _tokens(task, vocabulary).to(device)
    modes = [(module, module.training) for module in backbone.modules()]
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []), torch.no_grad(), device_guard(device), _without_tf32(cuda):
        backbone.eval()
        try:
            whole = backbone(tokens, return_state=False)[0].float()
            if whole.isnan().any():
                return
            for name, kind, chosen, logits in _ways(backbone, tokens, decoding, max(2, rows) if cuda else 2, autocast):
                _compare(backbone, name, whole[:, chosen], logits.float(), kind)
        finally:
            backbone.train()  # what was kept for the evaluation is dropped
            for module, mode in modes:
                module.training = mode


def _tokens(task: Task, vocabulary: Vocabulary) -> Tensor:
    """A trajectory, or a part of it, and the same with its halves exchanged, int64 [2, T]."""
    trajectory = task.record(task.longest_problem())
    observations = re.finditer(re.escape(bytes([Kind.OBSERVATION])) + b"+", bytes(trajectory.kinds))
    begin, _ = max((found.span() for found in observations), key=lambda span: span[1] - span[0], default=(0, 0))
    start = max(0, min(begin - MOST_TOKENS // 3, len(trajectory.tokens) - MOST_TOKENS))
    ids = torch.from_numpy(vocabulary.encode(trajectory.tokens[start : start + MOST_TOKENS]))
    return torch.stack([ids, ids.roll(len(ids) // 2)])


def _ways(backbone: Backbone, tokens: Tensor, decoding: Decoding, rows: int,
          autocast: Callable) -> Iterator[tuple[str, torch.dtype, slice | list[int], Tensor]]:
    """Name, least type, places and logits [2, k, V] of each other way through `tokens`, int64 [2, T]."""
    length, size = tokens.shape[1], max(1, tokens.shape[1] // 3)
    everything, kind = slice(None), next(backbone.parameters()).dtype

    chosen = torch.arange(length, device=tokens.device).expand_as(tokens) >= length - size
    yield "logits_at", kind, slice(length - size, None), backbone.logits_at(tokens, chosen).unflatten(0, (2, size))

    state, parts = backbone.initial_state(2), []
    for chunk in tokens.split(size, 1):
        logits, state = backbone(chunk, state)
        parts.append(logits)
    yield "forward in chunks", kind, everything, torch.cat(parts, 1)

    state, parts = backbone.reserve(backbone.initial_state(2), length), []
    for token in tokens.unbind(1):
        logits, state = backbone.step(token, state)
        parts.append(logits.clone())
    yield "step", kind, everything, torch.stack(parts, 1)

    types = decoding.types(backbone)
    name = f"decoder (weights {decoding.weights}, states {decoding.states})"
    yield name, min(kind, *types, key=lambda dtype: dtype.itemsize), *_decoded(backbone, tokens, size, rows, types)

    with autocast():
        if torch.is_autocast_enabled(tokens.device.type):
            kind = torch.get_autocast_dtype(tokens.device.type)
            many = tokens.repeat(min(8, rows // 2), 1)  # of few rows a GPU takes another scan
            yield f"forward in {str(kind)[6:]}", kind, everything, backbone(many, return_state=False)[0][:2]


def _decoded(backbone: Backbone, tokens: Tensor, size: int, rows: int,
             types: tuple[torch.dtype, torch.dtype]) -> tuple[list[int], Tensor]:
    """Places and logits of a decoder whose first and last row take steps, `size` tokens in a pass, and steps again.

    All rows but the last are given back the initial state after a token, and are one behind from there on.
    """
    length, device = tokens.shape[1], tokens.device
    decoder, pair = backbone.decoder(rows, length, *types), torch.tensor([0, rows - 1], device=device)
    tokens = torch.stack([tokens[0].roll(1), tokens[1]])
    given = tokens[0].repeat(rows, 1)
    given[-1] = tokens[1]
    decoder.step(given[:, 0])
    decoder.reset(torch.arange(rows, device=device))
    at_once = range(size, 2 * size) if decoder.prefills and length > 5 else range(0)
    behind, ahead = {}, {}
    for t in range(length):
        if t == at_once.start and at_once:
            decoder.prefill(pair, tokens[:, size : 2 * size])
        if t not in at_once:
            behind[t - 1], ahead[t] = decoder.step(given[:, t])[pair].unbind()
        if t == 0:
            decoder.reset(torch.arange(rows - 1, device=device))
    places = sorted(behind.keys() & ahead.keys())
    return places, torch.stack([torch.stack([behind[place], ahead[place]]) for place in places], 1)


def _compare(backbone: Backbone, name: str, whole: Tensor, other: Tensor, kind: torch.dtype) -> None:
    difference = float(torch.where(whole == other, 0, (whole - other).abs()).max())
    largest = float(whole[whole.isfinite()].abs().max())
    if difference <= (EXACT if kind == torch.float32 else ROUNDED) * largest:
        return
    raise UserError(f"{backbone.description} is not one model: on a trajectory of the task the logits of {name} differ "
                    f"from those of forward at once by up to {difference:.2g}, where the largest is {largest:.2g}, so "
                    f"that a rollout would not do what was learnt; let forward, step and decoder compute the same, "
                    f"also in what {type(backbone).__name__} inherits or changes")


@contextmanager
def _without_tf32(cuda: bool) -> Iterator[None]:
    """Products in float32 with all of its digits."""
    if not cuda:
        yield
        return
    precision, tf32 = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = tf32
