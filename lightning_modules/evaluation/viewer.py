"""A rollout as a page of its own (viewer.html, with the data in it), to step through in a browser.

The page knows no tool and no model: what the memory held and how sure the model was is in the data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from length_gen.datamodules.tokens import PREDICTED, Kind
from length_gen.lightning_modules.evaluation.memory import MemoryTrace
from length_gen.lightning_modules.evaluation.traces import shortened, visible

if TYPE_CHECKING:
    from length_gen.lightning_modules.evaluation.solve import RolloutResult

TEMPLATE = Path(__file__).with_name("viewer.html")

UNIT = 10_000
"""Probabilities are whole numbers of 1 / UNIT."""


def page(row: RolloutResult) -> str:
    """The whole page: the template, and some ten bytes for each token."""
    # No text in the data ends the element that holds it, nor begins another.
    data = json.dumps(_data(row), separators=(",", ":")).replace("<", "\\u003c")
    before, after = TEMPLATE.read_text(encoding="utf-8").split("{{data}}")
    return before + data + after


def _data(row: RolloutResult) -> dict[str, Any]:
    """What the page shows. Texts are numbers of `texts`; steps and places that only grow are their differences."""
    numbers: dict[str, int] = {}

    def number(text: str) -> int:
        return numbers.setdefault(text, len(numbers))

    distinct = dict.fromkeys([*row.tokens, row.due, *row.confidence.best.flat])
    shown = {token: number(visible(token)) for token in distinct}
    sure, asked = row.confidence, np.isin(row.kinds, list(PREDICTED))
    written, others = np.rint(sure.written * UNIT).astype(int), np.rint(sure.of_best * UNIT).astype(int)
    doubts = np.flatnonzero(asked & (written < UNIT)).tolist()
    error = None
    if row.first_error is not None:
        at = row.first_error
        share = round(float(sure.due[at]) * UNIT) if at < len(row.tokens) else -1
        error = {"at": at, "due": shown[row.due], "share": share, "phase": visible(row.due_phase)}
    return {
        "question": " ".join(map(visible, row.question)),
        "answer": shortened(row.outputs) or "none", "expected": shortened(row.expected),
        "right": row.right, "exact": row.exact, "reason": row.reason, "detail": row.detail,
        "tokens": [shown[token] for token in row.tokens],
        "kinds": "".join(map(str, map(int, row.kinds))),
        "kindNames": [kind.name.lower() for kind in Kind],
        "phases": [[at, visible(name)] for at, name in row.phases],
        "error": error,
        "unit": UNIT,
        "written": np.where(asked, written, -1).tolist(),
        "others": {at: [value for token, share in zip(sure.best[at], others[at].tolist(), strict=True)
                        if share and token != row.tokens[at] for value in (shown[token], share)] for at in doubts},
        "memory": row.memory and _memory(row.memory, number),
        "texts": list(numbers),
    }


def _memory(trace: MemoryTrace, number) -> dict[str, Any]:
    """The changes of the memory; -1 for the text of a cell that is gone."""
    heads: dict[str, list[tuple[int, int]]] = {}
    for step, head, cell in trace.moves:
        heads.setdefault(head, []).append((step, cell))
    steps, cells, texts = zip(*trace.writes, strict=True) if trace.writes else ((), (), ())
    return {
        "blank": trace.blank,
        "heads": {head: [_differences(values) for values in zip(*moves, strict=True)] for head, moves in heads.items()},
        "writes": [_differences(steps), _differences(cells), [-1 if text is None else number(text) for text in texts]],
    }


def _differences(values: Sequence[int]) -> list[int]:
    return np.diff(values, prepend=0).tolist() if values else []
