"""Where models err first against how far back each phase looks, and the beacons' table: on results made up by hand."""

import json

import pytest

from length_gen.lightning_modules.reporting.beacons import beacons
from length_gen.lightning_modules.reporting.first_errors import failures, grouped, rates
from length_gen.lightning_modules.reporting.report import report
from length_gen.lightning_modules.reporting.results import curves, read_runs

NEEDS = {  # at lengths 5 and 20: 30 of 40 decisions, then 20 of 80, lie in the phase that looks furthest back
    5: {"walk": {"decisions": 10, "need": 3}, "add": {"decisions": 30, "need": 9}},
    20: {"walk": {"decisions": 20, "need": 60}, "add": {"decisions": 60, "need": 9}},
}


def write(folder, name, errors, style="paper", experiment="addition_5", backbone="mamba 2x64", **record):
    """A model with 10 problems a length; errors: length -> first errors by phase."""
    records = [{"task": "addition", "variant": "", "setting": "interactive", "style": style, "evaluator": "verify",
                "length": n, "problems": 10, "exact_match": 1 - sum(found.values()) / 10, "first_error_phases": found}
               | record for n, found in errors.items()]
    path = folder / experiment / f"{name}.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps({"experiment": experiment, "backbone": backbone, "command": "", "commit": "",
                                "device": "", "seed": int(name.partition("seed")[2][0]), "records": records}))


def analysis(style="paper", verdict="growing like n: 60 tokens at 20", needs=NEEDS):
    return {"task": "addition", "setting": "interactive", "style": style, "verdicts": {"": verdict},
            "records": [{"length": n, "variant": "", "horizon": max(one["need"] for one in found.values()),
                         "phases": {"walk": 1}, "needs": found} for n, found in needs.items()]}


def test_hits_and_what_chance_would_give(tmp_path):
    write(tmp_path, "a_seed1", {5: {}, 10: {"walk": 1, "add": 3}, 50: {"walk": 10}})   # at 10: by the needs at 5
    write(tmp_path, "a_seed2", {5: {}, 10: {}, 50: {"walk": 6, "add": 2}})             # at 50: by those at 20
    write(tmp_path, "b_seed1", {5: {"walk": 1}, 50: {"walk": 10}})                     # has not learnt its lengths
    write(tmp_path, "c_seed1", {5: {}, 10: {}, 50: {}})                                # fails nowhere
    write(tmp_path, "d_seed1", {5: {}, 10: {}, 50: {"add": 9}}, backbone="pythia 2x64")
    write(tmp_path, "e_seed1", {5: {}, 50: {"walk": 9}}, backbone="suffix 8")          # is no trained model
    write(tmp_path, "f_seed1", {5: {}, 50: {"walk": 9}}, style="local")
    write(tmp_path, "g_seed1", {5: {}, 50: {"": 9}})
    cases, left = failures(read_runs(tmp_path), [analysis()])
    assert left == {"trajectories whose horizon is not analysed": 1, "no first errors in the record": 1}
    found = {(one.recipe, one.length): one for one in cases}
    assert found.keys() == {("a", 10), ("a", 50), ("b", 5), ("d", 50)}
    assert [(one.deepest, one.need, one.base, one.hit, one.learnt) for one in found.values()] == [
        (("add",), 9, 0.75, 0.75, True), (("walk",), 60, 0.25, 0.75, True), (("add",), 9, 0.75, 0.0, False),
        (("walk",), 60, 0.25, 0.0, True)]
    groups = grouped(cases)
    assert {name: (one.models, one.recipes, one.hit, one.base) for name, one in groups.items()} == {
        "horizon grows, fixed memory": (2, 1, 0.75, 0.5), "horizon grows, attention": (1, 1, 0.0, 0.25),
        "not exact at the training length": (1, 1, 0.0, 0.75)}


def test_the_interval_is_over_recipes_not_over_their_seeds(tmp_path):
    """Two recipes, one of which hits always and one never: of two draws with return both are one in a quarter."""
    for seed in range(1, 9):
        write(tmp_path, f"a_seed{seed}", {5: {}, 50: {"walk": 10}})
        write(tmp_path, f"b_seed{seed}", {5: {}, 50: {"add": 10}})
    one = rates(failures(read_runs(tmp_path), [analysis()])[0])
    assert (one.models, one.recipes, one.hit, one.difference) == (16, 2, 0.5, 0.25)
    assert (one.low, one.high) == (-0.25, 0.75)


def test_a_rollout_counts_where_it_is_and_hard_problems_do_not(tmp_path):
    write(tmp_path, "a_seed1", {5: {}, 50: {"walk": 10}}, problem_set="structured")
    assert failures(read_runs(tmp_path), [analysis()]) == ([], {})
    write(tmp_path, "b_seed1", {5: {}, 50: {"walk": 10}})
    write(tmp_path, "b_seed1_rollout", {50: {"add": 10}}, evaluator="rollout")
    case, = failures(read_runs(tmp_path), [analysis()])[0]
    assert case.errors == {"add": 10}


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    write(folder, "a_seed1", {5: {}, 10: {}, 50: {"walk": 6, "add": 2}})
    for style, found in (("beacons_8", {}), ("beacons_64", {"walk": 10}), ("paper", {"walk": 10})):
        for seed in (1, 2):
            write(folder, f"2x64_{style}_seed{seed}", {10: {}, 100: found, 10000: found}, style,
                  "addition_beacons_5")
    (folder / "horizon").mkdir()
    for style, verdict in (("paper", "growing like n: 60 tokens at 20"), ("beacons_8", "bounded: 10 tokens")):
        (folder / "horizon" / f"{style}.json").write_text(json.dumps(analysis(style, verdict)))
    return folder


def test_the_beacons_rows_are_in_the_order_of_k(results):
    rows = beacons(curves(read_runs(results)), [analysis(), analysis("beacons_8", "bounded: 10 tokens")])
    assert [(row["K"], row["horizon"], row["exact"], row["each"]) for row in rows] == [
        ("8", "60", "\N{GREATER-THAN OR EQUAL TO} 10,000", "10,000, 10,000"), ("64", "\N{EM DASH}", "10", "10, 10"),
        ("\N{EM DASH}", "60, growing", "10", "10, 10")]


def test_the_main_page_shows_both_and_another_document_its_numbers(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "science.md").write_text(
        "They hit in 1% of cases.\n\n<!-- table: beacons -->\n<!-- end -->\n")
    (tmp_path / "docs" / "claims.yaml").write_text(
        "documents:\n  docs/science.md:\n    claims:\n"
        "    - says: They hit in {:.0%} of cases\n      from: first_errors\n"
        "      values: ['\"horizon grows, fixed memory\".hit']\n"
        "    tables:\n      beacons: {from: beacons, rows: '@', columns: {K: '{K}', exact: '{exact}'}}\n")
    report("results", "docs/results.md")
    text = (tmp_path / "docs" / "results.md").read_text()
    assert "| addition | 5 | 2x64 | 8 | 60 | 2 | \N{GREATER-THAN OR EQUAL TO} 10,000 | 10,000, 10,000 |" in text
    assert "| horizon grows, fixed memory | 3 | 2 | 92% | 25% | +67% (+50% to +75%) |" in text
    assert "| addition | paper | yes | 3 | 60 | walk | 25% | 92% | walk 92%, add 8% |" in (
        tmp_path / "docs" / "results" / "first_errors.md").read_text()
    for name in ("beacons", "first_errors"):
        assert (tmp_path / "docs" / "results" / "figures" / f"{name}.svg").is_file()
    science = (tmp_path / "docs" / "science.md").read_text()
    assert "They hit in 92% of cases" in science and "| 64 | 10 |" in science
    report("results", "docs/results.md", check=True)
