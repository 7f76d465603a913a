"""docs/results.md: tables and figures from the files in results/, and nothing else."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from lightning_modules.metrics import Reach, Record, atomic_path, reach
from lightning_modules.plots import reach_figure, save_figure, seeds_figure
from tools import UserError

SEED = re.compile(r"_?seed\d+(_rollout)?")
"""What the names of one recipe's files differ in; rollouts of a model may have a file of their own."""
NOTHING = "\N{EM DASH}"


@dataclass(frozen=True, slots=True)
class Run:
    """One file of results: one model, trained with one seed."""

    experiment: str
    name: str
    facts: dict[str, Any]
    records: list[Record]


@dataclass(frozen=True, slots=True)
class Curve:
    """One recipe on one kind of problem, over its seeds: length -> exact match of each seed."""

    experiment: str
    recipe: str
    task: str
    variant: str
    setting: str
    style: str
    evaluator: str
    backbone: str
    runs: tuple[Run, ...]
    exact: dict[int, list[float]]
    problems: dict[int, int]
    reaches: tuple[Reach, ...]
    errors: Counter

    @property
    def label(self) -> str:
        return ", ".join(filter(None, (self.recipe, self.variant)))


def read_runs(folder: str | Path) -> list[Run]:
    """All results below a folder, `<experiment>/<recipe>_seed<n>.json`; raises UserError for a file that is broken."""
    runs = []
    for path in sorted(Path(folder).glob("*/*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is not JSON: {error}; remove it, or make it again") from None
        records = content.get("records", ()) if isinstance(content, dict) else ()
        if records and "exact_match" in records[0]:
            runs.append(Run(path.parent.name, path.stem, content, records))
    return runs


def curves(runs: Iterable[Run]) -> list[Curve]:
    """The runs' records by recipe (the file's name without its seed) and kind of problem."""
    cells: defaultdict[tuple[str, ...], list[tuple[Run, list[Record]]]] = defaultdict(list)
    for run in runs:
        parts: defaultdict[tuple[str, ...], list[Record]] = defaultdict(list)
        for record in run.records:
            parts[tuple(record[k] for k in ("task", "variant", "setting", "style", "evaluator"))].append(record)
        for kind, records in parts.items():
            backbone = run.facts.get("backbone", "")
            cells[(run.experiment, SEED.sub("", run.name), *kind, backbone)].append((run, records))
    result = []
    for key, members in cells.items():
        exact: defaultdict[int, list[float]] = defaultdict(list)
        problems, errors = {}, Counter()
        lengths = sorted({r["length"] for _, records in members for r in records})
        for _, records in members:
            known = {r["length"]: r for r in records}
            for length in lengths:
                # Lengths are not tried after one with no exact and no right answer.
                exact[length].append(known[length]["exact_match"] if length in known else 0.0)
            problems |= {n: r["problems"] for n, r in known.items()}
            failing = next((r for r in sorted(records, key=lambda r: r["length"]) if r["exact_match"] < 1), None)
            if failing:
                errors.update(failing["first_error_phases"])
        reaches = tuple(next(iter(reach(records).values())) for _, records in members)
        result.append(Curve(*key, tuple(run for run, _ in members), dict(exact), problems, reaches, errors))
    return result


def report(results: str = "results", out: str = "docs/results.md") -> None:
    """Write the results page from the files in a folder.

    Args:
        results: the folder of results
        out: the page; its figures go to figures/ beside it
    """
    if not Path(results).is_dir():
        raise UserError(f"there is no folder {results}: give the folder of results")
    everything = curves(read_runs(results))
    page = ["# Results", "",
            f"Made by `python run.py report` from the files in `{results}/`, each of which holds the command, commit, "
            "device, versions and seed that made it. *Exact match*: the whole trajectory is the reference's. Several "
            "seeds are given as median (lowest to highest); no seed is left out. A length that a run did not try, "
            "because it failed on all problems of a shorter one, counts as 0%.", ""]
    figures = Path(out).parent / "figures"
    page += paper_section(everything, Path(results) / "paper.yaml")
    page += horizon_section(everything, Path(results) / "horizon", figures)
    for experiment in dict.fromkeys(curve.experiment for curve in everything):
        page += experiment_section([c for c in everything if c.experiment == experiment], figures)
    page += benchmark_section("Theory", Path(results) / "theory")
    page += benchmark_section("Benchmarks", Path(results) / "benchmarks")
    with atomic_path(out) as temporary:
        temporary.write_text("\n".join(page).rstrip() + "\n", encoding="utf-8")
    print(f"{out}: {len(everything)} curves of {len(list(Path(results).glob('*/*.json')))} files")


def experiment_section(cells: Sequence[Curve], figures: Path) -> list[str]:
    """Figure and table of one experiment, and the commands."""
    name = cells[0].experiment
    train_length = trained(name)
    lengths = sorted({length for cell in cells for length in cell.exact})
    page = [f"## {name.replace('_', ' ')}", ""]
    for settings in dict.fromkeys(cell.setting for cell in cells):
        # One evaluator a recipe, the one that went to more lengths: for greedy decoding they agree.
        drawn: dict[str, dict[int, list[float]]] = {}
        for one in (c for c in cells if c.setting == settings):
            if len(one.exact) > len(drawn.get(one.label, ())):
                drawn[one.label] = one.exact
        for number, start in enumerate(range(0, len(drawn), 7)):
            part = dict(list(drawn.items())[start : start + 7])
            path = figures / f"{name}_{settings.replace(', ', '_')}_{number}.png"
            save_figure(seeds_figure(part, train_length, f"{name.replace('_', ' ')}, {settings}"), path)
            page += [f"![{name}](figures/{path.name})", ""]
    page += table(["recipe", "problems", "setting, style", "evaluator", "seeds", *(f"{n:,}" for n in lengths),
                   "first errors"],
                  [[cell.recipe, cell.variant, f"{cell.setting}, {cell.style}", cell.evaluator, seeds(cell.runs),
                    *(spread(cell.exact.get(n)) for n in lengths), phases(cell.errors)] for cell in cells])
    page += ["<details><summary>commands</summary>", ""]
    page += [f"- {run.name}: `{run.facts.get('command', 'not known')}` (commit {run.facts.get('commit')}, "
             f"{run.facts.get('device')}{facts(run)})"
             for run in dict((run.name, run) for cell in cells for run in cell.runs).values()]
    return [*page, "", "</details>", ""]


def paper_section(everything: Sequence[Curve], path: Path) -> list[str]:
    """The rows of the paper's tables, next to the best-matching cells here; what is not measured is called missing."""
    if not path.is_file():
        return []
    rows, missing = [], []
    for row in yaml.safe_load(path.read_text(encoding="utf-8"))["rows"]:
        found = [c for c in everything if c.task == row["task"] and c.variant in (row.get("variant", ""),)
                 and c.setting == row.get("setting", "interactive") and c.backbone.split()[:1] == [row["backbone"]]
                 and (trained(c.experiment) or row["trained"] + 1) <= row["trained"]]
        for style in ("paper", "local"):
            # Rollouts where there are any: they are the truth.
            cells = [c for c in found if c.style == style]
            cells = [c for c in cells if c.evaluator == "rollout" or not any(
                o.recipe == c.recipe and o.evaluator == "rollout" and max(o.exact) >= max(c.exact) for o in cells)]
            rows += [[row["what"], row["backbone"], row["paper"], style, f"{c.recipe} ({c.backbone}, {c.evaluator})",
                      trained(c.experiment), seeds(c.runs), reached(c.reaches), best(c.reaches)] for c in cells]
            if not cells:
                missing.append(f"{row['what']}: {row['backbone']}, {style}")
    return ["## Against the paper", "",
            "The paper's numbers are the best of 2 seeds (Hanoi: of 10); `n -> m (p%)`: trained up to n, accuracy p at "
            "m, the largest m with at least 5%. Ours: the same number, median (lowest to highest) over all seeds, and "
            "the best seed.", "",
            *table(["what", "model", "paper", "style", "ours", "trained up to", "seeds", "reach, all seeds",
                    "best seed"], rows),
            f"**Missing** ({len(missing)}): {'; '.join(missing) or 'nothing'}.", ""]


def horizon_section(everything: Sequence[Curve], folder: Path, figures: Path) -> list[str]:
    """Horizons that need no training, and how far trained models get."""
    rows, lines = [], []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        records, what = content["records"], (content["task"], content["setting"], content["style"])
        rows.append([*what, content["verdict"], ", ".join(f"{r['horizon']} at {r['length']}" for r in records),
                     ", ".join(list(records[-1]["phases"])[:2])])
        kind = f"horizon {content['verdict'].partition(' like')[0].partition(':')[0]}"
        reaches: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        for curve in everything:
            length = trained(curve.experiment)
            if (curve.task, curve.setting, curve.style) == what and curve.evaluator == "verify" and length \
                    and curve.backbone.startswith("mamba "):
                name = ", ".join(filter(None, (curve.task, curve.variant, curve.style)))
                reaches[name] += [(steady(curve, i) / length, max(curve.exact) / length)
                                  for i in range(len(curve.runs))]
        lines += [(name, kind, max(most for _, most in values), [value for value, _ in values])
                  for name, values in reaches.items()]
    if not rows:
        return []
    page = ["## Horizon", "",
            "How many tokens back one must look to know every token that a model has to predict "
            "(`python run.py analyze`), on validation problems up to each length; no training.", ""]
    if lines:
        save_figure(reach_figure(sorted(lines, key=lambda line: (line[1], line[0]))), figures / "horizon_reach.png")
        page += ["![horizon and reach](figures/horizon_reach.png)", "",
                 "Each point is a trained Mamba, every recipe and every seed: the largest length up to which at least "
                 "90% of the problems of every length are exact (`verify`).", ""]
    return [*page, *table(["task", "setting", "style", "verdict", "horizon (tokens)", "worst decisions in"], rows)]


def steady(curve: Curve, run: int, share: float = 0.9) -> int:
    """The largest length up to which one run is exact on at least a share of the problems of every length; or 0."""
    reached = 0
    for length in sorted(curve.exact):
        if curve.exact[length][run] < share:
            break
        reached = length
    return reached


def benchmark_section(title: str, folder: Path) -> list[str]:
    """The tables of all benchmarks in a folder, whatever their columns, and the command of each."""
    page = []
    for path in sorted(folder.glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = content["records"]
        names = list(dict.fromkeys(name for row in rows for name in row))
        page += [f"### {path.stem.replace('_', ' ')}", "",
                 f"`{content.get('command')}` (commit {content.get('commit')}, {content.get('device')})", "",
                 *table(names, [[cell(row.get(name)) for name in names] for row in rows])]
    return [f"## {title}", "", *page] if page else []


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head),
            *("| " + " | ".join(str(value).replace("|", "/") for value in row) + " |" for row in rows), ""]


def trained(experiment: str) -> int | None:
    """Largest training length, which ends an experiment's name."""
    number = experiment.rpartition("_")[2]
    return int(number) if number.isdigit() else None


def seeds(runs: Sequence[Run]) -> str:
    numbers = sorted(run.facts["seed"] for run in runs if run.facts.get("seed") is not None)
    return ", ".join(map(str, numbers))


def spread(values: Sequence[float] | None) -> str:
    """Median (lowest to highest) in percent."""
    if not values:
        return NOTHING
    low, middle, high = (f"{100 * value:.3g}" for value in (min(values), median(values), max(values)))
    return f"{middle}%" if low == high else f"{middle}% ({low}\N{EN DASH}{high})"


def reached(reaches: Sequence[Reach]) -> str:
    lengths = sorted(r.partial or 0 for r in reaches)
    middle = lengths[(len(lengths) - 1) // 2]
    text = f"{middle:,}" if lengths[0] == lengths[-1] else f"{middle:,} ({lengths[0]:,}\N{EN DASH}{lengths[-1]:,})"
    perfect = min(r.perfect or 0 for r in reaches)
    return f"{text}; all seeds at 100% to {perfect:,}"


def best(reaches: Sequence[Reach]) -> str:
    one = max(reaches, key=lambda r: (r.partial or 0, r.partial_accuracy or 0))
    return f"{one.partial:,} ({100 * one.partial_accuracy:.3g}%)" if one.partial else "0"


def phases(errors: Counter) -> str:
    """Where the first errors fall at the first length that is not all exact, with the number of problems."""
    return ", ".join(f"{phase or 'outside'} ({count})" for phase, count in errors.most_common(2)) or NOTHING


def facts(run: Run) -> str:
    parts = [f"{run.facts[key]:,} {text}" for key, text in (("parameters", "parameters"), ("train_tokens", "tokens"))
             if run.facts.get(key)]
    if run.facts.get("train_seconds"):
        parts.append(f"{run.facts['train_seconds']:.0f} s of training")
    return "".join(f", {part}" for part in parts)


def cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {cell(sum(v) / len(v) if isinstance(v, list) else v)}" for key, v in value.items())
    if isinstance(value, float):
        return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
    return NOTHING if value is None else f"{value:,}" if isinstance(value, int) else str(value)
