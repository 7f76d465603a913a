import json
import os
import re

import pytest

from length_gen.lightning_modules.reporting.claims import farthest, paper_rows
from length_gen.lightning_modules.reporting.details import (
    benchmark_page,
    certificates_figure,
    experiment_pages,
    phase_figure,
)
from length_gen.lightning_modules.reporting.pages import Pages
from length_gen.lightning_modules.reporting.plots import seeds_figure
from length_gen.lightning_modules.reporting.report import report
from length_gen.lightning_modules.reporting.results import curves, read_runs
from length_gen.lightning_modules.reporting.text import course, natural
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
    assert curve.errors == {"add": 11} and curve.exact_to() == [1000, 10, 10, 100]
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
    assert ("| Figure 2 | mamba | 5 -> 1,000 (100%) | 1,000 (30%), 2 seeds, 2x64 | 10 (80%), 1 seed, 2x64 |") in text
    assert "Not measured at all: Figure 2 lstm." in text
    assert "in 0 of 1 rows of its tables that were measured; where" in text and "(style `paper`), in 0 of 1.**" in text
    assert "by its own recipe (sizes, style, 2,000 steps): 0 of 2 cells" in text  # no recipe is the paper's


def test_an_experiment_has_its_page_whose_seeds_lead_to_their_files(page):
    text = (page / "results" / "addition_5.md").read_text()
    assert ("| small | addition | mamba 2x64 | 100% to 10, 30% (30\N{EN DASH}100) at 1,000 | "
            "[1](../../results/addition_5/small_seed1.json), "
            "[2](../../results/addition_5/small_seed2.json) | add (7) |") in text
    assert "make small_seed1" not in text and "evaluator: rollout; problems a length: 10." in text
    assert (page / "results" / "../../results/addition_5/small_seed1.json").is_file()


def test_the_pages_say_where_ours_is_below_the_paper_and_why(page):
    assert "- Style paper, below the paper: Figure 2: mamba." in (page / "results.md").read_text()
    assert ("first errors in add (2); horizon growing like n: 606 tokens at 200"
            ) in (page / "results/against_paper.md").read_text()


def test_claims_are_made_of_numbers_and_what_speaks_against_comes_first(page):
    text = (page / "results.md").read_text()
    assert "Setting `direct`: no seed of 1 task passes 2.0 times its training length (addition: 5 -> 10 (10%))" in text
    assert "shortens the median reach" not in text  # corrupted5 has 70% at the largest length
    assert ("- Horizon bounded, up to 25 tokens: of 2 trained Mambas (each kind of problem counted) that are exact up "
            "to the training length, 1 are exact up to the largest length tried. Those that are not:\n"
            "  - addition small (seed 2: 10 of 1,000)\n") in text
    assert "Horizon growing" not in text  # the one run with one has learnt nothing
    assert text.index("## What speaks against it") < text.index("## What speaks for it") < text.index("## Against")


def test_growth_has_its_tables_and_picture(page):
    text = (page / "results/growth.md").read_text()
    assert "| recipe | 1 | 5 | 20 |\n|---|---|---|---|\n| small | 50 | 250 | 1,000 |" in text
    assert "| recipe | 100 | 800 |\n|---|---|---|\n| up to 5 | 100 | 800 |" in text
    assert "results/figures/growth_addition.svg" in (page / "results.md").read_text()


def test_every_link_leads_somewhere_and_every_figure_is_shown(page):
    shown = set()
    for path in [page / "results.md", *(page / "results").glob("*.md")]:
        for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
            assert (path.parent / target).is_file(), f"{path} leads to {target}"
            shown.add((path.parent / target).resolve())
    assert {path.resolve() for path in (page / "results/figures").iterdir()} <= shown


def test_the_check_finds_what_a_report_would_change(page):
    results, out = str(page.parent / "results"), page / "results.md"
    report(results, str(out), check=True)
    text, notes = out.read_text(), page / "results/notes.md"
    notes.write_text("a page of one's own")
    for path, content in ((out, text.replace("2 seeds", "3 seeds")), (page / "results/old.md", text),
                          (page / "results/figures/old.svg", "")):
        before = path.read_text() if path.is_file() else None
        path.write_text(content)
        with pytest.raises(UserError, match=f"^{path} is (made no more: remove it|not what .* gives)[^;]*$"):
            report(results, str(out), check=True)
        path.write_text(before) if before else path.unlink()
    (page / "results/figures/sizes.svg").touch()
    report(results, str(out))
    assert notes.is_file()


def test_a_report_fills_in_the_documents_of_the_claims_beside_it_and_the_check_fails_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "results", "small_seed1", {10: 1.0, 1000: 1.0})
    (tmp_path / "README.md").write_text("Exact to 10 digits with 1 of 9 seeds.")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/claims.yaml").write_text("""documents:
  README.md:
    claims:
    - {says: "Exact to {:,} digits", from: curves, values: ["[?recipe=='small'] | [0].exact_to[0]"]}
""")
    report(queue="none")
    assert (tmp_path / "README.md").read_text().startswith("Exact to 1,000 digits with 1 of 9")
    with pytest.raises(UserError, match=r"^README\.md: no record is named for 1 in: .*; .* for 9 in: [^;]*$"):
        report(queue="none", check=True)


def test_pages_never_go_into_the_folder_of_results(tmp_path):
    write(tmp_path / "results", "a_seed1", {10: 1.0})
    with pytest.raises(UserError, match=r"would go into .*results, the folder of results: give another --out"):
        report(str(tmp_path / "results"), str(tmp_path / "results.md"))


def test_no_length_is_given_that_nobody_ran(tmp_path):
    """Two seeds, exact to 50 and to 1,000: the one in the middle is the lower one, not a mean of 525."""
    for seed, exact in ((1, {10: 1.0, 50: 1.0, 1000: 0.4}), (2, {10: 1.0, 50: 1.0, 1000: 1.0})):
        write(tmp_path / "results", f"2steps_seed{seed}", exact, seed=seed, style="paper", parameters=9, train_tokens=9)
        write(tmp_path / "results", f"4steps_seed{seed}", exact, seed=seed, style="paper", parameters=9, train_tokens=9)
    report(str(tmp_path / "results"), str(tmp_path / "out.md"))
    text = "".join(path.read_text() for path in [tmp_path / "out.md", *(tmp_path / "out").glob("*.md")])
    assert "525" not in text and "50 (50\N{EN DASH}\N{GREATER-THAN OR EQUAL TO} 1,000)" in text
    assert "100% to 50, 40% (40\N{EN DASH}100) at 1,000" in text


def test_seeds_stand_in_the_order_of_their_numbers(tmp_path):
    for seed in (42, 5, 1):
        write(tmp_path / "results", f"a_seed{seed}", {10: 1.0}, seed=seed)
    pages = Pages(tmp_path / "results", tmp_path / "out.md")
    experiment_pages(pages, curves(read_runs(tmp_path / "results")))
    assert re.findall(r"\[(\d+)\]", pages.texts[tmp_path / "out/addition_5.md"]) == ["1", "5", "42"]


def test_a_file_of_rollouts_is_no_model_of_its_own(tmp_path):
    write(tmp_path / "results", "a_seed1", {10: 1.0}, evaluator="verify")
    write(tmp_path / "results", "a_seed1_rollout", {10: 1.0})
    write(tmp_path / "results", "a_seed2", {10: 1.0}, seed=2, evaluator="verify")
    report(str(tmp_path / "results"), str(tmp_path / "out.md"))
    assert "2 trained models in" in (tmp_path / "out.md").read_text()


def test_labels_are_in_the_order_of_their_numbers():
    assert sorted(["local, up to 10", "paper", "local, up to 5"], key=natural) == [
        "local, up to 5", "local, up to 10", "paper"]


def test_style_paper_has_a_table_and_a_figure_of_the_sizes_that_were_trained_longest(tmp_path):
    def draw():
        report(str(tmp_path / "results"), str(tmp_path / "out.md"))
        return (tmp_path / "out.md").read_text()

    for name, size, tokens in (("small", 104, 9000), ("middle", 905, 9100), ("large", 9050, 99)):
        write(tmp_path / "results", f"{name}_seed1", {5: 1.0, 1000: 0.1}, style="paper", evaluator="verify",
              parameters=size, train_tokens=tokens)
    text = draw()
    assert "sizes.svg" not in text  # the large one was not trained as long
    assert [line.split(" | ")[3] for line in text.splitlines() if line.startswith("| addition | 2x64")] == [
        "small", "middle"]
    for name, reach in (("large_long", 1.0), ("large_other", 0.0)):  # no recipe is picked
        write(tmp_path / "results", f"{name}_seed1", {5: 1.0, 1000: reach}, style="paper", evaluator="verify",
              parameters=9050, train_tokens=9000)
    text = draw()
    assert (tmp_path / "out/figures/sizes.svg").is_file() and "out/figures/sizes.svg" in text
    assert [line.split(" | ")[3:] for line in text.splitlines() if " | 9,050 | " in line] == [
        ["large_long", "1", "\N{GREATER-THAN OR EQUAL TO} 1,000 |"], ["large_other", "1", "5 |"]]


def test_how_far_is_said_of_all_models_and_none_is_picked(tmp_path):
    write(tmp_path, "good_seed1", {10: 1.0, 1000: 1.0})
    write(tmp_path, "bad_seed1", {10: 1.0, 1000: 0.9})
    write(tmp_path, "long_seed1", {10: 1.0, 5000: 1.0}, experiment="addition_long_5")
    write(tmp_path, "corrupted_seed1", {10: 0.0}, experiment="addition_noise_5")
    far = farthest(curves(read_runs(tmp_path)))["addition"]
    assert (far.models, far.whole, far.length, far.there) == (3, 2, 5000, [1.0])


def test_the_course_of_a_curve_in_words(tmp_path):
    for name, exact, words in (
            ("a", {5: 1.0, 10: 1.0, 20: 0.4, 50: 0.0, 99: 0.0}, "100% to 10, 40% at 20, 0% from 50"),
            ("b", {5: 0.0}, "0% at 5"), ("c", {5: 1.0}, "100% to 5"), ("d", {5: 0.5, 10: 1.0}, "50% at 5, 100% at 10")):
        write(tmp_path / name, "x_seed1", exact)
        curve, = curves(read_runs(tmp_path / name))
        assert course(curve) == words


def test_rows_of_a_benchmark_name_their_runs_and_what_all_have_in_common_stands_above(tmp_path):
    own = {"command": "time b", "commit": "b1", "device": "a GPU", "versions": {"torch": "2"}}
    (tmp_path / "some.json").write_text(json.dumps({"command": "time a", "commit": "a1", "device": "a CPU", "records": [
        {"what": "first", "ours": 1, "unit": "s"}, {"what": "second", "ours": 2, "unit": "s"} | own]}))
    pages = Pages(tmp_path, tmp_path / "out.md")
    assert benchmark_page(pages, "benchmarks", tmp_path) == ["some"]
    text = pages.texts[tmp_path / "out/benchmarks.md"]
    assert "[some.json](../some.json), with the command: a CPU, commit a1; a GPU, commit b1." in text
    assert "unit: s." in text and "| what | ours | commit | device |" in text and "| second | 2 | b1 | a GPU |" in text
    assert "time a" not in text


def test_margins_of_all_certificates_are_in_one_figure(tmp_path):
    pages = Pages(tmp_path, tmp_path / "out.md")
    (tmp_path / "old.json").write_text(json.dumps({"task": "sort", "style": "local", "least": 1.0}))
    certificates_figure(pages, tmp_path)
    assert not pages.figures  # a record without margins
    for task, style, seed in (("copy", "local", 1), ("copy", "local", 2), ("copy", "paper", 1)):
        (tmp_path / f"{task}_{style}{seed}.json").write_text(json.dumps(
            {"task": task, "style": style, "model": "mamba 2x64", "decisions": 9, "proved": 9, "least": seed,
             "margins": [seed + i / 100 for i in range(101)]}))
    certificates_figure(pages, tmp_path)
    draw, = pages.figures.values()
    axes, = draw().axes
    drawn = [(line.get_label(), *line.get_ydata()[[0, -1]]) for line in axes.lines[:-1]]
    assert drawn == [("copy, 2x64", 1, 2), ("_copy, 2x64", 2, 3), ("copy, style paper, 2x64", 1, 2)]


def test_how_the_phase_fades_is_drawn_beside_what_was_foretold(tmp_path):
    pages = Pages(tmp_path, tmp_path / "out.md")
    phase_figure(pages, tmp_path / "latch.json")
    assert not pages.figures
    row = {"step sizes at the start": "0.1 to 1", "side": "equals", "lost": 20,
           "equals margins": {"5": 9.5, "10": 4, "20": -1}, "equals margins foretold": {"10": 3, "20": -2}}
    rows = [row | {"seed": seed, "foretold": foretold} for seed, foretold in ((1, 10), (2, None), (3, 50))]
    (tmp_path / "latch.json").write_text(json.dumps({"settings": {"problems": 4, "short": 8}, "records": rows}))
    phase_figure(pages, tmp_path / "latch.json")
    draw, = pages.figures.values()
    axes, = draw().axes
    assert " ".join(axes.get_title(loc="left").split()).endswith("foretold within a factor of 2 of 1 of 3 models")
    foretold, measured = (line.get_xydata().tolist() for line in axes.lines[:2])
    assert foretold == [[10, 3], [20, -2]] and measured == [[5, 9.5], [10, 4], [20, -1]]


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
    report(str(results), str(tmp_path / "out.md"))
    text = (tmp_path / "out.md").read_text()
    assert f"100 (100%), 3 seeds, 1 of them diverged: 0{chr(8211)}100, 2x64" in text
    for name, lines in (("addition_5", 2), ("addition_noise_5", 1), ("against_paper", 2)):
        rows = [line for line in (tmp_path / f"out/{name}.md").read_text().splitlines() if "[2](" in line]
        assert len(rows) == lines and all("_seed2.json) (diverged), [3]" in row for row in rows)
    page = (tmp_path / "out/addition_5.md").read_text()
    assert f"100% (0{chr(8211)}100) at 10, 100% (0{chr(8211)}100) at 100" in page
    assert text.count("3 seeds, 1 of them diverged") == 1 and "| 3 | 100 (0" not in text


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
    report(str(tmp_path / "results"), str(tmp_path / "out.md"))
    text = (tmp_path / "out.md").read_text()
    assert "100% to 10, 20% at 100" in (tmp_path / "out" / f"{folder}.md").read_text()
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


def test_a_number_of_another_source_is_a_star():
    figure = seeds_figure({"ours": {10: ([1.0], (0.7, 1.0))}}, 5, "addition", others={"the paper's": (1000, 0.98)})
    star, = (line for line in figure.axes[0].lines if line.get_marker() == "*")
    assert (list(star.get_xdata()), list(star.get_ydata()), star.get_label()) == ([1000], [98], "the paper's")
    assert figure.axes[0].get_xlim()[1] > 1000
