"""What the results say, in words and numbers: against the paper, how far, what the horizon and noise do."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median_low
from typing import Any

from length_gen.lightning_modules.evaluation.plots import short_number
from length_gen.lightning_modules.reporting.results import Curve
from length_gen.lightning_modules.reporting.text import NOTHING, TO, plural, reach_text
from length_gen.tools import UserError
from length_gen.tools.files import read_yaml

PAPER = re.compile(r"-> ([\d,]+) \((\d+)%\)")
"""`10 -> 1,000 (98%)`: what the paper's tables say."""
GROWTH = re.compile(r"(.+)_(?:scaling|steps)_\d+")
"""Experiments of many recipes that differ in training length or steps: shown as growth, their tables folded."""
QUEUE = "paper_"
"""What the names of the recipes begin with whose settings were fixed before they were run."""
PAPER_TABLE = re.compile(r"Table \d|Figure \d")
"""What names a row of the grid that the paper's recipe is to fill."""
STYLES = ("local", "paper")
SHORT = 25
"""Tokens of a horizon that a small model can be expected to keep."""
KINDS = (f"bounded, up to {SHORT} tokens", f"bounded, over {SHORT} tokens", "growing")


def answer(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The whole in one sentence; nothing where no row of the paper's tables was measured."""
    known = {style: measured(rows, style) for style in STYLES}
    met = {style: f"{sum(not below(row, style) for row in found)} of {len(found)}" for style, found in known.items()}
    if not any(known.values()):
        return []
    return [f"**Where commands carry their phase (style `local`), tool use takes models as far as the paper says in "
            f"{met['local']} rows of its tables that were measured; where trajectories are written as in the paper "
            f"(style `paper`), in {met['paper']}.** A row is met where our median seed has at least the paper's "
            f"share at the paper's length.", ""]


def against(everything: Sequence[Curve], rows: Sequence[dict[str, Any]],
            horizons: Sequence[dict[str, Any]]) -> list[str]:
    """What the results say against the thesis, or against the suite's own account of it."""
    lines = []
    if cells := [cell for _, *line in paper_grid(rows)[1] for cell in line]:
        lines.append(f"By the paper's own recipe and sizes {len(cells) - cells.count(NOTHING)} of {len(cells)} cells "
                     f"of its tables are there; beside the others stand other recipes, whose sizes the table says.")
    for style in reversed(STYLES):
        tasks: defaultdict[str, list[str]] = defaultdict(list)
        for row in measured(rows, style):
            if below(row, style):
                tasks[row["what"].rpartition(",")[0] or row["what"]].append(row["backbone"])
        if tasks:
            lines.append(f"Style {style}, below the paper: "
                         + "; ".join(f"{task}: {', '.join(models)}" for task, models in tasks.items()) + ".")
        if alone := sum(len(row["ours"][style][0].exact) < 2 and not below(row, style)
                        for row in measured(rows, style)):
            lines.append(f"Style {style}: {plural(alone, 'row')} of those that are met {'is' if alone == 1 else 'are'} "
                         f"met by one seed.")
    failing = {name: f"{one.models - one.whole} of {one.models}" for name, one in farthest(everything).items()
               if one.whole < one.models}
    if failing:
        lines.append("Style local, Mambas that fail before the largest length they tried: "
                     + ", ".join(f"{name} {count}" for name, count in failing.items()) + ".")
    for kind, (learnt, far, _) in by_kind(everything, horizons).items():
        if learnt and kind == KINDS[2] and far:
            lines.append(f"A horizon that grows with the length does not always stop a model: {len(far)} of "
                         f"{len(learnt)} trained Mambas are exact up to the largest length tried all the same.")
        elif len(far) < len(learnt) and kind != KINDS[2]:
            lines.append(f"A bounded horizon ({kind.partition(', ')[2]}) ensures no reach: {len(learnt) - len(far)} "
                         f"of {len(learnt)} trained Mambas that are exact up to the training length fail beyond it.")
    broken = [f"{name} {reach_text(c.median_reach())}" for name, c in noisy(everything).items()
              if c.median_reach()[0] < max(c.lengths)]
    if broken:
        lines.append(f"Noise in training that shortens the median reach: {', '.join(broken)}.")
    return ["## What speaks against it", "", *(f"- {line}" for line in lines), ""] if lines else []


def summary(everything: Sequence[Curve]) -> list[str]:
    """What the results say for it: how far they go, what the other settings and noise do."""
    lines = []
    far = {name: one for name, one in farthest(everything).items() if min(one.there) == 1}
    if names := [f"{name} {short_number(one.length)} (trained up to {one.curves[0].trained}; "
                 f"{plural(len(one.there), 'model')})" for name, one in far.items() if not name.startswith("turing")]:
        lines.append(f"Style local, the largest length tried, exact with all Mambas that tried it: {', '.join(names)}.")
    if machines := [one.length / one.curves[0].trained for name, one in far.items() if name.startswith("turing")]:
        lines.append(f"Turing machines: {len(machines)}, exact at {min(machines):.0f} to {max(machines):,.0f} times "
                     f"the training length.")
    for setting in ("direct", "direct_reversed", "single_turn", "no_tool"):
        found = [(c, *max(c.reaches())) for c in everything if c.setting == setting and c.trained]
        if found:
            c, *reach = max(found, key=lambda entry: entry[1] / entry[0].trained)
            lines.append(f"Setting `{setting}`: no seed of {plural(len({c.task for c, *_ in found}), 'task')} passes "
                         f"{reach[0] / c.trained:.1f} times its training length ({c.task}: {c.trained} -> "
                         f"{reach_text(reach)}).")
    if whole := [name for name, c in noisy(everything).items() if c.median_reach()[0] == max(c.lengths)]:
        lines.append(f"Noise in training (share in percent; `mistakes` are taken back, `corrupted` labels are wrong) "
                     f"that leaves the median reach whole: {', '.join(whole)}.")
    return ["## What speaks for it", "", *(f"- {line}" for line in lines), ""] if lines else []


def measured(rows: Sequence[dict[str, Any]], style: str) -> list[dict[str, Any]]:
    """The rows of the paper's tables that have a number, and a recipe of ours in a style."""
    return [row for row in rows if PAPER.search(row["paper"]) and row["ours"][style]]


@dataclass(frozen=True, slots=True)
class Far:
    """Every Mamba that was trained on a kind of problem in style local, whatever its recipe; none is picked.

    curves:   their recipes; models: how many they are; whole: how many of them are exact up to the largest length that
              they tried
    length:   the largest length that any of them tried; there: the exact match of each that did
    problems: how many problems there were, and tokens: the mean length of their trajectories
    """

    curves: list[Curve]
    models: int
    whole: int
    length: int
    there: list[float]
    problems: int
    tokens: float


def farthest(everything: Sequence[Curve]) -> dict[str, Far]:
    """How far Mambas get in style local, for every kind of problem."""
    kinds: defaultdict[str, list[Curve]] = defaultdict(list)
    for c in everything:
        if (c.setting, c.style) == ("interactive", "local") and c.trained and c.backbone.startswith("mamba ") \
                and re.fullmatch(rf"{c.task}(_long)?_\d+", c.experiment):
            kinds[" ".join(filter(None, (c.task, c.variant)))].append(c)
    result = {}
    for name, found in kinds.items():
        ends = [last for c in found for _, last in c.outcomes()]
        length = max(max(c.lengths) for c in found)
        tried = [c for c in found if length in c.lengths]
        result[name] = Far(found, len(ends), sum(ends), length, [e for c in tried for e in c.at(length)],
                           max(c.problems.get(length, 0) for c in tried), tried[0].tokens.get(length, 0))
    return result


def paper_rows(everything: Sequence[Curve], path: Path) -> list[dict[str, Any]]:
    """Rows of the paper's tables, each with `ours`: style -> recipes, in an order that no result decides: the paper's
    own recipe (`configs/sweeps/paper.yaml`), then those of more seeds, then of more training tokens.

    None without the file; raises UserError if it holds something else.
    """
    if not path.is_file():
        return []
    try:
        rows = read_yaml(path)["rows"]
        wrong = [row for row in rows if not {"task", "backbone", "trained", "what", "paper"} <= row.keys()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not hold the paper's rows ({type(error).__name__}): get it again") from error
    if wrong:
        raise UserError(f"{path} holds a row without task, backbone, trained, what or paper: {str(wrong[0])[:200]}")
    for row in rows:
        found = [c for c in everything if c.task == row["task"] and c.variant == row.get("variant", "")
                 and c.setting == row.get("setting", "interactive") and c.backbone.split()[:1] == [row["backbone"]]
                 and c.experiment == f"{c.task}_{c.trained}" and c.trained <= row["trained"]]
        found.sort(key=lambda c: (not c.recipe.startswith(QUEUE), -len(c.exact), -training_tokens(c), c.recipe))
        row["ours"] = {style: [c for c in found if c.style == style] for style in STYLES}
    return rows


def paper_grid(rows: Sequence[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """How much of the paper's tables there is by its own recipe (`QUEUE`): the head of a table, and for each training
    (products n x 1 and n x 2 are one) a row, with the seeds of each model. Both are empty without a row of a table."""
    cells: dict[tuple[str, int], dict[str, list[str]]] = {}
    for row in rows:
        if row.get("setting", "interactive") == "interactive" and PAPER_TABLE.search(row["what"]):
            own = [c for c in row["ours"]["paper"] if c.recipe.startswith(QUEUE)]
            done = cells.setdefault((row["task"], row["trained"]), {})
            done[row["backbone"]] = [str(c.seed_of(k)) for c in own[:1] for k in range(len(c.exact))]
    models = list(dict.fromkeys(model for done in cells.values() for model in done))
    return ["training", *models], [
        [f"{task.replace('_', ' ')} <= {trained}", *(", ".join(done.get(model, ())) or NOTHING for model in models)]
        for (task, trained), done in cells.items()]


def training_tokens(curve: Curve) -> int:
    """Tokens of a recipe's longest training; 0 where no run says it."""
    return max(run.facts.get("train_tokens") or 0 for run in curve.runs)


def headline(curve: Curve, trained: int) -> str:
    """A recipe in one line: `1,000 (98%), 3 seeds: 500-1,000, 2x64`, with `5 -> ` before it where it was trained on
    less than the paper's model."""
    reaches = curve.reaches()
    text = f"{curve.trained} -> " * (curve.trained != trained) + f"{reach_text(curve.median_reach())}, {curve.seeds}"
    if reaches[0][0] != reaches[-1][0]:
        text += f": {reaches[0][0]:,}{TO}{reaches[-1][0]:,}"
    return f"{text}, {curve.backbone.partition(' ')[2] or curve.backbone}"


def row_summary(row: dict[str, Any]) -> dict[str, Any]:
    """A row of the paper's tables as plain values, with the first recipe of each style as a line (`headline`)."""
    ours = {f"ours_{style}": headline(found[0], row["trained"]) if found else NOTHING
            for style, found in row["ours"].items()}
    return {**{key: value for key, value in row.items() if key != "ours"}, **ours,
            "measured": [style for style in STYLES if row in measured([row], style)],
            "met": [style for style in STYLES if row in measured([row], style) and not below(row, style)]}


def below(row: dict[str, Any], style: str) -> bool:
    """Whether our first recipe's median seed is below the paper's share at the paper's length (or the next tried)."""
    numbers = PAPER.search(row["paper"])
    if not numbers or not row["ours"][style]:
        return False
    curve, length = row["ours"][style][0], int(numbers[1].replace(",", ""))
    tried = next((n for n in curve.lengths if n >= length), None)
    return tried is None or round(100 * median_low(curve.at(tried))) < int(numbers[2])


@dataclass(frozen=True, slots=True)
class Reached:
    """One trained Mamba, what its variant's horizon is, and how far it gets.

    kind:    one of `KINDS`; tokens: the horizon at the largest length that was analysed
    curve, seed: which one it is; seed is its place in the curve
    exact:   the largest length up to which every problem of every length is exact; tried: the largest length tried
    """

    kind: str
    tokens: int
    curve: Curve
    seed: int
    exact: int
    tried: int

    @property
    def label(self) -> str:
        """Kind of problem; all Turing machines are one."""
        task = "Turing machines" if self.curve.task.startswith("turing") else self.curve.task.replace("_", " ")
        return ", ".join(filter(None, (task, self.curve.variant, self.curve.style)))


def horizon_of(curve: Curve, horizons: Sequence[dict[str, Any]]) -> tuple[str, int] | None:
    """A curve's verdict and horizon: of its own variant, against the contexts of all variants of the task."""
    for content in horizons:
        if (curve.task, curve.setting, curve.style) == (content["task"], content["setting"], content["style"]):
            own = [row["horizon"] for row in content["records"] if row["variant"] == curve.variant]
            if own and curve.variant in content["verdicts"]:
                return content["verdicts"][curve.variant], own[-1]
    return None


def reached_by_horizon(everything: Sequence[Curve], horizons: Sequence[dict[str, Any]]) -> list[Reached]:
    """Every trained Mamba whose task's horizon is known, in the order of `KINDS`."""
    found = []
    for c in everything:
        if c.trained and c.backbone.startswith("mamba ") and c.experiment == f"{c.task}_{c.trained}" \
                and (known := horizon_of(c, horizons)):
            verdict, tokens = known
            kind = KINDS[2 if verdict.startswith("growing") else tokens > SHORT]
            found += [Reached(kind, tokens, c, seed, exact, max(one))
                      for seed, (exact, one) in enumerate(zip(c.exact_to(), c.exact, strict=True))]
    return sorted(found, key=lambda r: (KINDS.index(r.kind), r.label))


def by_kind(everything: Sequence[Curve], horizons: Sequence[dict[str, Any]]) \
        -> dict[str, tuple[list[Reached], list[Reached], list[Reached]]]:
    """For each kind of horizon the trained models that are exact up to the training length, those of them that are up
    to the largest length tried, and those that are not exact at the training length."""
    kinds: dict[str, tuple[list[Reached], list[Reached], list[Reached]]] = {}
    for one in reached_by_horizon(everything, horizons):
        learnt, far, rest = kinds.setdefault(one.kind, ([], [], []))
        (learnt if one.exact >= one.curve.trained else rest).append(one)
        far += [one] * (one.curve.trained <= one.exact >= one.tried)
    return kinds


def horizon_claims(everything: Sequence[Curve], horizons: Sequence[dict[str, Any]]) -> list[str]:
    """For each kind of horizon, how far the models get that master the training length, and the exceptions by name."""
    lines = []
    for kind, (learnt, far, rest) in by_kind(everything, horizons).items():
        grows = kind == KINDS[2]
        named = far if grows else [one for one in learnt if one not in far]
        if learnt:
            lines.append(f"- Horizon {kind}: of {len(learnt)} trained Mambas (each kind of problem counted) that are "
                         f"exact up to the training length, {len(far)} are exact up to the largest length tried"
                         + f" ({len(rest)} more are not exact at the training length)" * bool(rest)
                         + (f". Those that are{' not' * (not grows)}:" if named else "."))
            lines += [f"  - {line}" for line in exceptions(named)]
    return lines


def exceptions(models: Sequence[Reached]) -> list[str]:
    """The models by name, those of one recipe together, each with how far it is exact and the largest length tried."""
    recipes: defaultdict[str, list[Reached]] = defaultdict(list)
    for one in models:
        c = one.curve
        recipes[f"{' '.join(filter(None, (c.task, c.variant)))} {c.recipe}"].append(one)
    return [f"{name} (seed{'s' * (len(found) > 1)} "
            + ", ".join(f"{one.curve.seed_of(one.seed)}: {one.exact:,} of {one.tried:,}" for one in found) + ")"
            for name, found in recipes.items()]


def noisy(everything: Sequence[Curve]) -> dict[str, Curve]:
    """Recipes of `<task>_noise_<n>` experiments by name, of each the one with more seeds."""
    found = {" ".join(filter(None, (c.task, c.variant, c.recipe))): c
             for c in sorted(everything, key=lambda c: len(c.exact)) if re.fullmatch(r".+_noise_\d+", c.experiment)}
    return dict(sorted(found.items()))
