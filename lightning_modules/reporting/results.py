"""Curves over lengths and seeds, from the files in results/."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from length_gen.datamodules.tasks import CodeFixing
from length_gen.lightning_modules.evaluation.metrics import Record, as_passes, exact_up_to, wilson_interval
from length_gen.tools import UserError
from length_gen.tools.files import read_json

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
    """One recipe on one kind of problem, over its seeds; a trained model stands in it once, whatever evaluated it.

    evaluator: `rollout`, `verify`, or both, with how many seeds an evaluator has where that is not all, and the
               lengths at which the two differ, if any
    runs:      the files of results, one or two (rollouts apart) for each seed
    exact:     for each seed, length -> exact match, of rollouts where there are any; 0 beyond a length where it had
               none and stopped
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

    def seed_of(self, place: int) -> Any:
        """The seed whose exact match stands at a place of `exact`."""
        return list(dict.fromkeys(run.facts.get("seed", run.name) for run in self.runs))[place]

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

    def exact_to(self) -> list[int]:
        """Of each seed, the largest length up to which every problem of every length is exact; or 0."""
        return [exact_up_to(one.items()) for one in self.exact]

    def outcomes(self) -> list[tuple[int, bool]]:
        """`exact_to` of each seed, with whether it tried nothing longer, so that its limit is not known."""
        return [(reached, reached == max(one)) for reached, one in zip(self.exact_to(), self.exact, strict=True)]

    def summary(self) -> dict[str, Any]:
        """The curve as plain values: what it is of, and for its seeds in their order the seed, `exact_to`, the largest
        length tried, and exact match by length (a text)."""
        names = ("experiment", "recipe", "task", "variant", "setting", "style", "backbone", "evaluator")
        return {**{name: getattr(self, name) for name in names},
                "seeds": [self.seed_of(k) for k in range(len(self.exact))], "exact_to": self.exact_to(),
                "tried": [max(one) for one in self.exact], "exact": [{str(n): e for n, e in one.items()}
                                                                     for one in self.exact],
                "whole": [last for _, last in self.outcomes()]}

    def reaches(self) -> list[tuple[int, float]]:
        """The reach of each seed, sorted: the paper's number, the largest length with at least 5% exact and the share
        there; or (0, 0)."""
        return sorted(max(((n, e) for n, e in one.items() if e >= 0.05), default=(0, 0.0)) for one in self.exact)

    def median_reach(self) -> tuple[int, float]:
        """Of the seed in the middle, the lower one of two."""
        reaches = self.reaches()
        return reaches[(len(reaches) - 1) // 2]


def models(runs: Iterable[Run]) -> int:
    """How many models were trained: a file of rollouts apart is none of its own."""
    return len({(run.experiment, SEED.sub("", run.name), run.facts.get("seed", run.name)) for run in runs})


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


def kind(record: Record) -> tuple[str, str, str, str]:
    """What a record's problems are: task, variant (structured problems are one of their own), setting and style."""
    hard = "structured" * (record.get("problem_set") == "structured")
    return record["task"], " ".join(filter(None, (record["variant"], hard))), record["setting"], record["style"]


def curves(runs: Iterable[Run]) -> list[Curve]:
    """The runs' records by recipe (the file's name without its seed) and kind of problem.

    Raises UserError where two files give one model's exact match at one length, by one evaluator.
    """
    cells: defaultdict[tuple[str, ...], defaultdict[Any, list[tuple[Run, Record]]]] = defaultdict(
        lambda: defaultdict(list))
    for run in runs:
        recipe, seed = SEED.sub("", run.name), run.facts.get("seed", run.name)
        for record in run.records:
            cells[(run.experiment, recipe, *kind(record), run.facts.get("backbone", ""))][seed].append((run, record))
    return [_curve(key, seeds) for key, seeds in cells.items()]


def _curve(key: Sequence[str], seeds: Mapping[Any, Sequence[tuple[Run, Record]]]) -> Curve:
    *names, backbone = key
    exact, problems, tokens, errors, evaluators, files, differ = [], {}, {}, Counter(), Counter(), {}, set()
    lengths = sorted({record["length"] for found in seeds.values() for _, record in found})
    for found in seeds.values():
        by_length: dict[int, Record] = {}
        # Rollouts, the truth, last: they stand where both are.
        for run, record in sorted(found, key=lambda pair: (pair[1]["evaluator"] == "rollout", pair[1]["length"])):
            before = by_length.get(record["length"])
            if before is not None and before["evaluator"] == record["evaluator"]:
                raise UserError(f"{run.experiment}/{run.name} has a second result of seed {run.facts.get('seed')} at "
                                f"length {record['length']:,}: remove one of the two files")
            if before is not None and before["exact_match"] != record["exact_match"]:
                differ.add(record["length"])
            by_length[record["length"]] = record
            files[run.name] = run
        evaluators.update({record["evaluator"] for _, record in found})
        records = [by_length[length] for length in sorted(by_length)]
        one = {record["length"]: record["exact_match"] for record in records}
        if not records[-1]["exact_match"]:  # longer ones are not tried then
            one |= {n: 0.0 for n in lengths if n > records[-1]["length"]}
        exact.append(one)
        problems |= {record["length"]: record["problems"] for record in records}
        tokens |= {record["length"]: record.get("tokens") or 0 for record in records}
        if failing := next((record for record in records if record["exact_match"] < 1), None):
            errors.update(failing["first_error_phases"])
    evaluator = ", ".join(name + (f" ({count} of {len(seeds)} seeds)" if count < len(seeds) else "")
                          for name, count in sorted(evaluators.items()))
    evaluator += "; they differ at " + ", ".join(f"{length:,}" for length in sorted(differ)) if differ else ""
    return Curve(*names, evaluator, backbone, tuple(files.values()), tuple(exact), problems, tokens, errors)
