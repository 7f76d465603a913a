"""Accuracy by length: what one evaluated problem gave, added up over a cell of problems of one length."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from length_gen.lightning_modules.evaluation.outcome import Outcome
from length_gen.tools.files import atomic_path

REASONS = ("end", "budget", "invalid_command", "tool_error", "verify")
"""Why an evaluation ended: the four of a rollout, and `verify` for the chunked parallel pass."""

ENGINES = ("host", "draft", "device", "verify", "given")
"""What took the tokens of an evaluated problem: an engine of `Decoding`, `verify`'s pass, or none: they were given."""

CELL_FIELDS = ("task", "variant", "problem_set", "setting", "style", "backbone", "evaluator", "seed")
"""Keys that tell curves apart: records that agree in all of them are one curve over lengths."""

DEFAULTS = {"problem_set": "uniform"}
"""What records mean that do not have a key of these: they are from before it."""

_COUNTS = ("problems", "exact", "judged", "answers", "predicted", "correct", "turns", "tokens")

Record = dict[str, Any]


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a success rate (Wilson 1927, without continuity correction).

    Unlike the normal approximation it says something at 0 of n and n of n: 16 of 16 gives (0.806, 1).
    n = 0 gives (0, 1). Raises ValueError unless 0 <= successes <= n.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials: expected 0 <= successes <= n")
    if n == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate, shrink = successes / n, 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # The ends are exact at 0 and n of n; rounding would otherwise give 1e-17 or 0.9999999999999999.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


class LengthMetrics(Metric):
    """Outcomes of one cell (task, variant, problem set, setting, style, evaluator, length), added up, over all ranks.

    `update` takes an `Outcome`; `compute` gives the record of metrics.json, the same on every rank, also where
    ranks have unequal numbers of problems or none.

    phases:  all phases that an outcome may name, in the order of the trajectory; the same on every rank
    reasons: all reasons that an outcome may name
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False

    def __init__(
        self,
        task: str,
        length: int,
        *,
        variant: str = "",
        setting: str = "",
        style: str = "",
        evaluator: str = "rollout",
        problem_set: str = "uniform",
        phases: Iterable[str] = (),
        reasons: Iterable[str] = REASONS,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.cell = {
            "task": task,
            "variant": variant,
            "problem_set": problem_set,
            "setting": setting,
            "style": style,
            "evaluator": evaluator,
            "length": length,
        }
        # The last slot takes errors outside all phases. Names stay here; only count vectors travel between ranks.
        self.phases = (*(p for p in dict.fromkeys(phases) if p), "")
        self.reasons = tuple(dict.fromkeys(reasons))
        for name, size in (("counts", len(_COUNTS)), ("phase_counts", len(self.phases)),
                           ("reason_counts", len(self.reasons)), ("engine_counts", len(ENGINES))):  # fmt: skip
            self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("first_errors", [], dist_reduce_fx="cat")
        self._start_list()

    def _start_list(self) -> None:
        # A rank without an error must gather an empty int64 tensor: torchmetrics would send float32 from there,
        # which all_gather cannot mix with the int64 positions of other ranks.
        self.first_errors.append(torch.empty(0, dtype=torch.int64, device=self.device))

    def reset(self) -> None:
        super().reset()
        self._start_list()

    def update(self, outcome: Outcome) -> None:
        """Add one problem. Raises ValueError for a phase or reason that the constructor was not given."""
        reason, engine = _index(self.reasons, outcome.reason, "reason"), _index(ENGINES, outcome.engine, "engine")
        phase = _index(self.phases, outcome.phase or "", "phase") if outcome.first_error is not None else None
        row = (1, outcome.exact, outcome.answer_correct is not None, bool(outcome.answer_correct),
               outcome.predicted_tokens, outcome.correct_tokens, outcome.turns, outcome.tokens)  # fmt: skip
        self.counts += torch.tensor([int(v) for v in row], device=self.counts.device)
        self.reason_counts[reason] += 1
        self.engine_counts[engine] += 1
        if phase is not None:
            self.phase_counts[phase] += 1
            self.first_errors.append(torch.tensor([outcome.first_error], device=self.counts.device))

    def compute(self) -> Record:
        """The record of this cell. Rates are in [0, 1]; None where nothing was measured.

        token_accuracy pools the tokens of all problems; turns and tokens are means over problems;
        first_error holds the (lower) median position and the most common phase, the earlier one at a tie.
        """
        count = dict(zip(_COUNTS, self.counts.tolist(), strict=True))
        n = count["problems"]
        low, high = wilson_interval(count["exact"], n)
        answer_low, answer_high = wilson_interval(count["answers"], count["judged"])
        return {
            **self.cell,
            "problems": n,
            "exact_match": _ratio(count["exact"], n),
            "exact_match_low": low,
            "exact_match_high": high,
            "answer_accuracy": _ratio(count["answers"], count["judged"]),
            "answer_low": answer_low,
            "answer_high": answer_high,
            "token_accuracy": _ratio(count["correct"], count["predicted"]),
            "first_error": self._first_error(dim_zero_cat(self.first_errors)),
            "first_error_phases": _nonzero(self.phases, self.phase_counts),
            "reasons": _nonzero(self.reasons, self.reason_counts),
            "engines": _nonzero(ENGINES, self.engine_counts),
            "turns": _ratio(count["turns"], n),
            "tokens": _ratio(count["tokens"], n),
        }

    def _first_error(self, positions: Tensor) -> Record | None:
        if positions.numel() == 0:
            return None
        common = max(range(len(self.phases)), key=self.phase_counts.tolist().__getitem__)
        # torch.median of an even number of values is the lower of the two in the middle.
        return {"position": int(positions.median()), "phase": self.phases[common]}


def _index(names: Sequence[str], name: str, what: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        known = ", ".join(repr(n) for n in names)
        raise ValueError(f"unknown {what} {name!r}; LengthMetrics was given {known}") from None


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _nonzero(names: Sequence[str], counts: Tensor) -> dict[str, int]:
    return {name: count for name, count in zip(names, counts.tolist(), strict=True) if count}


def group_records(records: Iterable[Record]) -> dict[tuple[str, ...], list[Record]]:
    """Curves: records with problems in them, grouped by `CELL_FIELDS` in order of appearance, sorted by length.

    Raises ValueError for two records of one curve at one length.
    """
    curves: dict[tuple[str, ...], dict[int, Record]] = {}
    for record in records:
        cell = tuple(str(record.get(field, DEFAULTS.get(field, ""))) for field in CELL_FIELDS)
        curve = curves.setdefault(cell, {})
        if record["length"] in curve:
            said = ", ".join(value for value in cell if value and value not in DEFAULTS.values())
            raise ValueError(f"two records for {said} at length {record['length']}")
        if record["problems"]:
            curve[record["length"]] = record
    return {cell: [curve[n] for n in sorted(curve)] for cell, curve in curves.items() if curve}


def shares(records: Iterable[Record]) -> Iterator[tuple[int, float]]:
    """(length, exact match) of each record."""
    return ((record["length"], record["exact_match"]) for record in records)


def exact_up_to(shares: Iterable[tuple[int, float]]) -> int:
    """The largest length up to which all is exact, 0 if there is none; `shares`: (length, exact match), in any order,
    several of a length where there are several kinds of problem."""
    reached = 0
    for length, exact in sorted(shares):
        if exact < 1:
            break
        reached = length
    return reached


def as_passes(records: Iterable[Record]) -> list[Record]:
    """The records that judge answers, with the share of right ones in the place of exact match: for tasks where what
    counts is that a problem is solved, however (`Task.passes`)."""
    return [r | {"exact_match": r["answer_accuracy"], "exact_match_low": r["answer_low"],
                 "exact_match_high": r["answer_high"]} for r in records if r["answer_accuracy"] is not None]


def write_metrics(path: str | os.PathLike, records: Iterable[Record], **facts: Any) -> None:
    """Write `{..., "records": [...]}` to `path` as JSON, atomically; folders are made as needed.

    facts: what else is known of the run, such as `command` and `seed`
    """
    text = json.dumps({**facts, "records": list(records)}, indent=1, allow_nan=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")
