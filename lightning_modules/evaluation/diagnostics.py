"""What later questions ask of a model that is not kept: margins, first errors, states, step sizes.

One teacher-forced pass over reference trajectories, in chunks. The *margin* of a decision is the right token's logit
less the largest other one: negative where the model errs.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.recording import Block, RecordedRows
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.evaluation.metrics import Record
from length_gen.lightning_modules.evaluation.teacher_forcing import TeacherForcing
from length_gen.lightning_modules.evaluation.verify import suited_chunk

QUANTILES = (0.0, 0.001, 0.01, 0.1, 0.5)
"""Of the margins of each phase; 0 is the least."""

PARTS = 10
"""Of a trajectory, by how far in it a decision lies."""

CONTEXT, MOST_ERRORS = 40, 8
"""Tokens before a first error that are kept, and how many first errors."""

LONGEST_CHUNK = 8192
"""Tokens of a row at a time, at most: states are seen between two chunks."""


def diagnostics(backbone: Backbone, data: TrajectoryDataModule, records: Iterable[Record], most: int,
                split: str) -> Iterator[Record]:
    """`diagnose`, of at most so many problems, for each problem set, variant and length that records are of."""
    asked = dict.fromkeys((r["problem_set"], r["length"], r["task"], r["variant"]) for r in records)
    names = {data.task.part(variant)[0].name: {} for variant in data.task.variants}
    for variant in data.task.variants:
        part, own = data.task.part(variant)
        names[part.name][own] = variant
    for problem_set, length, task, own in asked:
        problems = data.problems(split, length, names[task][own], most, problem_set)
        size = min(LONGEST_CHUNK, suited_chunk(backbone, len(problems)))
        rows = RecordedRows(data.task, problems, data.vocabulary, size, workers=0)
        yield {"task": task, "variant": own, "problem_set": problem_set, "length": length, "problems": len(problems)} \
            | diagnose(backbone, data.vocabulary, rows, len(problems))


@torch.inference_mode()
def diagnose(backbone: Backbone, vocabulary: Vocabulary, blocks: Iterable[Sequence[Block | None]],
            rows: int) -> dict[str, Any]:
    """What a pass over trajectories shows, for JSON.

    blocks: the next block of each of `rows` trajectories, again and again; None where one has ended

    phases: by name: decisions, wrong ones, and the margins' QUANTILES
    parts:  for each tenth of the trajectories: decisions, wrong ones, least margin
    errors: of the first MOST_ERRORS trajectories that have one the first: position, phase, context, due, said, margin
    states: root mean square of each tensor of the state after each tenth of the first trajectory's chunks
    step_sizes: of a Mamba's layers, by phase of the first chunk that has one (a long question has none) and of the last
            whole one: mean over channels of the quantiles 0.01, 0.5 and 0.99 over tokens
    """
    forcing = TeacherForcing(backbone, rows, _margin)
    margins, phases, ids = ([[] for _ in range(rows)] for _ in range(3))
    said, sizes, states, kept = [[] for _ in range(rows)], [0] * rows, [], {}
    for chunk in blocks:
        with mixer_inputs(backbone) as seen:
            found, other = (part.cpu().numpy() for part in forcing.take([block and block.ids for block in chunk]))
        states.append([float(leaf[0].float().square().mean().sqrt()) for leaf in tree_leaves(forcing.state)])
        if chunk[0] and chunk[0].phases and ("first" not in kept or len(chunk[0].ids) == found.shape[1]):
            kept["last" if "first" in kept else "first"] = seen, chunk[0]
        for i, block in enumerate(chunk):
            if block:
                count = len(block.ids)
                margins[i].append(np.where(block.predicted.numpy(), found[i, :count], np.nan))
                said[i].append(other[i, :count].astype(np.int32))
                ids[i].append(block.ids.numpy())
                phases[i] += [(sizes[i] + position, name) for position, name in block.phases]
                sizes[i] += count
    return _summary([np.concatenate(part) for part in margins], [np.concatenate(part) for part in said],
                    [np.concatenate(part) for part in ids], phases, vocabulary) | {
        "states": [states[(len(states) - 1) * i // PARTS] for i in range(1, PARTS + 1)],
        "step_sizes": {name: _step_sizes(*parts) for name, parts in kept.items()}}


def _margin(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Margin of each token, float32 [B, T], and the likeliest other one [B, T]."""
    due = logits.gather(2, tokens[..., None])[..., 0]
    others, other = logits.scatter(2, tokens[..., None], -torch.inf).max(2)
    return (due - others).float(), other


def _summary(margins: list[np.ndarray], said: list[np.ndarray], ids: list[np.ndarray],
             phases: list[list[tuple[int, str]]], vocabulary: Vocabulary) -> dict[str, Any]:
    names = list(dict.fromkeys(name for row in phases for _, name in row))
    by_phase: dict[str, list[np.ndarray]] = {name: [] for name in names}
    by_part: list[list[np.ndarray]] = [[] for _ in range(PARTS)]
    errors = []
    for row, other, own, marks in zip(margins, said, ids, phases, strict=True):
        starts = [start for start, _ in marks]
        for (start, name), stop in zip(marks, [*starts[1:], len(row)], strict=True):
            by_phase[name].append(row[start:stop])
        for part, piece in zip(by_part, np.array_split(row, PARTS), strict=True):
            part.append(piece)
        wrong = np.flatnonzero(row <= 0)
        if len(wrong) and len(errors) < MOST_ERRORS:
            place = int(wrong[0])
            tokens = [vocabulary.tokens[i] for i in own[max(0, place - CONTEXT) : place + 1]]
            errors.append({"position": place, "phase": marks[np.searchsorted(starts, place, "right") - 1][1],
                           "context": " ".join(tokens[:-1]), "due": tokens[-1],
                           "said": vocabulary.tokens[int(other[place])], "margin": _rounded(row[place])})
    return {"phases": {name: counts for name, pieces in by_phase.items() if (counts := _margins(pieces))},
            "parts": [_margins(pieces, (0.0,)) for pieces in by_part], "errors": errors}


def _margins(pieces: list[np.ndarray], quantiles: Sequence[float] = QUANTILES) -> dict[str, Any]:
    """Decisions, wrong ones, quantiles of the margins; nothing where nothing is decided."""
    found = np.concatenate(pieces)
    found = found[~np.isnan(found)]
    return {"decisions": len(found), "wrong": int((found <= 0).sum()),
            "margins": [_rounded(value) for value in np.quantile(found, quantiles)]} if len(found) else {}


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


@contextmanager
def mixer_inputs(backbone: Backbone) -> Iterator[dict[str, tuple[torch.nn.Module, Tensor]]]:
    """By name, each mixer that has step sizes, and what the first row puts into it, [1, T, d_model], while the block
    lasts."""
    seen: dict[str, tuple[torch.nn.Module, Tensor]] = {}
    hooks = [module.register_forward_pre_hook(
        lambda module, given, name=name: seen.update({name: (module, given[0][:1].clone())}))
             for name, module in backbone.named_modules() if hasattr(module, "step_sizes")]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _step_sizes(seen: dict[str, tuple[torch.nn.Module, Tensor]], block: Block) -> dict[str, dict[str, list[float]]]:
    """By layer and phase."""
    result = {}
    for name, (mixer, hidden) in seen.items():
        sizes = mixer.step_sizes(hidden)[0, : len(block.ids)].float().cpu()
        stops = [*(start for start, _ in block.phases[1:]), len(sizes)]
        phases: dict[str, list[Tensor]] = {}
        for (start, phase), stop in zip(block.phases, stops, strict=True):
            phases.setdefault(phase, []).append(sizes[start:stop])
        layer = (re.findall(r"\d+", name) or [name])[0]
        result[layer] = {phase: [_rounded(v) for v in torch.quantile(
            torch.cat(parts), torch.tensor([0.01, 0.5, 0.99]), 0).mean(1).tolist()]
            for phase, parts in phases.items() if sum(map(len, parts))}
    return result
