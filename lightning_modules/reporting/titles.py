"""What a figure says, in a line: its title, worked out of what it draws, and the note below it, of how many."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from length_gen.lightning_modules.evaluation.plots import short_number
from length_gen.lightning_modules.reporting.results import Curve, models
from length_gen.lightning_modules.reporting.text import cell, few_to_many, plural, share

Outcomes = Mapping[str, Mapping[float, Sequence[tuple[float, bool]]]]
"""Label -> x -> (outcome, whether it is only a lower bound) of each seed, as in `growth_figure`."""


def seeds_title(curves: Mapping[str, Mapping[int, tuple[Sequence[float], tuple[float, float]]]]) -> str:
    """How many curves are whole, every seed at every length, and which one ends first; or, where none is, the largest
    share at the largest length."""
    whole = {label for label, curve in curves.items() if all(min(seeds) == 1 for seeds, _ in curve.values())}
    if whole:
        farthest = f"exact at every length tried, up to {short_number(max(max(curves[label]) for label in whole))}"
        rest = {label: max((n for n in curve if all(min(curve[m][0]) == 1 for m in curve if m <= n)), default=0)
                for label, curve in curves.items() if label not in whole}
        if not rest:
            return farthest
        first = min(rest, key=rest.get)
        return f"{len(whole)} of {len(curves)} curves {farthest}; to {rest[first]:,} only: {first}"
    length = max(max(curve) for curve in curves.values())
    at = {label: curve[length] for label, curve in curves.items() if length in curve}
    best = max(at, key=lambda label: max(at[label][0]))
    seeds, (low, high) = at[best]
    return f"Best at {length:,}: {share(max(seeds))} ({share(low)} to {share(high)}), {best}"


def growth_title(lines: Outcomes) -> str:
    """From which x on all seeds get as far as was tried, for each line: `All seeds exact as far as tried: local from 3
    on, paper nowhere`."""
    starts: defaultdict[float | None, list[str]] = defaultdict(list)
    for label, line in lines.items():
        start = None
        for x in sorted(line, reverse=True):
            if not all(bound for _, bound in line[x]):
                break
            start = x
        starts[start].append(label)
    parts = [f"{', '.join(starts[x])} from {short_number(round(x))} on" for x in sorted(starts.keys() - {None})]
    parts += [f"{', '.join(starts[None])} nowhere"] if None in starts else []
    return f"All seeds exact as far as tried: {'; '.join(parts)}"


def knob_title(knob: Mapping[int, Sequence[Curve]], name: str) -> str:
    """How many models get beyond their training length at each value of a knob: `Exact beyond the training length, by
    K: 8: 3 of 6, 16: 0 of 20`."""
    parts = []
    for value, found in sorted(knob.items()):
        reached = [exact > c.trained for c in found for exact in c.exact_to()]
        parts.append(f"{value:,}: {sum(reached)} of {len(reached)}")
    return f"Exact beyond the training length, by {name}: {', '.join(parts)}"


def reach_title(rows: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> str:
    """How many models of each kind of horizon get as far as was tried; rows as in `reach_figure`."""
    kinds: defaultdict[str, list[bool]] = defaultdict(list)
    for _, kind, runs in rows:
        kinds[kind] += [reach == tried for reach, tried in runs]
    return "Exact as far as tried, by horizon: " + "; ".join(
        f"{kind}: {sum(far)} of {len(far)}" for kind, far in kinds.items())


def rates_title(lines: Mapping[str, tuple[float, float, float, float]]) -> str:
    """The first line's share and what chance would give; lines as in `rates_figure`."""
    name, (measured, base, *_) = next(iter(lines.items()))
    return (f"{name[:1].upper()}{name[1:]}: {share(measured)} of first errors where the need is largest, {share(base)} "
            f"by chance")


def proofs_title(verdicts: Sequence[Mapping[str, Any]]) -> str:
    """Of how many models every decision is proved, with the least margin, and how many decisions are not of others."""
    whole = [verdict for verdict in verdicts if verdict["proved"] == verdict["decisions"]]
    parts = [f"Every decision proved in {len(whole)} of {plural(len(verdicts), 'model')}"
             + (f", by {min(verdict['least'] for verdict in whole):.2f} logits or more" if whole else "")]
    parts += [f"{verdict['decisions'] - verdict['proved']:,} of {verdict['decisions']:,} not in {model_name(verdict)}"
              for verdict in verdicts if verdict not in whole]
    return "; ".join(parts)


def fading_title(rows: Sequence[Mapping[str, Any]]) -> str:
    """Of how many models that lose the phase the number of digits is foretold within a factor of 2."""
    lost = [row for row in rows if row["lost"]]
    right = sum(row["lost"] / 2 <= (row["foretold"] or 0) <= 2 * row["lost"] for row in lost)
    return f"Where the phase is lost: foretold within a factor of 2 of {right} of {plural(len(lost), 'model')}"


def model_name(verdict: Mapping[str, Any]) -> str:
    """What a certificate is of: `addition, 2x64`, with problems and style where they are not the usual ones."""
    return ", ".join(filter(None, (
        " ".join([verdict["task"].replace("_", " "), *(verdict.get("variants") or ())]),
        "" if verdict["style"] == "local" else f"style {verdict['style']}", verdict["model"].removeprefix("mamba "))))


def cost_title(lines: Outcomes) -> str:
    """The time of each line at its largest length, in microseconds a token."""
    return "\N{MICRO SIGN}s a token at the largest length tried: " + ", ".join(
        f"{label} {cell(float(f'{line[max(line)][0][0]:.2g}'))} ({short_number(round(max(line)))})"
        for label, line in lines.items())


def of_curves(curves: Iterable[Curve]) -> str:
    """How many models and problems stand in a figure: `12 trained models, 32 problems a length`."""
    curves = list(curves)
    count = few_to_many(n for c in curves for n in c.problems.values())
    return f"{plural(models(run for c in curves for run in c.runs), 'trained model')}, {count} problems a length"
