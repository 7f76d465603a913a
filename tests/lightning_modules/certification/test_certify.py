"""The three verdicts, each on a model of which it is known."""

from pathlib import Path

import pytest
import torch

from length_gen.datamodules.automaton import automaton as windows
from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules.backbones import GRU, Mamba
from length_gen.lightning_modules.certification.certify import UNITS, certify
from length_gen.lightning_modules.evaluation.verify import verify
from tests.exact import automaton, exact_copy, flawed_copy, task

VOCABULARY = task().vocabulary()


def verdict_on(model, of=None, automata=automaton, **settings):
    return certify(model, of or task(), VOCABULARY, automata, [UNITS["float64"]],
                   **{"order": 6, "most": 6, "seconds": 1e-6, **settings})


def test_an_exact_model_is_certified_and_a_less_exact_precision_costs_margin():
    model = exact_copy()
    double = verdict_on(model)
    assert double.outcome == "certified" and double.proved == double.decisions and double.counterexample is None
    single = certify(model, task(), VOCABULARY, automaton, [UNITS["float32"]], order=6)
    assert single.outcome == "certified" and 0 < single.least < double.least
    # The bound is below what is seen, and not far: the model is exact on problems twenty times as long as any fitted.
    longer = [task().record(task().problem("test", 0, 200, i)) for i in range(4)]
    assert all(outcome.exact for outcome in verify(model.double(), VOCABULARY, longer))
    # What is not proved for a large rounding error is tried for a small one.
    either = certify(model, task(), VOCABULARY, automaton, [2.0**-16, UNITS["float64"]], order=6)
    assert (either.outcome, either.unit, either.least) == ("certified", UNITS["float64"], double.least)
    window, wanted, least = double.weakest[0]
    assert least == double.least and wanted in VOCABULARY.tokens and len(window) <= 6
    assert len(double.margins) == 101 and double.margins == sorted(double.margins) and double.margins[0] == least
    assert double.margins[50] > double.margins[0]


def test_a_rare_flaw_is_refuted_by_the_problem_that_shows_it():
    verdict = verdict_on(flawed_copy(), seconds=60)
    assert verdict.outcome == "refuted" and 0 < verdict.decisions - verdict.proved < 20
    for window, wanted, least in verdict.weakest:
        assert least > 0 or (wanted == "j" and "h" in window)
    found = verdict.counterexample
    assert (found.expected, found.said) == ("j", "a") and "hj" in "".join(found.problem.prompt)
    assert found.context[-5:] == ("h", "h", "p1.right@copy", "p1.read@copy", "j")
    # The rollout that confirmed it, and a pass that nobody searched with.
    reference = task().record(found.problem)
    outcome, = verify(flawed_copy().double(), VOCABULARY, [reference])
    assert outcome.first_error == found.position and reference.tokens[found.position] == "j"


def test_a_window_that_is_too_short_is_made_longer():
    asked = []

    def automata(order):
        asked.append(order)
        return automaton(order)

    verdict = verdict_on(exact_copy(), automata=automata, order=4, most=8)
    assert verdict.outcome == "certified" and asked in ([4], [4, 6])
    assert verdict.order == asked[-1]


UNKNOWN = {
    "without a floor": (lambda: exact_copy(dt_floor=0.0), {}, "no floor"),
    "with the question visible": (exact_copy, {"setting": "interactive"}, "a question of any length"),
    "of another family": (lambda: GRU(len(VOCABULARY), 1, 16), {}, "no bounds of GRU")}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_cannot_be_proved_is_not(name):
    made, settings, reason = UNKNOWN[name]
    verdict = verdict_on(made(), task(**settings))
    assert verdict.outcome == "unknown" and reason in verdict.reason
    assert verdict.least is None and not verdict.margins and not verdict.weakest


def test_no_window_is_enough_in_style_paper():
    paper = Addition(5, style="paper", setting="question_in_tool")
    torch.manual_seed(0)
    model = Mamba(len(paper.vocabulary()), 1, 16, d_state=4, dt_floor=1.0)
    verdict = certify(model, paper, paper.vocabulary(), lambda order: windows(paper, order, 10), [UNITS["float64"]],
                      seconds=30)
    assert "no window of up to 10 tokens suffices" in verdict.reason
    assert verdict.outcome == "refuted"  # it has learnt nothing
    assert verdict.counterexample.said != verdict.counterexample.expected


def test_the_certificate_is_small_and_written_only_where_all_is_proved(certified, tmp_path):
    assert certified.stat().st_size < 2**20 and certified.with_name("weights.npz").is_file()
    model = exact_copy()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    assert verdict_on(model, path=tmp_path / "no.npz").outcome != "certified"
    assert not list(Path(tmp_path).iterdir())
