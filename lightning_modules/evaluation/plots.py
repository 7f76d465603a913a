"""Figures of one run: accuracy and horizon by length, for papers and TensorBoard."""

import math
import os
from collections.abc import Iterable, Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from length_gen.lightning_modules.evaluation.metrics import Record, as_passes, group_records
from length_gen.lightning_modules.evaluation.tables import describe_cells
from length_gen.tools.files import atomic_path

# Okabe and Ito's colours, safe for colour-blind readers, ordered so that neighbours differ in lightness too; markers
# and dashes tell the lines apart in grey.
COLOURS = ("#0072B2", "#E69F00", "#000000", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", (0, (4, 2)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (9, 2)), (0, (3, 1, 1, 1, 1, 1)))

MOST_BARS = 12
"""Curves of more points show their intervals as a band."""

DODGE, MOST_DODGE = 0.011, 0.03
"""Shift between neighbouring curves, and between the outermost two, as shares of the axis: equal points stay visible,
and no point leaves its tick."""


def accuracy_figure(records: Iterable[Record], train_length: int | None = None, title: str | None = None,
                    passes: bool = False) -> Figure:
    """Exact match in percent against problem length (log scale), a line for each curve in the records.

    records:      records of metrics.json; bars are their 95% Wilson intervals
    train_length: largest length of the training data, marked by a vertical line
    title:        by default what all records have in common, e.g. `addition, local, rollout`
    passes:       show the share of right answers instead of exact match, where answers are judged

    Needs no display and leaves pyplot's global state alone. Raises ValueError if there is nothing to draw.
    """
    if passes:
        records = as_passes(records)
    curves = group_records(records)
    if not curves:
        raise ValueError("there is nothing to draw: no record has any problems")
    common, labels = describe_cells(curves)
    figure = Figure(figsize=(6.4, 3.8), dpi=200, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    axes = figure.add_subplot()
    lengths = sorted({r["length"] for curve in curves.values() for r in curve})
    low, high = limits([*lengths, *([train_length] if train_length else [])])
    _draw_curves(axes, {labels[cell] or common: curve for cell, curve in curves.items()}, math.log(high / low))
    style_axes(axes, lengths, train_length, (low, high))
    if passes:
        axes.set_ylabel("pass rate")
    if train_length:
        mark_training(axes, train_length)
    write_head(axes, title or common, len(curves), bool(train_length))
    return figure


def horizon_figure(lines: Mapping[str, Mapping[int, int]], train_length: int, title: str) -> Figure:
    """Horizon in tokens against problem length, both on log scales.

    lines:        variant -> length -> horizon
    train_length: largest length of the training data, marked by a vertical line
    """
    figure = Figure(figsize=(6.4, 3.8), dpi=200, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.08)
    axes, lengths = figure.add_subplot(), sorted({length for line in lines.values() for length in line})
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
    write_head(axes, title, len(lines), True)
    return figure


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


def write_head(axes: Axes, title: str, curves: int, marked: bool) -> None:
    """Title, then legend, above the training mark and the axes: no curve can run into them there. Heights in points."""
    height = 16 if marked else 4
    if curves > 1:
        # In inches: a handle with its spaces, and a character of this size; the axes are about 5.6 wide.
        longest = max(map(len, axes.get_legend_handles_labels()[1]))
        columns = max(1, min(curves, 3, int(5.6 / (0.8 + 0.062 * longest))))
        raised = axes.transAxes + ScaledTranslation(0, height / 72, axes.figure.dpi_scale_trans)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), bbox_transform=raised, borderaxespad=0, borderpad=0,
                    ncols=columns, frameon=False, fontsize=9, handlelength=3.4, labelspacing=0.3)  # fmt: skip
        height += 14 * math.ceil(curves / columns)
    axes.set_title(title, loc="left", fontsize=11, pad=height + 3)


def style_axes(axes: Axes, lengths: Sequence[int], train_length: int | None, limits: tuple[float, float]) -> None:
    """Scales, ticks and names of axes that show exact match in percent against problem length, on a log scale.

    lengths:      those that are drawn, in growing order; where there is room they are labelled
    train_length: gets a label before the others
    limits:       ends of the axis of lengths
    """
    axes.set_xscale("log")
    axes.set_xlim(limits)
    axes.set_ylim(-3, 103)
    axes.set_yticks(range(0, 101, 20), [f"{p}%" for p in range(0, 101, 20)])
    shown = _labelled(lengths, train_length, math.log(limits[1] / limits[0]))
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


def _labelled(lengths: Sequence[int], train_length: int | None, span: float) -> list[int]:
    """The lengths with room for a label: first the ends and the training length, then powers of ten, then the rest."""
    rank = sorted(lengths, key=lambda n: (n not in (lengths[0], lengths[-1], train_length), not _round(n), n))
    shown: list[int] = []
    for n in rank:
        # A character takes about 1.25% of the axis at this size; a label needs a blank beside it.
        if all(abs(math.log(n / m)) / span > 0.0125 * (1 + (_width(n) + _width(m)) / 2) for m in shown):
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
    """Write `figure` to `path` atomically, in the format of its suffix (.png, .pdf, .svg); folders are made."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=dpi)
