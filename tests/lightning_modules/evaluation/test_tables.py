import io

import pytest
from rich.console import Console

from length_gen.lightning_modules.evaluation.metrics import wilson_interval
from length_gen.lightning_modules.evaluation.tables import percent, records_table


def record(length: int, exact: int, problems: int = 16, **fields):
    low, high = wilson_interval(exact, problems)
    return {
        "task": "addition",
        "variant": "",
        "setting": "interactive",
        "style": "local",
        "evaluator": "rollout",
        "length": length,
        "problems": problems,
        "exact_match": exact / problems,
        "exact_match_low": low,
        "exact_match_high": high,
        "answer_accuracy": exact / problems,
        "token_accuracy": 1.0 if exact == problems else 0.9999999,
        "first_error": None if exact == problems else {"position": 15 * length, "phase": "carry_out"},
    } | fields


def render(table, width=80, **options) -> str:
    console = Console(width=width, file=io.StringIO(), **options)
    console.print(table)
    return console.file.getvalue().replace("\N{EN DASH}", "-")


def rows(text: str) -> list[list[str]]:
    """Cells of the lines that start with a length."""
    lines = (line.split() for line in text.splitlines())
    return [cells for cells in lines if cells and cells[0][0].isdigit()]


RECORDS = [record(1000, 0), record(10, 16), record(100, 12)]


def test_rows_are_sorted_and_say_what_was_measured():
    # Wilson, worked out in test_metrics: 16/16 -> 80.6, 0/16 -> 19.4; 12/16 by the formula:
    # (0.75 + 0.12005 -+ 1.96 sqrt(0.1875 / 16 + 3.8415 / 1024)) / 1.24009 = 0.5050, 0.8982.
    assert rows(render(records_table(RECORDS, train_length=10))) == [
        ["10*", "100%", "(80.6-100)", "100%", "100%", "16", "—"],
        ["100", "75.0%", "(50.5-89.8)", "75.0%", ">99.99%", "16", "carry_out", "@1,500"],
        ["1,000", "0%", "(0-19.4)", "0%", ">99.99%", "16", "carry_out", "@15,000"],
    ]


def test_training_length_and_title():
    text = render(records_table(RECORDS, train_length=10))
    assert "* trained up to 10" in text
    assert "addition, interactive, local, rollout" in text
    assert "trained" not in render(records_table(RECORDS))
    assert "[5 digits]" in render(records_table(RECORDS, title="Addition [5 digits]"))


def test_colours_follow_the_exact_match():
    text = render(records_table(RECORDS), force_terminal=True, color_system="standard", no_color=False)
    green, yellow, red = "\x1b[32m  100%", "\x1b[33m 75.0%", "\x1b[31m    0%"
    assert all(code in text for code in (green, yellow, red))


def test_curves_get_sections_named_by_their_differences():
    records = [
        *RECORDS,
        record(10, 16, evaluator="verify", answer_accuracy=None),
        record(10, 16, task="multiplication", variant="n x 2"),
    ]
    lines = [line.strip() for line in render(records_table(records)).splitlines()]
    headings = [line for line in lines if line.startswith(("addition", "multiplication"))]
    assert headings == ["addition, rollout", "addition, verify", "multiplication, n x 2, rollout"]
    assert "interactive, local" in lines
    verify = rows("\n".join(lines[lines.index("addition, verify") :]))[0]
    assert verify == ["10", "100%", "(80.6-100)", "—", "100%", "16", "—"]


def test_styles_of_one_task_stay_apart():
    text = render(records_table([record(10, 16, style="local"), record(10, 0, style="paper")]))
    assert [line.strip() for line in text.splitlines() if line.strip() in ("local", "paper")] == ["local", "paper"]


@pytest.mark.parametrize("evaluators", [["rollout"], ["rollout", "verify"]])
def test_nothing_is_cut_at_80_columns(evaluators):
    records = [
        record(1_000_000, 999, 1000, evaluator=e, first_error={"position": 35_123_456, "phase": "walk_to_answer"})
        for e in evaluators
    ]
    text = render(records_table(records, train_length=20))
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    for part in ("1,000,000", "99.9% (99.4->99.9)", ">99.99%", "1,000 ", "walk_to_answer", "@35,123,456"):
        assert text.count(part) >= len(evaluators), part


def test_no_records():
    text = render(records_table([], train_length=10))
    assert "accuracy by length" in text and "no problems were evaluated" in text


@pytest.mark.parametrize(
    ("rate", "digits", "text"),
    [
        (1.0, 1, "100%"),
        (0.0, 2, "0%"),
        (0.9375, 1, "93.8%"),
        (0.99949, 1, "99.9%"),
        (0.9996, 1, ">99.9%"),
        (0.9996, 2, "99.96%"),
        (1 - 1e-9, 2, ">99.99%"),
        (0.0004, 1, "<0.1%"),
        (0.0006, 1, "0.1%"),
        (None, 1, "—"),
    ],
)
def test_percent_is_100_or_0_only_where_it_is_exact(rate, digits, text):
    assert percent(rate, digits) == text


def test_percent_never_rounds_to_the_ends():
    rates = [i / 100_000 for i in range(1, 100_000)]
    assert not {percent(r) for r in rates} & {"100%", "100.0%", "0%", "0.0%"}
