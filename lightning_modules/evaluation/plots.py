"""Figures of one run: accuracy and horizon by length, for papers and TensorBoard."""

import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from length_gen.lightning_modules.evaluation.metrics import (
    CELL_FIELDS,
    Record,
    as_passes,
    exact_up_to,
    group_records,
    shares,
)
from length_gen.lightning_modules.evaluation.tables import describe_cells, percent
from length_gen.tools.files import atomic_path

# Okabe and Ito's colours, safe for colour-blind readers, ordered so that neighbours differ in lightness too; markers
# and dashes tell the lines apart in grey.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (4, 2)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))

EDGE = 0.015
"""Where a figure's title, note and legend begin, as a share of its width."""

LEAST_HEIGHT = 2.0
"""Of the axes with their labels, in inches."""

MOST_BARS = 12
"""Curves of more points show their intervals as a band."""

DODGE, MOST_DODGE = 0.011, 0.03
"""Shift between neighbouring curves, and between the outermost two, as shares of the axis: equal points stay visible,
and no point leaves its tick."""


def accuracy_figure(records: Iterable[Record], train_length: int | None = None, passes: bool = False,
                    seed: int | None = None) -> Figure:
    """Exact match in percent against problem length (log scale), a line for each curve in the records.

    records:      records of metrics.json; bars are their 95% Wilson intervals
    train_length: largest length of the training data, marked by a vertical line
    passes:       show the share of right answers instead of exact match, where answers are judged
    seed:         of the run, for the note below the title

    The title says how far the worst curve gets. Evaluators that agree at every length are one curve. Where nothing lies
    below 50% the axis begins there, which shows what the intervals leave open.

    Needs no display and leaves pyplot's global state alone. Raises ValueError if there is nothing to draw.
    """
    if passes:
        records = as_passes(records)
    curves = _agreeing(group_records(records))
    if not curves:
        raise ValueError("there is nothing to draw: no record has any problems")
    common, labels = describe_cells(curves)
    figure, axes = one_axes()
    lengths = sorted({r["length"] for curve in curves.values() for r in curve})
    low, high = limits([*lengths, *([train_length] if train_length else [])])
    named = {labels[cell] or common: curve for cell, curve in curves.items()}
    _draw_curves(axes, named, math.log(high / low))
    lowest = min(r["exact_match_low"] for curve in curves.values() for r in curve)
    style_axes(axes, lengths, train_length, (low, high), 50 if lowest >= 0.5 else 0)
    if passes:
        axes.set_ylabel("pass rate")
    if train_length:
        mark_training(axes, train_length)
    what = ", ".join(filter(None, (common, "" if seed is None else f"seed {seed}")))
    write_head(axes, accuracy_title(named, "solved" if passes else "exact"), len(curves), bool(train_length),
               f"{what}\n{_problems(named.values())} a point; bars: 95% interval".strip())
    return figure


def _agreeing(curves: Mapping[tuple[str, ...], list[Record]]) -> dict[tuple[str, ...], list[Record]]:
    """The curves; those that differ in the evaluator alone, and agree at every length, as one with both names."""
    place, merged = CELL_FIELDS.index("evaluator"), {}
    for cell, curve in curves.items():
        points = [(r["length"], r["problems"], r["exact_match"]) for r in curve]
        rest = cell[:place] + cell[place + 1 :]
        evaluators, _ = merged.setdefault((rest, tuple(points)), ([], curve))
        evaluators.append(cell[place])
    return {(*rest[:place], " and ".join(evaluators), *rest[place:]): curve
            for (rest, _), (evaluators, curve) in merged.items()}


def accuracy_title(curves: Mapping[str, Sequence[Record]], exact: str = "exact") -> str:
    """How far the curve gets that ends first, such as `exact at all 7 lengths to 1,000` or `n x 2: exact to 50, 31% at
    100, 0% at 1,000`; its label stands before it where there are others.

    exact: the word for a share of 100%
    """
    label, curve = min(curves.items(), key=lambda item: (exact_up_to(shares(item[1])), item[1][-1]["exact_match"]))
    lengths, reached = [r["length"] for r in curve], exact_up_to(shares(curve))
    if reached == lengths[-1]:
        if len({r["length"] for c in curves.values() for r in c}) > len(lengths):
            return f"{label}: {exact} to {reached:,}"
        return f"{exact} at " + f"all {len(lengths)} lengths to " * (len(lengths) > 1) + f"{reached:,}"
    beyond = [r for r in curve if r["length"] > reached]
    shown = beyond if len(beyond) < 3 else [beyond[0], beyond[-1]]
    rates = ", ".join(f"{percent(r['exact_match'], 0)} at {r['length']:,}" for r in shown)
    said = f"{exact} to {reached:,}, {rates}" if reached else rates.replace(" at", f" {exact} at", 1)
    return f"{label}: " * (len(curves) > 1) + said


def _problems(curves: Iterable[Sequence[Record]]) -> str:
    """How many problems the points have: `32 problems`, `32 problems (16 at 1,000)` or `8 to 32 problems`."""
    counts = {r["length"]: r["problems"] for curve in curves for r in curve}
    few, most = min(counts.values()), max(counts.values())
    if few == most:
        return f"{most:,} problems"
    fewer = [length for length, count in counts.items() if count < most]
    if fewer == [max(counts)]:
        return f"{most:,} problems ({few:,} at {fewer[0]:,})"
    return f"{few:,} to {most:,} problems"


def horizon_figure(lines: Mapping[str, Mapping[int, int]], train_length: int, title: str, note: str = "") -> Figure:
    """Horizon in tokens against problem length, both on log scales.

    lines:        variant -> length -> horizon
    train_length: largest length of the training data, marked by a vertical line
    note:         below the title, smaller
    """
    figure, axes = one_axes()
    lengths = sorted({length for line in lines.values() for length in line})
    for i, (variant, line) in enumerate(lines.items()):
        axes.plot(list(line), list(line.values()), color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)],
                  linestyle=DASHES[i % len(DASHES)], linewidth=2, markeredgecolor="white", markeredgewidth=0.6,
                  clip_on=False, zorder=3, label=variant)
    style_axes(axes, lengths, train_length, limits([*lengths, train_length]))
    axes.set_yscale("log")
    axes.set_ylim(1, 10 ** math.ceil(math.log10(max(max(line.values()) for line in lines.values()) + 1)))
    axes.yaxis.set_major_formatter(lambda value, _: short_number(round(value)))
    axes.set_ylabel("horizon (tokens)")
    mark_training(axes, train_length)
    write_head(axes, title, len(lines), True, note)
    return figure


def one_axes() -> tuple[Figure, Axes]:
    """A figure whose letters are read at half the width of a column."""
    figure = Figure(figsize=(4.4, 3.0), dpi=200, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    return figure, figure.add_subplot()


def _draw_curves(axes: Axes, curves: Mapping[str, list[Record]], span: float) -> None:
    """Draw each curve, shifted a little sideways; lines get thinner, so that one below another shows around it."""
    step = min(DODGE, MOST_DODGE / max(len(curves) - 1, 1)) * span
    for i, (label, curve) in enumerate(curves.items()):
        colour = COLOURS[i % len(COLOURS)]
        shift = math.exp((i - (len(curves) - 1) / 2) * step)
        x = [r["length"] * shift for r in curve]
        y = [100 * r["exact_match"] for r in curve]
        low = [100 * r["exact_match_low"] for r in curve]
        high = [100 * r["exact_match_high"] for r in curve]
        if len(curve) > MOST_BARS:
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)
        else:
            axes.vlines(x, low, high, color=colour, linewidth=1, alpha=0.55, zorder=2)
            axes.plot(x + x, low + high, "_", color=colour, markersize=5, alpha=0.55, zorder=2)
        axes.plot(x, y, color=colour, marker=MARKERS[i % len(MARKERS)], linestyle=DASHES[i % len(DASHES)], label=label,
                  markersize=6, zorder=3 + i, linewidth=max(1.2, 2.2 - 0.5 * i), markeredgecolor="white",
                  markeredgewidth=0.6, clip_on=False)  # fmt: skip


def write_head(axes: Axes, title: str, curves: int, marked: bool, note: str = "") -> None:
    """Title, note, then legend, above the training mark and the axes: no curve can run into them there. A figure that
    this would leave no room for its axes gets taller. Heights in points."""
    height, width = 16 if marked else 4, axes.figure.get_size_inches()[0] - 0.15
    across = blended_transform_factory(axes.figure.transFigure, axes.transAxes)  # from the figure's edge, not the axes'
    if curves > 1:
        # In inches: a handle with its spaces, and a character of this size.
        longest = max(map(len, axes.get_legend_handles_labels()[1]))
        columns = max(1, min(curves, 3, int(width / (0.55 + 0.058 * longest))))
        raised = across + ScaledTranslation(0, height / 72, axes.figure.dpi_scale_trans)
        axes.legend(loc="lower left", bbox_to_anchor=(EDGE, 1), bbox_transform=raised, borderaxespad=0, borderpad=0,
                    ncols=columns, frameon=False, fontsize=8.5, handlelength=2.8, labelspacing=0.3, columnspacing=1,
                    handletextpad=0.6)  # fmt: skip
        height += 11.6 * math.ceil(curves / columns) + 3
    if note:
        lines = [part for line in note.split("\n") for part in textwrap.wrap(line, int(width * 17.5))]
        axes.annotate("\n".join(lines), (EDGE, 1), xytext=(0, height + 3), xycoords=across, va="bottom",
                      textcoords="offset points", fontsize=8, color="0.35", linespacing=1.15)  # fmt: skip
        height += 10.5 * len(lines) + 2
    title = textwrap.fill(title, int(width * 12))
    axes.set_title(title, loc="left", fontsize=11, pad=height + 3, x=EDGE).set_transform(across + axes.titleOffsetTrans)
    height += 3 + 13.5 * title.count("\n") + 13.5
    axes.figure.set_figheight(max(axes.figure.get_figheight(), LEAST_HEIGHT + height / 72))


def style_axes(axes: Axes, lengths: Sequence[int], train_length: int | None, limits: tuple[float, float],
               floor: int = 0) -> None:
    """Scales, ticks and names of axes that show exact match in percent against problem length, on a log scale.

    lengths:      those that are drawn, in growing order; where there is room they are labelled
    train_length: gets a label before the others
    limits:       ends of the axis of lengths
    floor:        percentage at which the axis of exact match begins
    """
    axes.set_xscale("log")
    axes.set_xlim(limits)
    margin, ticks = 0.03 * (100 - floor), range(floor, 101, 10 if floor else 20)
    axes.set_ylim(floor - margin, 100 + margin)
    axes.set_yticks(ticks, [f"{p}%" for p in ticks])
    character = 0.07 / (axes.figure.get_size_inches()[0] - 0.8)  # as a share of the axis
    shown = _labelled(lengths, train_length, math.log(limits[1] / limits[0]), character)
    axes.set_xticks(shown, [short_number(n) for n in shown])
    # Lengths without room for a label keep a small tick.
    axes.xaxis.set_minor_locator(FixedLocator([n for n in lengths if n not in shown]))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("problem length")
    axes.set_ylabel("exact match")
    axes.tick_params(labelsize=9)
    axes.grid(axis="y", color="0.9", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def mark_training(axes: Axes, train_length: int) -> None:
    """Shade the lengths that were trained on, and draw and name a line at the largest of them."""
    axes.axvspan(axes.get_xlim()[0], train_length, color="0.955", linewidth=0, zorder=0)
    axes.axvline(train_length, color="0.35", linewidth=1, linestyle=(0, (2, 2)), zorder=1)
    axes.annotate(f"trained up to {short_number(train_length)}", (train_length, 1), xytext=(0, 2),
                  xycoords=("data", "axes fraction"), textcoords="offset points", ha="center", va="bottom",
                  fontsize=8.5, color="0.25")  # fmt: skip


def limits(lengths: Sequence[int]) -> tuple[float, float]:
    """Ends of the axis: a margin of 6% of the span each side, and at least a factor of 1.6 for one length."""
    margin = max((max(lengths) / min(lengths)) ** 0.06, 1.15)
    if min(lengths) == max(lengths):
        margin = 1.6
    return min(lengths) / margin, max(lengths) * margin


def _labelled(lengths: Sequence[int], train_length: int | None, span: float, character: float) -> list[int]:
    """The lengths with room for a label and a blank: the ends and the training length, powers of ten, then the rest.

    character: width of one, as a share of the axis
    """
    rank = sorted(lengths, key=lambda n: (n not in (lengths[0], lengths[-1], train_length), not _round(n), n))
    shown: list[int] = []
    for n in rank:
        if all(abs(math.log(n / m)) / span > character * (1 + (_width(n) + _width(m)) / 2) for m in shown):
            shown.append(n)
    return sorted(shown)


def _round(n: int) -> bool:
    return 10 ** round(math.log10(n)) == n


def _width(n: int) -> int:
    return len(short_number(n))


def short_number(n: int) -> str:
    """1000 -> 1K, 150000 -> 150K, 5250000 -> 5.25M; other numbers in full, with separators: 1,024."""
    for size, letter in ((10**6, "M"), (10**3, "K")):
        if n >= size and n % (size // 100) == 0:
            return f"{n / size:g}{letter}"
    return f"{n:,}"


def save_figure(figure: Figure, path: str | os.PathLike, dpi: int = 200) -> None:
    """Write `figure` to `path` atomically, in the format of its suffix (.png, .pdf, .svg); folders are made.

    The same figure gives the same bytes, with the same version of matplotlib.
    """
    undated = {"metadata": {"Date": None}} if os.fspath(path).endswith(".svg") else {}
    with atomic_path(path) as temporary, rc_context({"svg.hashsalt": "length_gen"}):
        figure.savefig(temporary, dpi=dpi, **undated)
