"""Titles say what the drawn values bear out, and no more."""

import re
from pathlib import Path

import pytest

from length_gen.lightning_modules.evaluation.plots import save_figure
from length_gen.lightning_modules.reporting import report as reports
from length_gen.lightning_modules.reporting.pages import Pages
from length_gen.lightning_modules.reporting.results import curves, read_runs
from length_gen.lightning_modules.reporting.titles import (
    cost_title,
    growth_title,
    knob_title,
    model_name,
    of_curves,
    proofs_title,
    rates_title,
    reach_title,
    seeds_title,
)
from tests.lightning_modules.reporting.test_report import write

ROOT = Path(__file__).resolve().parents[3]
WHOLE = {10: ([1, 1], (1, 1)), 1000: ([1, 1], (1, 1))}


@pytest.mark.parametrize(("lines", "title"), [
    ({"a": WHOLE, "b": WHOLE}, "exact at every length tried, up to 1K"),
    # Both medians are 1 at 10: one seed is not, so b is exact to 5 only.
    ({"a": WHOLE, "b": {5: ([1, 1], (1, 1)), 10: ([1, 0.9], (0.9, 1)), 50: ([1, 1], (1, 1))},
      "c": {5: ([1], (1, 1)), 10: ([1], (1, 1)), 50: ([0], (0, 0.1))}},
     "1 of 3 curves exact at every length tried, up to 1K; to 5 only: b"),
    ({"a": {5: ([0.5], (0.4, 0.6)), 9: ([0.25], (0.2, 0.3))}, "b": {5: ([0.9], (0.8, 1))}},
     "Best at 9: 25% (20% to 30%), a"),
])
def test_curves_over_seeds(lines, title):
    assert seeds_title(lines) == title


def test_growth_counts_a_start_only_where_every_seed_from_there_on_gets_as_far_as_was_tried():
    whole, not_whole = (1000, True), (999, False)
    lines = {"a": {1: [not_whole], 3: [whole, whole], 5: [whole]}, "b": {1: [whole], 3: [whole, not_whole], 5: [whole]},
             "c": {1: [not_whole], 5: [not_whole]}}
    assert growth_title(lines) == "All seeds exact as far as tried: a from 3 on; b from 5 on; c nowhere"
    assert growth_title({"a": {1: [not_whole]}}) == "All seeds exact as far as tried: a nowhere"


def test_a_knob_counts_models_beyond_their_training_length(tmp_path):
    write(tmp_path, "a_seed1", {5: 1.0, 10: 1.0}, seed=1)
    write(tmp_path, "a_seed2", {5: 1.0, 10: 0.9}, seed=2)  # exact to 5, which it was trained on: not beyond
    curve, = curves(read_runs(tmp_path))
    assert knob_title({16: [curve], 8: [curve, curve]}, "K") == (
        "Exact beyond the training length, by K: 8: 2 of 4, 16: 1 of 2")
    assert of_curves([curve, curve]) == "2 trained models, 10 problems a length"  # each model once


def test_the_other_titles():
    assert reach_title([("a", "short", [(10, 10), (5, 10)]), ("b", "long", [(0, 10)]), ("c", "short", [(9, 9)])]) == (
        "Exact as far as tried, by horizon: short: 2 of 3; long: 0 of 1")
    assert rates_title({"grows (8)": (0.5, 0.25, 0.4, 0.6), "other": (1, 0, 0, 0)}) == (
        "Grows (8): 50% of first errors where the need is largest, 25% by chance")
    assert cost_title({"a": {1: [(3.0, False)], 10**5: [(0.123, False)]}, "b": {100: [(712.0, False)]}}) == (
        "\N{MICRO SIGN}s a token at the largest length tried: a 0.12 (100K), b 710 (100)")


def test_what_is_not_proved_stands_in_the_title():
    proved = {"task": "addition", "variants": None, "style": "local", "model": "mamba 2x64", "decisions": 5,
              "proved": 5, "least": 4.001}
    other = {**proved, "variants": ["n x 2"], "style": "paper", "proved": 3, "least": -1}
    assert model_name(other) == "addition n x 2, style paper, 2x64"
    assert proofs_title([proved]) == "Every decision proved in 1 of 1 model, by 4.00 logits or more"
    assert proofs_title([proved, other]) == ("Every decision proved in 1 of 2 models, by 4.00 logits or more; "
                                             "2 of 5 not in addition n x 2, style paper, 2x64")


@pytest.mark.slow
def test_every_figure_says_one_thing_of_how_many_and_is_read_at_half_a_column(tmp_path, monkeypatch):
    monkeypatch.setattr(Pages, "write", lambda pages: drawn.update(pages.figures))
    monkeypatch.chdir(ROOT)
    drawn = {}
    reports.report(out=str(tmp_path / "results.md"))
    assert len(drawn) >= 10
    for path, draw in drawn.items():
        figure = draw()
        title = figure.axes[0].get_title("left")
        note = " ".join(" ".join(text.get_text() for text in figure.axes[0].texts).split())
        save_figure(figure, path)
        figure.canvas.draw()
        assert path.suffix == ".svg" and path.stat().st_size < 200_000, path
        assert len(title) > 20 and re.search(r"\d", title), title
        assert re.search(r"\d+ (trained )?(model|case)|run a point", note), path
        assert re.search("bars|seeds|a seed of|a seed on|no interval|a bound", note), path
        assert figure.get_size_inches()[0] <= 4.4
