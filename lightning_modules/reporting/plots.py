"""Figures over many runs."""

import math
from collections.abc import Mapping, Sequence
from statistics import median

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
    short_number,
    style_axes,
    write_head,
)


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
                 train_length: int | None, title: str, what: str = "exact match") -> Figure:
    """Exact match, or another share, `what`, against problem length: the median over seeds of each curve, with an
    interval.

    curves: label -> length -> exact match of each seed and the ends of the interval (the lowest and highest seed, say),
            as shares; at most 7
    """
    figure = Figure(figsize=(6.4, 3.8), dpi=200, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    axes = figure.add_subplot()
    lengths = sorted({length for curve in curves.values() for length in curve})
    low, high = limits([*lengths, *([train_length] if train_length else [])])
    step = min(DODGE, MOST_DODGE / max(len(curves) - 1, 1)) * math.log(high / low)
    for i, (label, curve) in enumerate(curves.items()):
        colour, shift = COLOURS[i % len(COLOURS)], math.exp((i - (len(curves) - 1) / 2) * step)
        tried = sorted(curve)
        x = [length * shift for length in tried]
        ends = [[100 * curve[length][1][k] for length in tried] for k in (0, 1)]
        axes.vlines(x, *ends, color=colour, linewidth=1, alpha=0.55, zorder=2)
        axes.plot(x + x, ends[0] + ends[1], "_", color=colour, markersize=5, alpha=0.55, zorder=2)
        axes.plot(x, [100 * median(curve[length][0]) for length in tried], color=colour, label=label,
                  marker=MARKERS[i % len(MARKERS)], linestyle=DASHES[i % len(DASHES)], markersize=6, zorder=3 + i,
                  linewidth=max(1.2, 2.2 - 0.5 * i), markeredgecolor="white", markeredgewidth=0.6, clip_on=False)
    style_axes(axes, lengths, train_length, (low, high))
    axes.set_ylabel(what)
    if train_length:
        mark_training(axes, train_length)
    write_head(axes, title, len(curves), bool(train_length))
    return figure


def growth_figure(lines: Mapping[str, Mapping[int, Sequence[float]]], what: str, title: str,
                  outcome: str = "reach (problem length)") -> Figure:
    """Reach (a length) against training length or steps, both on log scales: the median over seeds, with a band from
    the lowest to the highest seed. Or another outcome against another quantity.

    lines:   label -> x -> reach of each seed; a reach of 0 is drawn at the bottom, below the log scale
    what:    name of x
    outcome: name of y
    """
    figure = Figure(figsize=(6.4, 3.8), dpi=200, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    axes = figure.add_subplot()
    xs = sorted({x for line in lines.values() for x in line})
    everything = [reach for line in lines.values() for reaches in line.values() for reach in reaches if reach] or [1]
    lowest, highest = (10 ** round_(math.log10(end)) for round_, end in (
        (math.floor, min(everything)), (math.ceil, max(everything))))
    nothing = 0.5 * lowest
    for i, (label, line) in enumerate(lines.items()):
        colour, tried = COLOURS[i % len(COLOURS)], sorted(line)
        shift = math.exp((i - (len(lines) - 1) / 2) * 0.008 * math.log(max(xs[-1] / xs[0], 2)))
        x = [value * shift for value in tried]
        reaches = [[max(reach, nothing) for reach in line[value]] for value in tried]
        axes.fill_between(x, list(map(min, reaches)), list(map(max, reaches)), color=colour, alpha=0.13, linewidth=0)
        axes.plot(x, list(map(median, reaches)), color=colour, label=label, marker=MARKERS[i % len(MARKERS)],
                  linestyle=DASHES[i % len(DASHES)], markersize=6, zorder=3 + i, linewidth=max(1.2, 2.2 - 0.5 * i),
                  markeredgecolor="white", markeredgewidth=0.6, clip_on=False)  # fmt: skip
    style_axes(axes, xs, None, limits(xs))
    axes.set_yscale("log")
    zeros = any(0 in reaches for line in lines.values() for reaches in line.values())
    axes.set_ylim(0.85 * nothing if zeros else 0.7 * lowest, 1.2 * max(highest, 10 * lowest))
    powers = [10**k for k in range(round(math.log10(lowest)), round(math.log10(max(highest, 10 * lowest))) + 1)]
    ticks = dict(zip(powers, map(short_number, powers), strict=True))
    if zeros:
        ticks = {nothing: "0", **ticks}
        axes.yaxis.set_minor_locator(FixedLocator([k * n for n in powers[:-1] for k in range(2, 10)]))
    axes.set_yticks(list(ticks), list(ticks.values()))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(what)
    axes.set_ylabel(outcome)
    write_head(axes, title, len(lines), False)
    return figure


def reach_figure(rows: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> Figure:
    """How far trained models get, a line for each kind of trajectory; each point is one training run.

    rows: (label, kind of horizon, (reach, largest length tried) of each run), the lengths as multiples of the training
          length; an arrow where the two are equal, since the limit is not known then. Lines are sorted by kind, in the
          order in which the kinds come up; a kind has one colour and marker.
    """
    kinds = list(dict.fromkeys(kind for _, kind, _ in rows))
    rows = sorted(rows, key=lambda row: -kinds.index(row[1]))
    figure = Figure(figsize=(6.4, 1.0 + 0.24 * len(rows)), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    for y, (_, kind, runs) in enumerate(rows):
        i, most, reaches = kinds.index(kind), max(tried for _, tried in runs), [reach for reach, _ in runs]
        axes.plot([1, most], [y, y], color="0.85", linewidth=4, solid_capstyle="butt", zorder=1)
        shown = axes.get_legend_handles_labels()[1]
        for value in sorted(set(reaches)):
            # Equal reaches are spread a little, so that each run can be seen.
            count = list(reaches).count(value)
            places = [y + min(0.12, 0.7 / count) * (k - (count - 1) / 2) for k in range(count)]
            axes.plot([max(value, 0.7)] * count, places, MARKERS[i % len(MARKERS)], color=COLOURS[i % len(COLOURS)],
                      markersize=5.5, markeredgecolor="white", markeredgewidth=0.5, zorder=3, clip_on=False,
                      label=None if kind in shown else kind)  # fmt: skip
            shown.append(kind)
            censored = sum(reach == tried == value for reach, tried in runs)
            axes.plot([1.22 * value] * censored, places[:censored], marker=5, linestyle="", color="0.35",
                      markersize=3.5, zorder=3, clip_on=False)  # 5: a caret to the right
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}\N{MULTIPLICATION SIGN}")
    axes.set_xlabel("exact up to / training length (grey: up to the largest tried; arrow: no longer tried)", fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    order = [labels.index(kind) for kind in kinds]
    figure.legend([handles[k] for k in order], kinds, loc="outside upper left", ncols=len(kinds), frameon=False,
                  fontsize=8.5, title="horizon", title_fontsize=8.5, alignment="left")  # fmt: skip
    return figure
