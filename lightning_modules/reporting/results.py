"""Curves over lengths and seeds, from the files in results/."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.tasks import CodeFixing
from lightning_modules.evaluation.metrics import Record, as_passes, wilson_interval
from tools import UserError
from tools.files import read_json

PASSES = {CodeFixing.name}
"""Tasks where what counts is that a problem is solved: their curves are pass rates."""

KINDS = {"task": str, "variant": str, "setting": str, "style": str, "evaluator": str, "length": int, "problems": int,
         "exact_match": int | float, "first_error_phases": dict}
"""What a record of an evaluation has."""

SEED = re.compile(r"_?seed\d+(_rollout)?")
"""What the names of one recipe's files differ in; rollouts of a model may have a file of their own."""


@dataclass(frozen=True, slots=True)
class Run:
    """One file of results: one model, trained with one seed."""

    experiment: str
    name: str
    facts: dict[str, Any]
    records: list[Record]


@dataclass(frozen=True, slots=True)
class Curve:
    """One recipe on one kind of problem, over its seeds.

    evaluator: `rollout`, `verify`, or both where they agree
    runs:      one for each seed
    exact:     for each run, length -> exact match; 0 beyond a length where it had none and stopped
    problems:  length -> number of problems
    tokens:    length -> mean tokens of a trajectory
    errors:    phases of the first errors, each run at its first length that is not all exact
    """

    experiment: str
    recipe: str
    task: str
    variant: str
    setting: str
    style: str
    evaluator: str
    backbone: str
    runs: tuple[Run, ...]
    exact: tuple[dict[int, float], ...]
    problems: dict[int, int]
    tokens: dict[int, float]
    errors: Counter

    @property
    def seeds(self) -> str:
        """How many there are: `3 seeds, 1 of them diverged`."""
        diverged = len({run.facts.get("seed") for run in self.runs if run.facts.get("diverged")})
        count = len(self.exact)
        return f"{count} seed{'s' * (count != 1)}{f', {diverged} of them diverged' * bool(diverged)}"

    @property
    def lengths(self) -> list[int]:
        """All lengths of its runs, in growing order."""
        return sorted({length for one in self.exact for length in one})

    @property
    def trained(self) -> int | None:
        """Largest training length, by the folder's name or else by the runs' own; None if neither tells."""
        return trained(self.experiment) or trained(str(self.runs[0].facts.get("experiment")))

    def at(self, length: int) -> list[float]:
        """Exact match at a length, of the runs that tried it or had failed before it."""
        return [one[length] for one in self.exact if length in one]

    def interval(self, length: int) -> tuple[float, float]:
        """Lowest and highest over the seeds; the 95% Wilson interval where there is one seed."""
        values = self.at(length)
        if len(values) > 1 or not self.problems.get(length):
            return min(values), max(values)
        n = self.problems[length]
        return wilson_interval(round(values[0] * n), n)

    def steady(self, share: float = 1.0) -> list[int]:
        """Of each run, the largest length up to which it is exact on at least a share of the problems of each; or 0."""
        result = []
        for one in self.exact:
            reached = 0
            for length in sorted(one):
                if one[length] < share:
                    break
                reached = length
            result.append(reached)
        return result

    def perfect(self) -> tuple[int, int]:
        """The largest length up to which all is exact with every seed that tried it, and how many did; or zeros."""
        result = 0, 0
        for length in self.lengths:
            values = self.at(length)
            if min(values) < 1:
                break
            result = length, len(values)
        return result

    def reaches(self, threshold: float = 0.05) -> list[tuple[int, float]]:
        """Of each run, the paper's number: the largest length with at least 5% exact and the share there; or (0, 0)."""
        return sorted(max(((n, e) for n, e in one.items() if e >= threshold), default=(0, 0.0)) for one in self.exact)

    def median_reach(self) -> tuple[int, float]:
        """Of the seed in the middle, the lower one of two."""
        reaches = self.reaches()
        return reaches[(len(reaches) - 1) // 2]


def trained(experiment: str) -> int | None:
    """Largest training length, which ends an experiment's name; None if no number from 1 on does."""
    found = re.search(r"_0*([1-9][0-9]*)$", experiment)
    return int(found[1]) if found else None


def read_runs(folder: str | Path) -> list[Run]:
    """All results below a folder, `<experiment>/<recipe>_seed<n>.json`; raises UserError for a file that is broken."""
    runs = []
    for path in sorted(Path(folder).glob("*/*.json")):
        content = read_results(path)
        records = content["records"]
        if records and {"task", "exact_match"} <= records[0].keys():
            if wrong := [record for record in records if not all(
                    isinstance(record.get(key), kind) for key, kind in KINDS.items())]:
                raise UserError(f"{path} holds a record that is none: {str(wrong[0])[:200]}; expected "
                                f"{', '.join(KINDS)}; remove it, or make it again")
            records = as_passes(records) if records[0]["task"] in PASSES else records
            runs.append(Run(path.parent.name, path.stem, content, records))
    return runs


def read_results(path: Path, facts: Iterable[str] = (), names: Iterable[str] = ()) -> dict[str, Any]:
    """A file of results, with `records`, none where it has none. UserError if it is broken, or lacks one of the facts
    or names of a record's values that are given."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not JSON: {error}; remove it, or make it again") from None
    content = content if isinstance(content, dict) else {}
    records = content.get("records", [])
    if not isinstance(records, list) or not all(
            isinstance(record, dict) and record.keys() >= set(names) for record in records) \
            or not content.keys() >= set(facts) or (facts and not records):
        raise UserError(f"{path} holds no results: expected {', '.join([*facts, 'records, a list of mappings'])}"
                        f"{' with ' * bool(names)}{', '.join(names)}; remove it, or make it again")
    return {**content, "records": records}


def curves(runs: Iterable[Run]) -> list[Curve]:
    """The runs' records by recipe (the file's name without its seed) and kind of problem; evaluators that agree at
    every length that both tried are one curve."""
    cells: defaultdict[tuple[str, ...], list[tuple[Run, list[Record]]]] = defaultdict(list)
    for run in runs:
        parts: defaultdict[tuple[str, ...], list[Record]] = defaultdict(list)
        for record in run.records:
            parts[tuple(record[k] for k in ("task", "variant", "setting", "style", "evaluator"))].append(record)
        for kind, records in parts.items():
            backbone = run.facts.get("backbone", "")
            cells[(run.experiment, SEED.sub("", run.name), *kind, backbone)].append((run, records))
    result: list[Curve] = []
    for curve in (_curve(key, members) for key, members in cells.items()):
        other = next((i for i, o in enumerate(result) if _agree(o, curve)), None)
        if other is None:
            result.append(curve)
        else:
            result[other] = _merged(result[other], curve)
    return result


def _curve(key: Sequence[str], members: Sequence[tuple[Run, list[Record]]]) -> Curve:
    exact, problems, tokens, errors = [], {}, {}, Counter()
    lengths = sorted({r["length"] for _, records in members for r in records})
    for _, records in members:
        records = sorted(records, key=lambda r: r["length"])
        one = {r["length"]: r["exact_match"] for r in records}
        if records and not records[-1]["exact_match"]:  # longer ones are not tried then
            one |= {n: 0.0 for n in lengths if n > records[-1]["length"]}
        exact.append(one)
        problems |= {r["length"]: r["problems"] for r in records}
        tokens |= {r["length"]: r.get("tokens") or 0 for r in records}
        if failing := next((r for r in records if r["exact_match"] < 1), None):
            errors.update(failing["first_error_phases"])
    return Curve(*key, tuple(run for run, _ in members), tuple(exact), problems, tokens, errors)


def _agree(a: Curve, b: Curve) -> bool:
    same = all(getattr(a, k) == getattr(b, k) for k in ("experiment", "recipe", "task", "variant", "setting", "style",
                                                        "backbone"))
    return same and [r.facts.get("seed") for r in a.runs] == [r.facts.get("seed") for r in b.runs] and all(
        x[n] == y[n] for x, y in zip(a.exact, b.exact, strict=True) for n in x.keys() & y.keys())


def _merged(a: Curve, b: Curve) -> Curve:
    longer = max(a, b, key=lambda c: len(c.lengths))
    exact = tuple(x | y for x, y in zip(a.exact, b.exact, strict=True))
    names = sorted({r.name for r in a.runs}) == sorted({r.name for r in b.runs})
    return Curve(*(getattr(a, k) for k in ("experiment", "recipe", "task", "variant", "setting", "style")),
                 f"{a.evaluator}, {b.evaluator}", a.backbone, a.runs if names else (*a.runs, *b.runs), exact,
                 b.problems | a.problems, b.tokens | a.tokens, longer.errors)

