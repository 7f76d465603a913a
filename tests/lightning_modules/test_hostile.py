import pytest

from benchmarks.hostile import KINDS, ROW_BYTES, TASKS, row_memory, storm
from datamodules.tasks import LogicalGraph, Problem
from lightning_modules.rollout import Rollout
from tools import SearchMemory


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{task.setting}")
def test_nonsense_ends_with_a_reason_and_disturbs_no_other_row(task, kind):
    """Every row, six side by side in a batch of three, is what it is alone."""
    tokens, reasons = storm(task, kind, rows=6, budget=300, seed=7, again=6)
    assert tokens > 0 and sum(reasons.values()) == 6


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{task.setting}")
def test_the_memory_of_a_row_is_bounded(task):
    for kind in KINDS:
        assert 0 < row_memory(task, kind, budget=1000) <= ROW_BYTES


@pytest.mark.parametrize(("lines", "reason"), [(100, "budget"), (101, "invalid_command")])
def test_huge_results_of_a_search(lines, reason):
    """The whole memory is found, again and again: the budget cuts it short; one line more than allowed is an error."""
    prompt = ("a", *["7"] * 198, "\n") * lines
    row = Rollout(Problem(prompt, lines), len(prompt) + 50_000, SearchMemory(100))
    search = iter(["find", "a", "[OBSERVATION]"] * 1000)
    while not row.reason:
        row.advance("" if row._given else next(search))
    assert row.reason == reason and len(row.tokens) <= row.budget
    assert len(row._given) <= len(prompt)
    assert reason == "budget" or f"{lines} lines match" in row.detail
    assert LogicalGraph(6).tool().max_lines == 100
