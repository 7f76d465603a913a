import json
import os

import pytest

from length_gen.lightning_modules.reporting.claims import paper_rows
from length_gen.lightning_modules.reporting.report import benchmark_section, natural, report
from length_gen.lightning_modules.reporting.results import curves, read_runs
from length_gen.tools import UserError


def write(folder, name, exact, style="local", evaluator="rollout", experiment="addition_5", setting="interactive",
          **facts):
    """A file of results with one record a length, of 10 problems."""
    records = [{"task": "addition", "variant": "", "setting": setting, "style": style, "evaluator": evaluator,
                "length": n, "problems": 10, "exact_match": e, "exact_match_low": 0, "exact_match_high": 1,
                "first_error_phases": {} if e == 1 else {"add": round(10 * (1 - e))}} for n, e in exact.items()]
    path = folder / experiment / f"{name}.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps({"experiment": "addition_5", "backbone": "mamba 2x64", "command": f"make {name}",
                                "commit": "abc", "device": "a CPU", "seed": 1, **facts, "records": records}))


def test_every_seed_counts(tmp_path):
    write(tmp_path, "small_seed1", {10: 1.0, 100: 1.0, 1000: 1.0}, seed=1)
    write(tmp_path, "small_seed2", {10: 1.0, 100: 0.0}, seed=2)  # stopped there: 1,000 counts as 0
    write(tmp_path, "small_seed3", {10: 1.0, 100: 0.9, 1000: 0.3}, seed=3)
    write(tmp_path, "small_seed4", {10: 1.0, 100: 1.0}, seed=4)  # was not asked for 1,000: no opinion
    curve, = curves(read_runs(tmp_path))
    assert [curve.at(n) for n in (10, 100, 1000)] == [[1, 1, 1, 1], [1, 0, 0.9, 1], [1, 0, 0.3]]
    assert curve.errors == {"add": 11} and curve.exact_to() == [1000, 10, 10, 100] and curve.perfect() == (10, 4)
    assert curve.reaches() == [(10, 1.0), (100, 1.0), (1000, 0.3), (1000, 1.0)] and curve.median_reach() == (100, 1.0)
    assert curve.interval(100) == (0, 1)


def test_one_seed_has_the_interval_of_its_problems(tmp_path):
    write(tmp_path, "small_seed1", {10: 1.0})
    curve, = curves(read_runs(tmp_path))
    assert curve.interval(10) == pytest.approx((0.7225, 1), abs=1e-4)  # Wilson, 10 of 10


def test_a_trained_model_stands_in_one_curve_whatever_evaluated_it(tmp_path):
    write(tmp_path, "a_seed1", {10: 1.0, 100: 0.5})
    write(tmp_path, "a_seed1_rollout", {10: 1.0}, evaluator="verify")
    write(tmp_path, "a_seed2", {10: 1.0, 100: 1.0, 1000: 0.0}, seed=2, evaluator="verify")
    write(tmp_path, "b_seed1", {10: 1.0, 100: 0.5})
    write(tmp_path, "b_seed1_rollout", {10: 0.9, 100: 0.5, 1000: 0.2}, evaluator="verify")
    a, b = curves(read_runs(tmp_path))
    assert (a.recipe, a.evaluator, a.at(100)) == ("a", "rollout (1 of 2 seeds), verify", [0.5, 1.0])
    assert a.seeds == "2 seeds" and [a.seed_of(0), a.seed_of(1)] == [1, 2]
    assert (b.evaluator, b.at(10), b.at(1000)) == ("rollout, verify; they differ at 10", [1.0], [0.2])


def test_two_results_of_one_model_are_refused(tmp_path):
    write(tmp_path, "a_seed1", {10: 1.0, 100: 0.5})
    write(tmp_path, "a_seed1_rollout", {100: 0.4})
    with pytest.raises(UserError, match=r"addition_5/a_seed1.* second result of seed 1 at length 100: remove one"):
        curves(read_runs(tmp_path))


@pytest.fixture
def page(tmp_path):
    results = tmp_path / "results"
    write(results, "small_seed1", {10: 1.0, 1000: 1.0}, seed=1)
    write(results, "small_seed2", {10: 1.0, 1000: 0.3}, seed=2)
    write(results, "hard_seed1", {10: 0.8, 1000: 0.0}, style="paper")
    write(results, "direct_seed1", {5: 1.0, 10: 0.1}, setting="direct")
    write(results, "small_corrupted5_seed1", {10: 1.0, 1000: 0.7}, experiment="addition_noise_5")
    for n in (1, 5, 20):
        write(results, "small_seed1", {10: 1.0, 50 * n: 1.0, 2000: 0.1}, experiment=f"addition_scaling_{n}")
    for steps in (100, 800):
        write(results, f"{steps}steps_seed1", {10: 1.0, steps: 1.0, 2000: 0.0}, experiment="addition_steps_5")
    (results / "horizon").mkdir()
    for style, verdict in (("local", "bounded: 7 tokens"), ("paper", "growing like n: 606 tokens at 200")):
        (results / "horizon" / f"{style}.json").write_text(json.dumps({
            "task": "addition", "setting": "interactive", "style": style, "verdicts": {"": verdict},
            "records": [{"length": 2, "horizon": 7, "variant": "", "phases": {"add": 1}}]}))
    (results / "paper.yaml").write_text(
        "rows:\n- {what: Figure 2, task: addition, backbone: mamba, trained: 5, paper: '5 -> 1,000 (100%)'}\n"
        "- {what: Figure 2, task: addition, backbone: lstm, trained: 5, paper: all right}\n")
    report(str(results), str(tmp_path / "docs" / "results.md"))
    return tmp_path / "docs"


def test_the_page_has_paper_and_own_results_and_says_what_is_missing(page):
    text = (page / "results.md").read_text()
    assert "| 10 | 1, 2 | 100% | 65% (30\N{EN DASH}100) | add (7) |" in text.replace(f"| {chr(8212)} ", "")
    assert "`make small_seed1` (commit abc, a CPU, stream 1)" in text
    assert ("| Figure 2 | mamba | 5 -> 1,000 (100%) | 5 -> 1,000 (30%), 2 seeds (1,000 (30%) to 1,000 (100%)); "
            "mamba 2x64 | 5 -> 10 (80%), 1 seed; mamba 2x64 |") in text
    assert "**Missing** (2): Figure 2: lstm (local), lstm (paper)." in text
    assert len(list((page / "figures").glob("addition_5_interactive_*.png"))) == 2


def test_the_page_says_where_ours_is_below_the_paper_and_why(page):
    text = (page / "results.md").read_text()
    assert ("**Figure 2, mamba, style paper**: 5 -> 10 (80%), 1 seed; mamba 2x64 (hard); the paper: "
            "5 -> 1,000 (100%). First errors in add (2); horizon growing like n: 606 tokens at 200.") in text
    assert "Style local: in 0 of 1 rows" in text


def test_claims_are_made_of_numbers(page):
    text = (page / "results.md").read_text()
    assert "Setting `direct`: no seed of 1 task passes 2.0 times its training length (addition: 5 -> 10 (10%))" in text
    assert "median reach: addition small_corrupted5 1,000 (70%), 1 seed." in text
    assert ("Horizon bounded, up to 25 tokens, known without training: of 2 trained Mambas (each kind of problem "
            "counted) that are exact up to the training length, 1 are exact up to the largest length tried (0 more are "
            "not exact at the training length); those that are not: addition small (seed 2: 10 of 1,000).") in text
    assert "Horizon growing" not in text.partition("## Against")[0]  # the one run with one has learnt nothing


def test_growth_has_its_tables_and_pictures(page):
    text = (page / "results.md").read_text()
    assert "| recipe | 1 | 5 | 20 |\n|---|---|---|---|\n| small | 50 | 250 | 1,000 |" in text
    assert "| recipe | 100 | 800 |\n|---|---|---|\n| up to 5 | 100 | 800 |" in text
    assert len(list((page / "figures").glob("growth_*.png"))) == 2


def test_labels_are_in_the_order_of_their_numbers():
    assert sorted(["local, up to 10", "paper", "local, up to 5"], key=natural) == [
        "local, up to 5", "local, up to 10", "paper"]


def test_style_paper_has_a_table_of_sizes_and_training_tokens(tmp_path):
    for name, size, tokens, reach in (("small", 100, 9000, 10), ("large", 9000, 9000, 20), ("large_long", 9000, 99, 5)):
        write(tmp_path / "results", f"{name}_seed1", {5: 1.0, reach: 1.0, 1000: 0.1}, style="paper",
              evaluator="verify", parameters=size, train_tokens=tokens)
    report(str(tmp_path / "results"), str(tmp_path / "results.md"))
    rows = (tmp_path / "results.md").read_text().partition("size and training tokens")[2].splitlines()[6:9]
    assert [(row.split(" | ")[2], row.split(" | ")[-1]) for row in rows] == [
        ("small", "10 |"), ("large_long", "5 |"), ("large", "20 |")]


def test_style_paper_has_a_figure_of_mambas_by_size(tmp_path):
    def draw():
        report(str(tmp_path / "results"), str(tmp_path / "results.md"))
        return "growth_size_paper.png" in (tmp_path / "results.md").read_text()

    for name, size, tokens in (("small", 104, 9000), ("middle", 905, 9100), ("large", 9050, 99)):
        write(tmp_path / "results", f"{name}_seed1", {5: 1.0, 1000: 0.1}, style="paper", evaluator="verify",
              parameters=size, train_tokens=tokens)
    assert not draw()  # the large one was not trained as long
    write(tmp_path / "results", "large_long_seed1", {5: 1.0, 1000: 1.0}, style="paper", evaluator="verify",
          parameters=9050, train_tokens=9000)
    assert draw() and (tmp_path / "figures/growth_size_paper.png").is_file()


def test_rows_of_a_benchmark_name_their_runs(tmp_path):
    own = {"command": "time b", "commit": "b1", "device": "a GPU", "versions": {"torch": "2"}}
    (tmp_path / "some.json").write_text(json.dumps({"command": "time a", "commit": "a1", "device": "a CPU", "records": [
        {"what": "first", "ours": 1}, {"what": "second", "ours": 2} | own]}))
    text = "\n".join(benchmark_section("Benchmarks", tmp_path, tmp_path))
    assert "- `time a` (commit a1, a CPU)\n- `time b` (commit b1, a GPU)\n" in text
    assert "| what | ours | commit | device |" in text and "| second | 2 | b1 | a GPU |" in text


def test_a_run_that_diverged_is_counted_and_said_so(tmp_path):
    """Two seeds at 100% and one that stopped at 0% at the first length: the reach of the three, in every table."""
    results = tmp_path / "results"
    for seed, exact in ((1, {10: 1.0, 100: 1.0}), (2, {10: 0.0}), (3, {10: 1.0, 100: 1.0})):
        for name in ("small", "large"):
            write(results, f"{name}_seed{seed}", exact, seed=seed, diverged=seed == 2, style="paper", parameters=99,
                  train_tokens=9, evaluator="verify", train_loss=None if seed == 2 else 0.1)
        write(results, f"small_corrupted5_seed{seed}", exact, experiment="addition_noise_5", seed=seed,
              diverged=seed == 2)
    (results / "paper.yaml").write_text(
        "rows:\n- {what: Figure 2, task: addition, backbone: mamba, trained: 5, paper: '5 -> 100 (100%)'}\n")
    report(str(results), str(tmp_path / "results.md"))
    text = (tmp_path / "results.md").read_text()
    assert "5 -> 100 (100%), 3 seeds, 1 of them diverged (0 to 100 (100%)); mamba 2x64" in text
    tables = [line for line in text.splitlines() if line.startswith("|") and "small" in line]
    assert len(tables) == 4 and sum("| 1, 2 (diverged), 3 |" in line for line in tables) == 4
    assert f"| 100% (0{chr(8211)}100) | 100% (0{chr(8211)}100) |" in text
    assert "small_corrupted5 100 (100%), 3 seeds, 1 of them diverged" in text
    assert "9 tokens, stream 1, diverged)" in text and "9 tokens, stream 1, loss 0.1 at its end)" in text


@pytest.mark.parametrize("folder", ["odd name", "addition", "addition_0", "addition_\N{SUPERSCRIPT TWO}", "addition_x",
                                    "addition_scaling_x", "b_5"])
@pytest.mark.parametrize("known", ["addition_5", "addition"])
def test_folders_may_have_any_name(tmp_path, folder, known):
    """The training length is in the files too; where it is in neither, nothing is said of it."""
    for setting in ("interactive", "direct"):
        for steps in (150, 300):
            write(tmp_path / "results", f"{setting}_{steps}steps_seed1", {10: 1.0, 100: 0.2}, experiment=folder,
                  setting=setting, parameters=9, train_tokens=9)
    for path in (tmp_path / "results" / folder).iterdir():
        path.write_text(path.read_text().replace('"experiment": "addition_5"', f'"experiment": "{known}"'))
    report(str(tmp_path / "results"), str(tmp_path / "results.md"))
    text = (tmp_path / "results.md").read_text()
    assert "| 100% | 20% |" in text
    assert ("(addition: 5 -> 100 (20%))" in text) == (known == "addition_5" or folder == "b_5")


def test_broken_files_are_named(tmp_path):
    write(tmp_path, "small_seed1", {10: 1.0})
    (tmp_path / "addition_5" / "other.json").write_text('{"records": [')
    with pytest.raises(UserError, match=r"other\.json is not JSON"):
        read_runs(tmp_path)
    with pytest.raises(UserError, match="there is no folder"):
        report(str(tmp_path / "nothing"))


@pytest.mark.parametrize(("folder", "content", "words"), [
    ("add_5", '{"records": 3}', "records, a list of mappings"), ("add_5", '{"records": [1]}', "list of mappings"),
    ("add_5", '{"records": [{"task": "a", "exact_match": "b"}]}', "a record that is none"),
    ("add_5", "[" * 10**5, "nested too deeply"),
    ("horizon", '{"task": "a"}', "expected task, setting, style, verdicts"),
    ("horizon", '{"task": "", "setting": "", "style": "", "verdicts": {}, "records": [{"length": 1}]}',
     "with horizon, length, variant, phases"), ("benchmarks", '{"records": "ab"}', "list of mappings"),
    ("add_5", None, "regular")])
def test_a_file_that_holds_no_results_gets_one_line(folder, content, words, tmp_path):
    path = tmp_path / folder / "a_seed1.json"
    path.parent.mkdir()
    os.mkfifo(path) if content is None else path.write_text(content)
    with pytest.raises(UserError, match=rf"{path} (holds|is not JSON).*{words}.*make it again$"):
        report(str(tmp_path), str(tmp_path / "out.md"))


@pytest.mark.parametrize("content", ["a", "rows: 3", "rows: [1]", "rows: [{task: a}]", "rows: {"])
def test_a_file_of_the_papers_numbers_that_is_none_gets_one_line(content, tmp_path):
    (tmp_path / "paper.yaml").write_text(content)
    with pytest.raises(UserError, match=r"paper\.yaml (does not hold the paper's rows|holds a row without task)"):
        report(str(tmp_path), str(tmp_path / "out.md"))


def test_no_result_decides_which_recipe_stands_beside_the_papers(tmp_path):
    results = tmp_path / "results"
    write(results, "far_seed1", {10: 1.0, 1000: 1.0}, train_tokens=9)
    for seed in (1, 2):
        write(results, f"short_seed{seed}", {10: 1.0, 1000: 0.0}, seed=seed, train_tokens=9)
        write(results, f"long_seed{seed}", {10: 1.0, 1000: 0.2}, seed=seed, train_tokens=99)
    (results / "paper.yaml").write_text(
        "rows:\n- {what: Figure 2, task: addition, backbone: mamba, trained: 5, paper: '5 -> 1,000 (10%)'}\n")
    first = []
    for more in ("", "paper_mamba_seed1"):
        if more:
            write(results, more, {10: 0.0}, train_tokens=1)
        row, = paper_rows(curves(read_runs(results)), results / "paper.yaml")
        first.append([c.recipe for c in row["ours"]["local"]])
    assert first == [["long", "short", "far"], ["paper_mamba", "long", "short", "far"]]
