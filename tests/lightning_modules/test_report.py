import json

import pytest

from lightning_modules.report import curves, read_runs, report
from tools import UserError


def write(folder, name, exact, style="local", **facts):
    """A file of results with one record a length, of 10 problems."""
    records = [{"task": "addition", "variant": "", "setting": "interactive", "style": style, "evaluator": "rollout",
                "length": n, "problems": 10, "exact_match": e, "exact_match_low": 0, "exact_match_high": 1,
                "first_error_phases": {} if e == 1 else {"add": round(10 * (1 - e))}} for n, e in exact.items()]
    path = folder / "addition_5" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"experiment": "addition_5", "backbone": "mamba 2x64", "command": f"make {name}",
                                "commit": "abc", "device": "a CPU", **facts, "records": records}))


def test_every_seed_counts(tmp_path):
    write(tmp_path, "small_seed1", {10: 1.0, 100: 1.0, 1000: 1.0}, seed=1)
    write(tmp_path, "small_seed2", {10: 1.0, 100: 0.0}, seed=2)  # 1,000 was not tried
    write(tmp_path, "small_seed3", {10: 1.0, 100: 0.9, 1000: 0.3}, seed=3)
    curve, = curves(read_runs(tmp_path))
    assert curve.exact == {10: [1, 1, 1], 100: [1, 0, 0.9], 1000: [1, 0, 0.3]}
    assert curve.errors == {"add": 11} and [r.perfect for r in curve.reaches] == [1000, 10, 10]


def test_the_page_has_paper_and_own_results_and_says_what_is_missing(tmp_path):
    results = tmp_path / "results"
    results.mkdir()
    write(results, "small_seed1", {10: 1.0, 1000: 1.0}, seed=1)
    write(results, "small_seed2", {10: 1.0, 1000: 0.3}, seed=2)
    (results / "paper.yaml").write_text(
        "rows:\n- {what: Figure 2, task: addition, backbone: mamba, trained: 5, paper: all right}\n"
        "- {what: Figure 2, task: addition, backbone: lstm, trained: 5, paper: all right}\n")
    page = tmp_path / "docs" / "results.md"
    report(str(results), str(page))
    text = page.read_text()
    assert "| 1, 2 | 100% | 65% (30\N{EN DASH}100) | add (7) |" in text
    assert "`make small_seed1` (commit abc, a CPU)" in text
    assert "**Missing** (3): Figure 2: mamba, paper; Figure 2: lstm, paper; Figure 2: lstm, local." in text
    assert (tmp_path / "docs/figures/addition_5_interactive_0.png").stat().st_size > 5000


def test_broken_files_are_named(tmp_path):
    write(tmp_path, "small_seed1", {10: 1.0})
    (tmp_path / "addition_5" / "other.json").write_text('{"records": [')
    with pytest.raises(UserError, match=r"other\.json is not JSON"):
        read_runs(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        report(str(tmp_path / "nothing"))
