"""Figures over many runs."""

import math
from collections.abc import Mapping, Sequence
from statistics import median_low
from types import MappingProxyType

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter

from length_gen.lightning_modules.evaluation.metrics import Record
from length_gen.lightning_modules.evaluation.plots import (
    COLOURS,
    DASHES,
    DODGE,
    MARKERS,
    MOST_DODGE,
    limits,
    mark_training,
    one_axes,
    short_number,
    style_axes,
    write_head,
)

NOTHING = 0.45
"""Where a reach of nothing stands on the log scale of training lengths."""


def collection_figure(rows: Sequence[Record], title: str) -> Figure:
    """Pass rate in percent with its 95% interval, and mean length in characters, against the number of functions.

    rows: `n`, `pass_rate`, `pass_rate_low`, `pass_rate_high` and `characters`
    """
    figure = Figure(figsize=(6.4, 3.8), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    n, rate = [row["n"] for row in rows], [100 * row["pass_rate"] for row in rows]
    bars = [[100 * (row["pass_rate"] - row["pass_rate_low"]) for row in rows],
            [100 * (row["pass_rate_high"] - row["pass_rate"]) for row in rows]]
    axes.errorbar(n, rate, bars, color=COLOURS[0], marker=MARKERS[0], linewidth=2, label="fixed (left)")
    axes.set_ylim(-2, 102)
    axes.set_xlabel("functions")
    axes.set_ylabel("fixed (%)")
    length = axes.twinx()
    length.plot(n, [row["characters"] for row in rows], color=COLOURS[1], marker=MARKERS[1], linestyle=DASHES[1],
                label="length (right)")
    length.set_ylim(bottom=0)
    length.set_ylabel("mean length (characters)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    axes.set_title(title)
    return figure


def seeds_figure(curves: Mapping[str, Mapping[int, tuple[Sequence[float], tuple[float, float]]]],
                 train_length: int | None, title: str, what: str = "exact match",
                 others: Mapping[str, tuple[int, float]] = MappingProxyType({}), note: str = "") -> Figure:
    """Exact match, or another share, `what`, against problem length: the median over seeds of each curve, with an
    interval.

    curves: label -> length -> exact match of each seed and the ends of the interval (the lowest and highest seed, say),
            as shares; at most 7
    others: label -> (length, share), of another source: a star each
    note:   below the title, smaller
    """
    figure, axes = one_axes()
    lengths = sorted({length for curve in curves.values() for length in curve} | {n for n, _ in others.values()})
    low, high = limits([*lengths, *([train_length] if train_length else [])])
    step = min(DODGE, MOST_DODGE / max(len(curves) - 1, 1)) * min(math.log(high / low), math.log(10_000))
    for i, (label, curve) in enumerate(curves.items()):
        colour, shift = COLOURS[i % len(COLOURS)], math.exp((i - (len(curves) - 1) / 2) * step)
        tried = sorted(curve)
        x = [length * shift for length in tried]
        ends = [[100 * curve[length][1][k] for length in tried] for k in (0, 1)]
        axes.vlines(x, *ends, color=colour, linewidth=1, alpha=0.55, zorder=2)
        axes.plot(x + x, ends[0] + ends[1], "_", color=colour, markersize=5, alpha=0.55, zorder=2)
        axes.plot(x, [100 * median_low(curve[length][0]) for length in tried], color=colour, label=label,
                  marker=MARKERS[i % len(MARKERS)], linestyle=DASHES[i % len(DASHES)], markersize=6, zorder=3 + i,
                  linewidth=max(1.2, 2.2 - 0.5 * i), markeredgecolor="white", markeredgewidth=0.6, clip_on=False)
    for label, (length, share) in others.items():
        axes.plot([length], [100 * share], "*", color="0.35", markersize=13, markeredgecolor="white", label=label,
                  zorder=3 + len(curves), clip_on=False)
    style_axes(axes, lengths, train_length, (low, high))
    axes.set_ylabel(what)
    if train_length:
        mark_training(axes, train_length)
    write_head(axes, title, len(curves) + len(others), bool(train_length), note)
    return figure


def growth_figure(lines: Mapping[str, Mapping[float, Sequence[tuple[float, bool]]]], what: str, title: str,
                  outcome: str, note: str = "") -> Figure:
    """A length, or another outcome, against training length, size or steps, both on log scales: a point for each seed,
    with an arrow where the true value may be larger, and a line through the seed in the middle, the lower one of two.

    lines:   label -> x -> (outcome, whether it is only a lower bound) of each seed; an outcome of 0 is drawn at the
             bottom, below the log scale
    what:    name of x
    outcome: name of y
    note:    below the title, smaller
    """
    figure, axes = one_axes()
    xs = sorted({x for line in lines.values() for x in line})
    points = [point for line in lines.values() for seeds in line.values() for point in seeds]
    everything = [value for value, _ in points if value] or [1]
    lowest, highest = (10 ** round_(math.log10(end)) for round_, end in (
        (math.floor, min(everything)), (math.ceil, max(everything))))
    nothing = 0.5 * lowest
    bounds = False
    for i, (label, line) in enumerate(lines.items()):
        colour, marker, tried = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], sorted(line)
        shift = math.exp((i - (len(lines) - 1) / 2) * 0.012 * math.log(max(xs[-1] / xs[0], 2)))
        axes.plot([x * shift for x in tried], [max(median_low(line[x])[0], nothing) for x in tried], color=colour,
                  linestyle=DASHES[i % len(DASHES)], linewidth=max(1.2, 2.2 - 0.3 * i), marker=marker, markersize=6,
                  markeredgecolor="white", markeredgewidth=0.6, zorder=3 + i, clip_on=False, label=label)
        for x in tried:
            axes.plot([x * shift] * len(line[x]), [max(value, nothing) for value, _ in line[x]], color=colour,
                      linestyle="", marker=marker, markersize=4.5, alpha=0.6, markeredgewidth=0, zorder=2,
                      clip_on=False)  # fmt: skip
            for value in {value for value, bound in line[x] if bound}:
                bounds = True
                axes.annotate("", (x * shift, value), xytext=(0, 13), textcoords="offset points", zorder=2,
                              arrowprops={"arrowstyle": "<-", "color": colour, "linewidth": 1.2, "shrinkB": 3})
    style_axes(axes, xs, None, limits(xs))
    axes.set_yscale("log")
    zeros = any(not value for value, _ in points)
    axes.set_ylim(0.85 * nothing if zeros else 0.7 * lowest, (2.5 if bounds else 1.2) * max(highest, 10 * lowest))
    powers = [10**k for k in range(round(math.log10(lowest)), round(math.log10(max(highest, 10 * lowest))) + 1)]
    ticks = dict(zip(powers, map(short_number, powers), strict=True))
    if zeros:
        ticks = {nothing: "0", **ticks}
        axes.yaxis.set_minor_locator(FixedLocator([k * n for n in powers[:-1] for k in range(2, 10)]))
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(what)
    axes.set_ylabel(outcome)
    write_head(axes, title, len(lines), False, "; ".join(filter(None, (note, "arrow: or more" * bounds))))
    return figure


def reach_figure(rows: Sequence[tuple[str, str, Sequence[tuple[float, float]]]], title: str, note: str = "") -> Figure:
    """How far trained models get, a line for each kind of trajectory; each point is one training run.

    The grey line goes to the largest length tried.

    rows: (label, kind of horizon, (reach, largest length tried) of each run), the lengths as multiples of the training
          length; an arrow where the two are equal, since the limit is not known then. Ten or more runs that are equal
          are one point with their number. Lines are sorted by kind, in the
          order in which the kinds come up; a kind has one colour and marker.
    """
    kinds = list(dict.fromkeys(kind for _, kind, _ in rows))
    rows = sorted(rows, key=lambda row: -kinds.index(row[1]))
    figure, axes = one_axes()
    figure.set_figheight(0.7 + 0.2 * len(rows))
    for i, kind in enumerate(kinds):  # the legend, in their order
        axes.plot([], [], MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)], markersize=5.5, label=kind)
    for y, (_, kind, runs) in enumerate(rows):
        i, most, reaches = kinds.index(kind), max(tried for _, tried in runs), [reach for reach, _ in runs]
        axes.plot([1, most], [y, y], color="0.85", linewidth=4, solid_capstyle="butt", zorder=1)
        for value in sorted(set(reaches)):
            # A few equal ones are spread, so that each run can be seen; of many the number is written.
            count = sum(reach == value for reach in reaches)
            step = min(0.14, 0.7 / count)
            places = [y + step * (k - (count - 1) / 2) for k in range(count)] if count < 10 else [y]
            axes.plot([max(value, NOTHING)] * len(places), places, MARKERS[i % len(MARKERS)],
                      color=COLOURS[i % len(COLOURS)], markersize=5.5, markeredgecolor="white", markeredgewidth=0.5,
                      zorder=3, clip_on=False)
            if len(places) < count:
                axes.annotate(f"\N{MULTIPLICATION SIGN}{count}", (max(value, NOTHING), y), xytext=(9, 0),
                              textcoords="offset points", va="center", fontsize=7.5, zorder=4)  # fmt: skip
            censored = min(sum(reach == tried == value for reach, tried in runs), len(places))
            if censored:  # a line of nothing would ask the layout for room below
                axes.plot([1.4 * value] * censored, places[:censored], marker=5, linestyle="", color="0.35",
                          markersize=3.5, zorder=3, clip_on=False)  # 5: a caret to the right
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}\N{MULTIPLICATION SIGN}")
    axes.xaxis.set_minor_locator(FixedLocator([NOTHING]))
    axes.xaxis.set_minor_formatter(lambda *_: "0" if any(not reach for *_, runs in rows for reach, _ in runs) else "")
    axes.set_xlabel("exact up to, in training lengths")
    axes.tick_params(labelsize=8)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    write_head(axes, title, len(kinds), False, note)
    return figure


def margins_figure(lines: Mapping[str, Sequence[Sequence[float]]], title: str, note: str = "") -> Figure:
    """Least margins of all decisions, sorted, against the share of decisions; a colour a task, a line a model.

    lines: label -> of each model the margins at even steps from the least to the largest
    """
    figure, axes = one_axes()
    for i, (label, models) in enumerate(lines.items()):
        for k, margins in enumerate(models):
            axes.plot([100 * j / (len(margins) - 1) for j in range(len(margins))], margins,
                      color=COLOURS[i % len(COLOURS)], linestyle=DASHES[i % len(DASHES)], linewidth=1.6,
                      label="_" * bool(k) + label)
    axes.axhline(0, color="0.35", linewidth=0.8)
    axes.set_xlim(0, 100)
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("decisions, the weakest first (%)")
    axes.set_ylabel("least margin (logits)")
    write_head(axes, title, len(lines), False, note)
    return figure


def fading_figure(models: Mapping[str, tuple[Mapping[int, float], Mapping[int, float]]], title: str,
                  note: str = "") -> Figure:
    """Margins of a decision against the digits of the walk before it, and what was foretold of them.

    models: label -> digits -> margin, measured and foretold
    """
    figure, axes = one_axes()
    for i, (label, (measured, foretold)) in enumerate(models.items()):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        axes.plot(list(foretold), list(foretold.values()), color=colour, linestyle="--", linewidth=1)
        axes.plot(list(measured), list(measured.values()), marker, color=colour, markersize=4, label=label)
    axes.axhline(0, color="0.35", linewidth=0.8)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda n, _: short_number(round(n)))
    axes.grid(color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("digits")
    axes.set_ylabel("margin (logits)")
    write_head(axes, title, len(models), False, note)
    return figure


def rates_figure(lines: Mapping[str, tuple[float, float, float, float]], what: str, title: str,
                 note: str = "") -> Figure:
    """A share beside the one that chance would give, a line for each label.

    lines: label -> share, share by chance, and the ends of the share's interval
    what:  name of the share
    note:  below the title, smaller
    """
    figure, axes = one_axes()
    figure.set_figheight(0.7 + 0.3 * len(lines))
    places = range(len(lines))[::-1]
    for y, (share, base, low, high) in zip(places, lines.values(), strict=True):
        axes.plot([100 * low, 100 * high], [y, y], color=COLOURS[0], linewidth=1.4, alpha=0.6, zorder=2)
        axes.plot([100 * share], [y], MARKERS[0], color=COLOURS[0], markersize=7, zorder=3, clip_on=False,
                  label="measured" if y == places[0] else None)
        axes.plot([100 * base], [y], "|", color="0.2", markersize=14, markeredgewidth=2, zorder=4, clip_on=False,
                  label="if all decisions were alike" if y == places[0] else None)
    axes.set_yticks(places, list(lines))
    axes.set_ylim(-0.6, len(lines) - 0.4)
    axes.set_xlim(-2, 102)
    axes.set_xlabel(what)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    write_head(axes, title, 2, False, note)
    return figure
