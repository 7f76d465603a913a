import json
from itertools import pairwise

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot, rcParams
from matplotlib.figure import Figure
from matplotlib.image import imread

from length_gen.lightning_modules.evaluation.metrics import wilson_interval
from length_gen.lightning_modules.evaluation.plots import accuracy_figure, save_figure, short_number
from length_gen.lightning_modules.reporting.plots import growth_figure, reach_figure, seeds_figure
from tests.commands import ROOT

LENGTHS = [5, 10, 20, 50, 100, 1000, 10_000, 50_000, 150_000]


def record(length: int, exact: int, problems: int = 16, **fields):
    low, high = wilson_interval(exact, problems)
    cell = {"task": "addition", "variant": "", "setting": "interactive", "style": "local", "evaluator": "rollout"}
    measured = {"length": length, "problems": problems, "exact_match": exact / problems}
    return cell | measured | {"exact_match_low": low, "exact_match_high": high} | fields


def curve(*exact: int, **fields):
    return [record(n, e, **fields) for n, e in zip(LENGTHS, exact, strict=False)]


def lines(figure: Figure):
    """The curves: lines with a label of their own."""
    return [line for line in figure.axes[0].lines if not line.get_label().startswith("_")]


def boxes(figure: Figure, artists):
    """Extents in pixels, after a draw has laid the figure out."""
    figure.draw_without_rendering()
    return [artist.get_window_extent() for artist in artists]


def test_curve_is_the_exact_match_in_percent():
    figure = accuracy_figure(curve(16, 16, 15, 12, 8, 4, 1, 0, 0))
    (line,) = lines(figure)
    assert line.get_xdata() == pytest.approx(LENGTHS)
    assert line.get_ydata() == pytest.approx([100, 100, 93.75, 75, 50, 25, 6.25, 0, 0])
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert axes.get_ylim()[0] < 0 and axes.get_ylim()[1] > 100
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0%", "20%", "40%", "60%", "80%", "100%"]


def test_bars_are_the_wilson_intervals():
    axes = accuracy_figure(curve(16, 8)).axes[0]
    segments = next(c for c in axes.collections if hasattr(c, "get_segments")).get_segments()
    ends = [(s[0][1], s[1][1]) for s in segments]
    # 16/16 from 80.64 to 100; 8/16: 50 -+ 50 z / sqrt(16 + z^2) = 50 -+ 22.0
    assert ends == [pytest.approx((80.64, 100), abs=0.01), pytest.approx((28.0, 72.0), abs=0.01)]


def test_ticks_stand_at_the_measured_lengths():
    axes = accuracy_figure(curve(*[16] * 9), train_length=10).axes[0]
    assert sorted([*axes.get_xticks(), *axes.get_xticks(minor=True)]) == LENGTHS
    labels = ["5", "10", "100", "1K", "10K", "150K"]  # the ends, the training's, powers of ten
    assert [label for label in (t.get_text() for t in axes.get_xticklabels()) if label in labels] == labels


@pytest.mark.parametrize("lengths", [range(1, 41), range(100, 140), [8, 9, 10, 11, 12, 13, 20, 1000], [1000, 1024]])
def test_labels_never_touch_and_every_length_has_a_tick(lengths):
    figure = accuracy_figure([record(n, 16) for n in lengths], train_length=13)
    axes = figure.axes[0]
    extents = boxes(figure, axes.get_xticklabels())
    assert all(left.x1 < right.x0 for left, right in pairwise(extents))
    assert sorted([*axes.get_xticks(), *axes.get_xticks(minor=True)]) == list(lengths)


def test_curves_at_100_percent_are_both_visible():
    figure = accuracy_figure(curve(*[16] * 9, variant="n x 1") + curve(*[16] * 9, variant="n x 2"), train_length=10)
    first, second = lines(figure)
    assert [first.get_label(), second.get_label()] == ["n x 1", "n x 2"]
    assert first.get_marker() != second.get_marker()
    assert first.get_linestyle() != second.get_linestyle()
    assert first.get_linewidth() > second.get_linewidth()
    shift = np.array(second.get_xdata()) / np.array(first.get_xdata())
    assert all(shift > 1.05) and all(shift < 1.3)


def test_six_curves_stay_near_their_ticks():
    figure = accuracy_figure([r for i in range(6) for r in curve(*[16] * 9, variant=f"n x {i}")])
    span = 150_000 / 5
    for line in lines(figure):
        assert all(abs(np.log(np.array(line.get_xdata()) / LENGTHS)) < 0.02 * np.log(span))
    assert len({line.get_marker() for line in lines(figure)}) == 6


@pytest.mark.parametrize("curves", [1, 2, 5])
def test_legend_title_and_training_mark_lie_above_the_data(curves):
    records = [r for i in range(curves) for r in curve(*[16] * 9, variant=f"n x {i}" if curves > 1 else "")]
    figure = accuracy_figure(records, train_length=10)
    axes = figure.axes[0]
    (mark,) = (t for t in axes.texts if t.get_text() == "trained up to 10")
    note, = (t for t in axes.texts if "95%" in t.get_text())
    stack = [axes.patch, mark, *([axes.get_legend()] if curves > 1 else []), note, axes._left_title]
    extents = boxes(figure, stack)
    assert all(lower.y1 <= upper.y0 + 1 for lower, upper in pairwise(extents))
    assert extents[-1].y1 <= figure.bbox.y1 and all(extent.x1 <= figure.bbox.x1 for extent in extents)
    assert any(list(line.get_xdata()) == [10, 10] for line in axes.lines)


def test_the_note_says_what_the_curves_share_and_how_many_problems_they_have():
    figure = accuracy_figure(curve(16) + curve(15, evaluator="verify"), seed=7)
    assert [line.get_label() for line in lines(figure)] == ["rollout", "verify"]
    note = next(text.get_text() for text in figure.axes[0].texts)
    assert note == "addition, interactive, local, seed 7\n16 problems a point; bars: 95% interval"


@pytest.mark.parametrize(("curves", "title"), [
    ([[16] * 9], "exact at all 9 lengths to 150,000"),
    ([[16]], "exact at 5"),
    ([[16, 16, 9, 4, 0]], "exact to 10, 56% at 20, 0% at 100"),
    ([[16, 16, 4, 0]], "exact to 10, 25% at 20, 0% at 50"),
    ([[12, 4]], "75% exact at 5, 25% at 10"),
    ([[16] * 9, [16, 4, 0]], "n x 1: exact to 5, 25% at 10, 0% at 20"),
    ([[16] * 9, [16] * 3], "n x 1: exact to 20"),  # which had no more lengths
], ids=str)
def test_title_says_how_far_the_worst_curve_gets(curves, title):
    several = len(curves) > 1
    records = [r for i, c in enumerate(curves) for r in curve(*c, variant=f"n x {i}" * several)]
    assert accuracy_figure(records).axes[0].get_title("left") == title


def test_the_title_never_rounds_up_to_all_and_speaks_of_solving_where_that_counts():
    fields = {"answer_accuracy": 0.999, "answer_low": 0.99, "answer_high": 1}
    assert accuracy_figure([record(5, 999, 1000)]).axes[0].get_title("left") == ">99% exact at 5"
    figure = accuracy_figure([record(5, 0, 1000, **fields)], passes=True)
    assert figure.axes[0].get_title("left") == ">99% solved at 5"


def test_evaluators_that_agree_are_one_curve():
    records = [r for evaluator in ("rollout", "verify") for variant in ("n x 1", "n x 2")
               for r in curve(16, 15 - (variant, evaluator).count("n x 2"), variant=variant, evaluator=evaluator)]
    assert [line.get_label() for line in lines(accuracy_figure(records))] == ["n x 1", "n x 2"]
    assert accuracy_figure(records).axes[0].texts[0].get_text().startswith(
        "addition, interactive, local, rollout and verify\n")
    records[1] = record(10, 14, variant="n x 1")
    assert [line.get_label() for line in lines(accuracy_figure(records))] == [
        "n x 1, rollout", "n x 2, rollout and verify", "n x 1, verify"]


def test_where_nothing_lies_below_half_the_axis_begins_there():
    # 16 of 16: from 80.6%, 4 of 4: from 51.0%, 3 of 3: from 43.9%
    floors = [accuracy_figure([record(5, 16), record(10, n, n)]).axes[0].get_yticks()[0] for n in (16, 4, 3)]
    assert floors == [50, 50, 0]


@pytest.mark.parametrize(("counts", "said"), [((16, 16, 16), "16 problems"), ((16, 16, 4), "16 problems (4 at 20)"),
                                              ((16, 8, 4), "4 to 16 problems")])
def test_the_note_says_where_there_are_fewer_problems(counts, said):
    figure = accuracy_figure([record(n, count, count) for n, count in zip((5, 10, 20), counts, strict=True)])
    assert figure.axes[0].texts[0].get_text().split("\n")[1] == f"{said} a point; bars: 95% interval"


def test_many_lengths_have_a_band():
    axes = accuracy_figure([record(n, 16) for n in range(1, 41)]).axes[0]
    (band,) = axes.collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.min() == pytest.approx(80.64, abs=0.01) and heights.max() == 100


def test_single_length():
    (line,) = lines(accuracy_figure([record(10, 16)], train_length=10))
    assert list(line.get_xdata()) == [10]


def test_nothing_to_draw():
    with pytest.raises(ValueError, match="no record has any problems"):
        accuracy_figure([])


def test_saved_figure_is_a_png_of_its_size(tmp_path):
    path = tmp_path / "runs" / "curve.png"
    save_figure(accuracy_figure(curve(16, 8), train_length=5), path, dpi=150)
    assert imread(path).shape[:2] == (450, 660)  # 3 x 4.4 inches
    assert [p.name for p in path.parent.iterdir()] == ["curve.png"]


def test_the_readmes_figure_is_drawn_from_its_record(tmp_path):
    """Bytes are compared where matplotlib is the version that drew it; to draw it again: copy what the test drew."""
    content = json.loads((ROOT / "results/multiplication_10/small_local_seed42.json").read_text())
    figure, drawn = accuracy_figure(content["records"], 10, seed=content["seed"]), tmp_path / "mult_curve.svg"
    save_figure(figure, drawn)
    assert figure.axes[0].get_title("left") == "exact at all 7 lengths to 1,000"
    kept = (ROOT / "docs/figures/mult_curve.svg").read_text()
    assert "docs/figures/mult_curve.svg" in (ROOT / "README.md").read_text()
    if f"Matplotlib v{matplotlib.__version__}," in kept:
        assert drawn.read_text() == kept, drawn


def test_pyplot_is_not_touched():
    # torchmetrics imports pyplot if it can, so look at what pyplot knows of instead.
    before = pyplot.get_fignums(), dict(rcParams)
    accuracy_figure(curve(16, 8), train_length=5).canvas.draw()
    assert (pyplot.get_fignums(), dict(rcParams)) == before


@pytest.mark.parametrize(
    ("number", "text"),
    [(5, "5"), (999, "999"), (1000, "1K"), (1024, "1,024"), (1500, "1.5K"), (150_000, "150K"), (5_250_000, "5.25M"),
     (1_000_000, "1M"), (999_999, "999,999")],
)  # fmt: skip
def test_short_numbers_lose_no_digit(number, text):
    assert short_number(number) == text


def test_seeds_are_a_median_with_bars():
    curve = {10: ([1, 1, 0.5], (0.5, 1)), 100: ([0, 0.25, 1], (0, 1))}
    axes = seeds_figure({"a": curve, "b": curve}, 10, "title").axes[0]
    first, _ = (line for line in axes.lines if not line.get_label().startswith("_"))
    assert list(first.get_ydata()) == [100, 25]
    segments = next(c for c in axes.collections if hasattr(c, "get_segments")).get_segments()
    assert [(s[0][1], s[1][1]) for s in segments] == [(50, 100), (0, 100)]


def test_growth_has_log_axes_and_shows_a_reach_of_nothing_at_the_bottom():
    lines = {"a": {1: [(0, False), (0, False)], 10: [(30, False), (100, True)]}, "b": {1: [(20, False)],
                                                                                      10: [(900, False)]}}
    axes = growth_figure(lines, "steps", "title", "reach").axes[0]
    first, second = (line for line in axes.lines if not line.get_label().startswith("_"))
    assert axes.get_xscale() == axes.get_yscale() == "log" and [t.get_text() for t in axes.get_yticklabels()] == [
        "0", "10", "100", "1K"]
    assert axes.get_ylim()[0] < first.get_ydata()[0] < 10 and first.get_ydata()[1] == 30  # a length that one has
    assert list(second.get_ydata()) == [20, 900] and axes.get_ylim()[1] > 1000
    arrow, note = axes.texts
    assert arrow.xy[1] == 100 and note.get_text() == "arrow: or more"


def test_reaches_that_nothing_longer_was_tried_of_have_an_arrow():
    axes = reach_figure([("few", "short", [(100, 100), (5, 100), (0, 100)]), ("many", "short", [(10, 10)] * 12)],
                        "title").axes[0]
    arrows = [x for line in axes.lines if line.get_marker() == 5 for x in line.get_xdata()]
    assert sorted(arrows) == pytest.approx([14, 140]) and [text.get_text() for text in axes.texts] == [
        "\N{MULTIPLICATION SIGN}12"]
