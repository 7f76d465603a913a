import pytest

from benchmarks.hostile import KINDS, TASKS, storm


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{task.setting}")
def test_nonsense_ends_with_a_reason_and_disturbs_no_other_row(task, kind):
    tokens, reasons = storm(task, kind, rows=6, budget=300, seed=7)
    assert tokens > 0 and sum(reasons.values()) == 6
