"""What the results say, in words and numbers: against the paper, how far, what the horizon and noise do."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from length_gen.lightning_modules.evaluation.plots import short_number
from length_gen.lightning_modules.reporting.results import Curve
from length_gen.tools import UserError
from length_gen.tools.files import read_yaml

PAPER = re.compile(r"-> ([\d,]+) \((\d+)%\)")
"""`10 -> 1,000 (98%)`: what the paper's tables say."""
GROWTH = re.compile(r"(.+)_(?:scaling|steps)_\d+")
"""Experiments of many recipes that differ in training length or steps: shown as growth, their tables folded."""
QUEUE = "paper_"
"""What the names of the recipes begin with whose settings were fixed before they were run."""
STYLES = ("local", "paper")
SHORT = 25
"""Tokens of a horizon that a small model can be expected to keep."""
KINDS = (f"bounded, up to {SHORT} tokens", f"bounded, over {SHORT} tokens", "growing")


def summary(everything: Sequence[Curve], rows: Sequence[dict[str, Any]],
            horizons: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of the summary: what the results say against the paper, how far they go, what horizon and noise do."""
    lines = []
    for style in STYLES:
        known = [row for row in rows if PAPER.search(row["paper"]) and row["ours"][style]]
        under = [f"{row['what'].partition(',')[0]}, {row['backbone']}" for row in known if below(row, style)]
        if known:
            alone = sum(len(row["ours"][style][0].exact) < 2 and not below(row, style) for row in known)
            lines.append(f"Style {style}: in {len(known) - len(under)} of {len(known)} rows of the paper's tables that "
                         f"were measured, our median seed has at least the paper's share at the paper's length"
                         + f" ({alone} of them by one seed)" * bool(alone)
                         + (f"; below: {'; '.join(under)}" if under else "") + ".")
    far = longest(everything)
    if far:
        lines.append("Exact on all problems, with all seeds: " + ", ".join(
            f"{name} {short_number(length)} (trained up to {curve.trained}, {plural(count, 'seed')})"
            for name, (length, count, curve) in far.items() if not name.startswith("turing")) + ".")
    if machines := [length / c.trained for name, (length, _, c) in far.items() if name.startswith("turing")]:
        lines.append(f"Turing machines: {len(machines)}, exact at {min(machines):.0f} to {max(machines):,.0f} times "
                     f"the training length.")
    for setting in ("direct", "direct_reversed", "single_turn", "no_tool"):
        found = [c for c in everything if c.setting == setting and c.trained]
        if found:
            farthest = max(found, key=lambda c: max(r / c.trained for r, _ in c.reaches()))
            reach = max(farthest.reaches())
            lines.append(f"Setting `{setting}`: no seed of {plural(len({c.task for c in found}), 'task')} passes "
                         f"{reach[0] / farthest.trained:.1f} times its training length ({farthest.task}: "
                         f"{farthest.trained} -> {reach_text(reach)}).")
    lines += horizon_claims(everything, horizons)
    lines += noise_claims(everything)
    return ["## Summary", "", *(f"- {line}" for line in lines), ""] if lines else []


def longest(everything: Sequence[Curve]) -> dict[str, tuple[int, int, Curve]]:
    """For every kind of problem the largest length that a small Mamba gets all right with all seeds of a recipe that
    tried it, how many these are, and the recipe."""
    result: dict[str, tuple[int, int, Curve]] = {}
    for curve in everything:
        if curve.setting == "interactive" and curve.style == "local" and curve.trained \
                and curve.backbone.startswith("mamba ") and not GROWTH.fullmatch(curve.experiment):
            name, found = " ".join(filter(None, (curve.task, curve.variant))), curve.perfect()
            if found > result.get(name, (0, 0))[:2]:
                result[name] = *found, curve
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


def training_tokens(curve: Curve) -> int:
    """Tokens of a recipe's longest training; 0 where no run says it."""
    return max(run.facts.get("train_tokens") or 0 for run in curve.runs)


def headline(curve: Curve) -> str:
    """A recipe in one line: `10 -> 1,000 (98%), 3 seeds (500 (90%) to 1,000 (100%)); mamba 2x64`."""
    reaches = curve.reaches()
    text = f"{curve.trained} -> {reach_text(curve.median_reach())}, {curve.seeds}"
    if reaches[0] != reaches[-1]:
        text += f" ({reach_text(reaches[0])} to {reach_text(reaches[-1])})"
    return f"{text}; {curve.backbone}"


def below(row: dict[str, Any], style: str) -> bool:
    """Whether our first recipe's median seed is below the paper's share at the paper's length (or the next tried)."""
    numbers = PAPER.search(row["paper"])
    if not numbers or not row["ours"][style]:
        return False
    curve, length = row["ours"][style][0], int(numbers[1].replace(",", ""))
    tried = next((n for n in curve.lengths if n >= length), None)
    return tried is None or round(100 * median(curve.at(tried))) < int(numbers[2])


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
        """Kind of problem, with its horizon."""
        c = self.curve
        return ", ".join(filter(None, (c.task, c.variant, c.style))) + f" ({self.tokens})"


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


def horizon_claims(everything: Sequence[Curve], horizons: Sequence[dict[str, Any]]) -> list[str]:
    """For each kind of horizon, how far the models get that master the training length, and the exceptions by name."""
    kinds: defaultdict[str, list[Reached]] = defaultdict(list)
    for one in reached_by_horizon(everything, horizons):
        kinds[one.kind].append(one)
    lines = []
    for kind, models in kinds.items():
        learnt = [one for one in models if one.exact >= one.curve.trained]
        far, short = ([one for one in learnt if (one.exact >= one.tried) is whole] for whole in (True, False))
        named, what = (far, "those that are") if kind == KINDS[2] else (short, "those that are not")
        if learnt:
            lines.append(f"Horizon {kind}, known without training: of {len(learnt)} trained Mambas (each kind of "
                         f"problem counted) that are exact up to the training length, {len(far)} are exact up to the "
                         f"largest length tried ({len(models) - len(learnt)} more are not exact at the training length)"
                         + (f"; {what}: {'; '.join(exceptions(named))}" if named else "") + ".")
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


def noise_claims(everything: Sequence[Curve]) -> list[str]:
    """Recipes of `<task>_noise_<n>` experiments that keep the full reach, and those that do not."""
    noisy: dict[tuple[str, ...], Curve] = {}  # of a recipe's evaluators the one with more seeds
    for c in sorted(everything, key=lambda c: len(c.exact)):
        if re.fullmatch(r".+_noise_\d+", c.experiment):
            noisy[c.task, c.variant, c.recipe] = c
    parts = [f"{' '.join(filter(None, key))} {reach_text(c.median_reach())}, {c.seeds}"
             for key, c in sorted(noisy.items())]
    return [f"Noise in training (share in percent; `mistakes` are taken back, `corrupted` labels are wrong), median "
            f"reach: {'; '.join(parts)}."] if parts else []


def plural(count: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} {noun}{'s' * (count != 1)}"


def reach_text(reach: tuple[int, float]) -> str:
    """A length and the share that is exact there, `1,000 (98%)`; `0` without a length."""
    return f"{reach[0]:,} ({100 * reach[1]:.3g}%)" if reach[0] else "0"
