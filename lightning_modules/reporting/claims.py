"""What the results say, in words and numbers: against the paper, how far, what the horizon and noise do."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from lightning_modules.evaluation.plots import short_number
from lightning_modules.reporting.results import Curve
from tools import UserError
from tools.files import read_yaml

PAPER = re.compile(r"-> ([\d,]+) \((\d+)%\)")
"""`10 -> 1,000 (98%)`: what the paper's tables say."""
GROWTH = re.compile(r"(.+)_(?:scaling|steps)_\d+")
"""Experiments of many recipes that differ in training length or steps: shown as growth, their tables folded."""
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
            lines.append(f"Style {style}: in {len(known) - len(under)} of {len(known)} rows of the paper's tables that "
                         f"were measured, our median seed has at least the paper's share at the paper's length"
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
    """Rows of the paper's tables, each with `ours`: style -> recipes, that of the largest median reach first.

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
        found.sort(key=lambda c: (c.median_reach(), len(c.exact)), reverse=True)
        row["ours"] = {style: [c for c in found if c.style == style] for style in STYLES}
    return rows


def headline(curve: Curve) -> str:
    """A recipe in one line: `10 -> 1,000 (98%), 3 seeds (500 (90%) to 1,000 (100%)); mamba 2x64`."""
    reaches = curve.reaches()
    text = f"{curve.trained} -> {reach_text(curve.median_reach())}, {curve.seeds}"
    if reaches[0] != reaches[-1]:
        text += f" ({reach_text(reaches[0])} to {reach_text(reaches[-1])})"
    return f"{text}; {curve.backbone}"


def below(row: dict[str, Any], style: str) -> bool:
    """Whether our best recipe's median seed is below the paper's share at the paper's length (or the next tried)."""
    numbers = PAPER.search(row["paper"])
    if not numbers or not row["ours"][style]:
        return False
    curve, length = row["ours"][style][0], int(numbers[1].replace(",", ""))
    tried = next((n for n in curve.lengths if n >= length), None)
    return tried is None or round(100 * median(curve.at(tried))) < int(numbers[2])


def reaches_by_horizon(everything: Sequence[Curve], horizons: Sequence[dict[str, Any]]) \
        -> list[tuple[str, str, list[tuple[float, float]]]]:
    """(task with its horizon, kind of horizon, (reach, largest length tried) of every run) of Mambas, the kinds in the
    order of `KINDS`, the lengths as multiples of the training length; reach: at least 90% at every length up to it."""
    lines: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for content in horizons:
        tokens = content["records"][-1]["horizon"]
        kind = KINDS[2 if content["verdict"].startswith("growing") else tokens > SHORT]
        for c in everything:
            if (c.task, c.setting, c.style) == (content["task"], content["setting"], content["style"]) and c.trained \
                    and c.backbone.startswith("mamba ") and c.experiment == f"{c.task}_{c.trained}":
                name = ", ".join(filter(None, (c.task, c.variant, c.style))) + f" ({tokens})"
                lines[name, kind] += [(reach / c.trained, max(one) / c.trained)
                                      for reach, one in zip(c.steady(0.9), c.exact, strict=True)]
    return sorted(((name, kind, runs) for (name, kind), runs in lines.items()), key=lambda r: (KINDS.index(r[1]), r[0]))


def horizon_claims(everything: Sequence[Curve], horizons: Sequence[dict[str, Any]]) -> list[str]:
    """For each kind of horizon, how far the runs get that master the training length; the others say nothing of it."""
    kinds: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for _, kind, runs in reaches_by_horizon(everything, horizons):
        kinds[kind] += runs
    parts = []
    for kind, runs in kinds.items():
        if learnt := [(reach, most) for reach, most in runs if reach >= 1]:
            parts.append(f"{kind}: {sum(reach >= most for reach, most in learnt)} of {len(learnt)} runs get to the "
                         f"largest length tried, median {median(reach for reach, _ in learnt):.3g} times the training "
                         f"length (and {len(runs) - len(learnt)} do not master the training length)")
    return [f"Horizon, known without training, against the reach of trained Mambas: {'; '.join(parts)}."] \
        if parts else []


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
