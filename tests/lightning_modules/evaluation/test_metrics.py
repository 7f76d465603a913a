import json
import math
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from length_gen.lightning_modules.evaluation.metrics import (
    LengthMetrics,
    exact_up_to,
    group_records,
    wilson_interval,
    write_metrics,
)
from length_gen.lightning_modules.evaluation.outcome import Outcome
from tests.commands import run_ranks

PHASES = ["find_plus", "carry_out", "write"]

RIGHT = Outcome(
    exact=True, answer_correct=True, predicted_tokens=100, correct_tokens=100, first_error=None, phase=None, turns=30,
    tokens=160, reason="end", engine="host",
)  # fmt: skip
WRONG = replace(RIGHT, exact=False, answer_correct=False, correct_tokens=97)
OUTCOMES = [
    RIGHT,
    replace(WRONG, first_error=50, phase="carry_out", reason="budget", turns=90, tokens=400),
    replace(WRONG, first_error=7_000_000_001, phase="write", reason="invalid_command"),  # beyond int32 and float32
    replace(WRONG, first_error=20, phase="carry_out", answer_correct=True, engine="draft"),
    replace(WRONG, first_error=40, phase=None, reason="tool_error", correct_tokens=0),
]
# Of four positions 20, 40, 50, 7e9 the lower median is 40; 2 of 4 first errors are in carry_out.
EXPECTED = {
    "task": "addition",
    "variant": "n x 2",
    "problem_set": "uniform",
    "setting": "interactive",
    "style": "local",
    "evaluator": "rollout",
    "length": 12,
    "problems": 5,
    "exact_match": 1 / 5,
    "answer_accuracy": 2 / 5,
    "token_accuracy": (100 + 3 * 97 + 0) / 500,
    "first_error": {"position": 40, "phase": "carry_out"},
    "first_error_phases": {"carry_out": 2, "write": 1, "": 1},
    "reasons": {"end": 2, "budget": 1, "invalid_command": 1, "tool_error": 1},
    "engines": {"host": 4, "draft": 1},
    "turns": (4 * 30 + 90) / 5,
    "tokens": (4 * 160 + 400) / 5,
}


def new_metric() -> LengthMetrics:
    return LengthMetrics("addition", 12, variant="n x 2", setting="interactive", style="local", phases=PHASES)


def filled(outcomes) -> LengthMetrics:
    metric = new_metric()
    for outcome in outcomes:
        metric.update(outcome)
    return metric


def check(record) -> None:
    low, high = record["exact_match_low"], record["exact_match_high"]
    assert (record["answer_low"], record["answer_high"]) == wilson_interval(2, 5)
    ends = ("exact_match_low", "exact_match_high", "answer_low", "answer_high")
    assert {k: v for k, v in record.items() if k not in ends} == EXPECTED
    # Wilson for 1 of 5, z = 1.96: (0.2 + 0.38416 -+ 1.96 sqrt(0.032 + 0.038416)) / 1.76832
    assert low == pytest.approx((0.58416 - 1.96 * math.sqrt(0.070416)) / 1.76832, abs=1e-4)
    assert high == pytest.approx((0.58416 + 1.96 * math.sqrt(0.070416)) / 1.76832, abs=1e-4)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (16, 16, 0.8064, 1.0),  # n / (n + z^2) = 16 / 19.8415
        (0, 16, 0.0, 0.1936),  # z^2 / (n + z^2)
        (50, 100, 0.4038, 0.5962),  # 0.5 -+ z / 2 / sqrt(n + z^2) = 0.5 -+ 0.98 / 10.190
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),  # the same
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval_gives_published_values(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=6e-5)


def test_wilson_interval_ends_exactly_at_zero_and_one():
    assert all(wilson_interval(0, n)[0] == 0.0 and wilson_interval(n, n)[1] == 1.0 for n in range(1, 500))


def test_wilson_interval_is_where_the_score_test_rejects():
    # Its ends p solve |k/n - p| = z sqrt(p (1 - p) / n).
    for p in wilson_interval(3, 20, confidence=0.9):
        assert abs(3 / 20 - p) == pytest.approx(1.6448536 * math.sqrt(p * (1 - p) / 20))


@pytest.mark.parametrize(("successes", "n"), [(2, 1), (-1, 3)])
def test_wilson_interval_rejects_impossible_counts(successes, n):
    with pytest.raises(ValueError, match=f"{successes} successes of {n}"):
        wilson_interval(successes, n)


def test_record_of_five_problems():
    check(filled(OUTCOMES).compute())


def test_verify_judges_no_answers():
    outcome = replace(RIGHT, answer_correct=None, reason="verify")
    record = filled([outcome, outcome]).compute()
    assert record["answer_accuracy"] is None
    assert record["first_error"] is None
    assert record["exact_match"] == 1.0
    assert record["reasons"] == {"verify": 2}


def test_reset_forgets_everything():
    metric = filled(OUTCOMES[::-1])
    metric.compute()
    metric.reset()
    for outcome in OUTCOMES:
        metric.update(outcome)
    check(metric.compute())


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_no_problems():
    record = new_metric().compute()
    assert record["problems"] == 0
    assert record["exact_match"] is None
    assert (record["exact_match_low"], record["exact_match_high"]) == (0, 1)
    json.dumps(record, allow_nan=False)


@pytest.mark.parametrize("cut", range(6))
def test_merged_states_equal_one_metric(cut):
    metric = filled(OUTCOMES[:cut])
    metric.merge_state(filled(OUTCOMES[cut:]))
    metric._update_count = 5  # merging leaves it, and compute warns at 0
    check(metric.compute())


def _worker(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    shares = {
        "uneven": OUTCOMES[:2] if rank == 0 else OUTCOMES[2:],
        "no errors on rank 0": OUTCOMES[:1] if rank == 0 else OUTCOMES[1:],
        "no problems on rank 1": OUTCOMES if rank == 0 else [],
    }
    metrics = {name: filled(share) for name, share in shares.items()}
    records = {name: metric.compute() for name, metric in metrics.items()}
    # Computing must leave the rank's own state as it was, so that further updates count once.
    own = {name: int(metric.counts[0]) for name, metric in metrics.items()}
    with open(f"{folder}/{rank}.json", "w", encoding="utf-8") as file:
        json.dump({"records": records, "own": own}, file)
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo")
@pytest.mark.filterwarnings("ignore")
def test_two_processes_with_uneven_shares(tmp_path):
    run_ranks(_worker, str(tmp_path))
    for rank, own in ((0, [2, 1, 5]), (1, [3, 4, 0])):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert list(result["own"].values()) == own
        for record in result["records"].values():
            check(record)


def test_unknown_phase_and_reason_are_named():
    with pytest.raises(ValueError, match=r"unknown phase 'sort'.*'find_plus', 'carry_out', 'write'"):
        new_metric().update(replace(OUTCOMES[1], phase="sort"))
    with pytest.raises(ValueError, match="unknown reason 'bored'"):
        new_metric().update(replace(RIGHT, reason="bored"))


def test_contradictory_outcomes_are_rejected():
    with pytest.raises(ValueError, match="first_error is 3"):
        replace(RIGHT, first_error=3)
    with pytest.raises(ValueError, match="101 correct of 100"):
        replace(RIGHT, correct_tokens=101)


def test_moves_with_the_module():
    module = torch.nn.Module()
    module.metric = filled(OUTCOMES)
    check(module.to(torch.float64).metric.compute())


def record(length: int, exact: float, problems: int = 16, **fields):
    low, high = wilson_interval(round(exact * problems), problems)
    base = {"task": "addition", "variant": "", "evaluator": "rollout", "length": length, "problems": problems}
    return base | {"exact_match": exact, "exact_match_low": low, "exact_match_high": high} | fields


def test_two_records_at_one_length_are_refused():
    with pytest.raises(ValueError, match=r"two records for addition, rollout at length 10"):
        group_records([record(10, 1.0), record(10, 0.5)])


def test_groups_skip_lengths_without_problems():
    (curve,) = group_records([record(20, 1.0), record(10, 0.5), record(30, 0.0, problems=0)]).values()
    assert [r["length"] for r in curve] == [10, 20]


def test_metrics_file_round_trip(tmp_path):
    path = tmp_path / "runs" / "metrics.json"
    records = [filled(OUTCOMES).compute()]
    write_metrics(path, [])
    write_metrics(path, records)
    assert json.loads(path.read_text()) == {"records": records}
    assert [p.name for p in path.parent.iterdir()] == ["metrics.json"]


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(path, [{"length": 1}])
    with pytest.raises(ValueError):
        write_metrics(path, [{"length": float("nan")}])
    assert json.loads(path.read_text()) == {"records": [{"length": 1}]}


def test_exact_up_to_is_the_length_before_the_first_that_is_not_all_exact():
    assert exact_up_to([]) == exact_up_to([(5, 0.9), (10, 1.0)]) == 0
    assert exact_up_to([(100, 1.0), (5, 1.0), (10, 1.0), (10, 0.97), (1000, 1.0)]) == 5
    assert exact_up_to({5: 1.0, 10: 1.0}.items()) == 10
