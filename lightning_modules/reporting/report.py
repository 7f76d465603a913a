"""docs/results.md: summary, tables and figures from the files in results/, and nothing else.

A section is a function that returns its lines of markdown, none where it has nothing to show, and saves its figures.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from length_gen.lightning_modules.evaluation.plots import save_figure
from length_gen.lightning_modules.reporting.claims import (
    GROWTH,
    STYLES,
    below,
    headline,
    horizon_of,
    longest,
    paper_rows,
    reach_text,
    reached_by_horizon,
    summary,
)
from length_gen.lightning_modules.reporting.plots import growth_figure, reach_figure, seeds_figure
from length_gen.lightning_modules.reporting.results import PASSES, Curve, Run, curves, read_results, read_runs
from length_gen.lightning_modules.runs.sweep import read_sweep
from length_gen.tools import UserError
from length_gen.tools.files import atomic_path

HORIZON = ("task", "setting", "style", "verdicts"), ("horizon", "length", "variant", "phases")
"""What a file of `analyze` has, and each of its records."""

NOTHING, TO = "\N{EM DASH}", "\N{EN DASH}"


def report(results: str = "results", out: str = "docs/results.md", queue: str = "configs/sweeps/paper.yaml") -> None:
    """Write the results page from the files in a folder, and print how much of the paper's grid is there.

    Args:
        results: the folder of results
        out: the page; its figures go to figures/ beside it
        queue: the sweep file of the paper's grid
    """
    if not Path(results).is_dir():
        raise UserError(f"there is no folder {results}: give the folder of results")
    runs = read_runs(results)
    everything = curves(runs)
    figures = Path(out).parent / "figures"
    horizons = [read_results(path, *HORIZON) for path in sorted(Path(results, "horizon").glob("*.json"))]
    rows = paper_rows(everything, Path(results) / "paper.yaml")
    page = ["# Results", "",
            f"Made by `python run.py report` from the {len(runs)} training runs in `{results}/`; no number is typed by "
            f"hand. Every file holds its command, commit, device, versions and seed, and stands under "
            f"[Experiments](#experiments). *Exact match*: the whole trajectory is the reference's, every command and "
            f"thought. Several seeds are given as median (lowest{TO}highest); no seed is left out. "
            f"`n -> m (p%)`, as in the paper: trained up to n, exact match p at m, the largest m with at least 5%, "
            f"which is called the *reach*.", ""]
    page += summary(everything, rows, horizons)
    page += paper_section(rows)
    page += below_section(rows, horizons)
    page += far_section(everything)
    page += horizon_section(everything, horizons, figures)
    page += growth_section(everything, figures)
    page += training_section(everything, figures)
    if everything:
        page += ["## Experiments", "",
                 "In the figures the median over the seeds; bars go from the lowest to the highest seed, or, where "
                 "there is one seed, over its 95% Wilson interval.", ""]
    for experiment in dict.fromkeys(curve.experiment for curve in everything):
        page += experiment_section([c for c in everything if c.experiment == experiment], figures)
    page += benchmark_section("Theory", Path(results) / "theory", figures)
    page += benchmark_section("Benchmarks", Path(results) / "benchmarks", figures)
    with atomic_path(out) as temporary:
        temporary.write_text("\n".join(page).rstrip() + "\n", encoding="utf-8")
    print(f"{out}: {len(everything)} curves of {len(runs)} training runs")
    if Path(queue).is_file():
        cells = read_sweep(queue)
        print(f"{queue}: {sum(cell.result.is_file() for cell in cells)} of {len(cells)} cells are there")


def paper_section(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The paper's tables beside ours: of each style the first recipe, all of them below, and what is missing."""
    if not rows:
        return []
    head, everyone, missing = [], [], defaultdict(list)
    for row in rows:
        cells = []
        for style in STYLES:
            recipes = row["ours"][style]
            cells.append(headline(recipes[0]) if recipes else NOTHING)
            everyone += [[row["what"], row["backbone"], row["paper"], style, f"{c.recipe} ({c.backbone})", c.evaluator,
                          c.trained, seeds(c.runs), reached(c), best(c)] for c in recipes]
            alike = row.get("setting", "interactive") not in ("interactive", "no_tool")  # no commands, no styles
            if not recipes and not (alike and any(row["ours"].values())):
                missing[row["what"]].append(f"{row['backbone']} ({style})")
        head.append([row["what"], row["backbone"], row["paper"], *cells])
    gaps = [f"{what}: {', '.join(cells)}" for what, cells in missing.items()]
    return ["## Against the paper", "",
            "The paper's numbers are the best of 2 seeds (Hanoi: of 10). Ours is the median over all seeds of one "
            "recipe, with its lowest and highest seed where they differ. Which recipe stands here no result decides: "
            "the paper's own (`configs/sweeps/paper.yaml`) where it was run, else that of the most seeds, then of the "
            "most training tokens; every other recipe is in the list below the table.", "",
            *table(["what", "model", "paper", *(f"ours, style {style}" for style in STYLES)], head),
            f"**Missing** ({sum(map(len, missing.values()))}): {'; '.join(gaps) or 'nothing'}.", "",
            "<details><summary>all recipes</summary>", "",
            *table(["what", "model", "paper", "style", "ours", "evaluator", "trained up to", "seeds",
                    "reach, all seeds", "best seed"], everyone), "</details>", ""]


def below_section(rows: Sequence[dict[str, Any]], horizons: Sequence[dict[str, Any]]) -> list[str]:
    """Where ours is below the paper, with what explains it: where the first errors are, and the horizon."""
    lines = []
    for row in rows:
        for style in STYLES:
            if not below(row, style):
                continue
            curve = row["ours"][style][0]
            verdict = (horizon_of(curve, horizons) or (None,))[0]
            lines.append(f"- **{row['what']}, {row['backbone']}, style {style}**: {headline(curve)} ({curve.recipe}); "
                         f"the paper: {row['paper']}. First errors in {phases(curve.errors)}"
                         + (f"; horizon {verdict}." if verdict else "."))
    if not rows:
        return []
    return ["### Where ours is below the paper", "",
            *(lines or ["In no row that both have."]), "",
            "Where the horizon grows, the wrong token is a decision whose cue lies further back the longer the "
            "problem; where it is bounded, the model has not learnt what was there to see, or goes by a cue that holds "
            "on the training lengths only." if lines else "", ""]


def far_section(everything: Sequence[Curve]) -> list[str]:
    """For each kind of problem, up to which length all is exact with every seed."""
    rows = [[name, curve.backbone, curve.trained, f"{length:,}",
             f"{round(length / curve.trained, 1):,g}\N{MULTIPLICATION SIGN}", count, curve.problems.get(length),
             f"{curve.tokens.get(length, 0):,.0f}", "yes" if length == max(curve.lengths) else "no"]
            for name, (length, count, curve) in longest(everything).items()]
    return ["## How far", "",
            "The largest length up to which every problem of every length is exact with every seed of a recipe, "
            "of the recipe that gets farthest (style local, Mamba). *Largest tried*: nothing longer was tried, so the "
            "limit is not known.", "",
            *table(["task", "model", "trained up to", "exact at", "factor", "seeds", "problems there",
                    "tokens a problem", "largest tried"], rows)] if rows else []


def horizon_section(everything: Sequence[Curve], horizons: Sequence[dict[str, Any]], figures: Path) -> list[str]:
    """Horizons of all tasks, which need no training, and how far trained models get beside them."""
    if not horizons:
        return []
    rows = [[h["task"], variant or NOTHING, h["setting"], h["style"], verdict,
             ", ".join(f"{r['horizon']} at {r['length']}" for r in own),
             ", ".join(list(own[-1]["phases"])[:2])]
            for h in horizons for variant, verdict in h["verdicts"].items()
            if (own := [r for r in h["records"] if r["variant"] == variant])]
    lines: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for one in reached_by_horizon(everything, horizons):
        lines[one.label, one.kind].append((one.exact / one.curve.trained, one.tried / one.curve.trained))
    page = ["## Horizon", "",
            "How many tokens back one must look to know every token that a model has to predict "
            "(`python run.py analyze`), on validation problems up to each length; no training. A variant's is that of "
            "its own tokens, against what stands before the tokens of all variants, which training mixes.", ""]
    if lines:
        save_figure(reach_figure([(label, kind, runs) for (label, kind), runs in lines.items()]),
                    figures / "horizon_reach.png")
        page += ["![horizon and reach](figures/horizon_reach.png)", "",
                 "Each point is a trained Mamba, every recipe and every seed: the largest length up to which every "
                 "problem of every length is exact; an arrow where nothing longer was tried. In brackets the horizon, "
                 "in tokens, at the largest length that was analysed; *bounded* includes horizons that still grow, but "
                 "slower than any power of the length.", ""]
    return [*page, "<details><summary>horizons of all tasks</summary>", "",
            *table(["task", "variant", "setting", "style", "verdict", "horizon (tokens)", "worst decisions in"], rows),
            "</details>", ""]


def natural(label: str) -> list:
    """A key that sorts numbers in labels by their size."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", label)]


def growth_section(everything: Sequence[Curve], figures: Path) -> list[str]:
    """Reach against training length (experiments `<task>_scaling_<n>`) and steps (`<n>steps` in a recipe's name)."""
    by_length: defaultdict[str, dict[str, dict[int, list[int]]]] = defaultdict(lambda: defaultdict(dict))
    by_steps: defaultdict[str, dict[str, dict[int, list[int]]]] = defaultdict(lambda: defaultdict(dict))
    for c in everything:
        scaling, steps = re.fullmatch(r"(.+)_scaling_\d+", c.experiment), re.search(r"(\d+)steps_?", c.recipe)
        if not c.trained:
            continue
        if scaling:
            by_length[scaling[1]][", ".join(filter(None, (c.recipe, c.variant)))][c.trained] = c.exact_to()
        elif steps:
            rest = (c.recipe[: steps.start()] + c.recipe[steps.end() :]).strip("_")
            where = re.sub(r"_(steps_)?\d+$", "", c.experiment) + (f", {c.variant}" if c.variant else "")
            by_steps[where][", ".join(filter(None, (rest, f"up to {c.trained}")))][int(steps[1])] = c.exact_to()
    page = []
    for groups, what in ((by_length, "training length"), (by_steps, "training steps")):
        for name, recipes in groups.items():
            lines = {label: recipes[label] for label in sorted(recipes, key=natural) if len(recipes[label]) > 1}
            if not lines:
                continue
            page += [f"### {name.replace('_', ' ')}: reach against {what}", ""]
            for number, start in enumerate(range(0, len(lines), 6)):
                part = dict(list(lines.items())[start : start + 6])
                stem = re.sub(r"[^a-z0-9]+", "_", f"{name}_{what}".lower()) + (f"_{number}" if number else "")
                save_figure(growth_figure(part, what, name.replace("_", " ")), figures / f"growth_{stem}.png")
                page += [f"![{name}](figures/growth_{stem}.png)", ""]
            xs = sorted({x for line in lines.values() for x in line})
            page += [*table(["recipe", *(f"{x:,}" for x in xs)],
                            [[label, *(counts(line.get(x)) for x in xs)] for label, line in lines.items()])]
    return ["## Reach against training", "",
            "The largest length up to which every problem of every length is exact.", "", *page] \
        if page else []


def training_section(everything: Sequence[Curve], figures: Path) -> list[str]:
    """Style paper: reach by the size of the model and the tokens of its training (growth and mixtures left out), and a
    figure of Mambas by size, of those that were trained longest."""
    rows = []
    for c in everything:
        tokens = [run.facts["train_tokens"] for run in c.runs if run.facts.get("train_tokens")]
        alone = c.trained and re.fullmatch(rf"{c.task}_\d+", c.experiment) and c.task not in PASSES
        if alone and tokens and (c.style, c.setting) == ("paper", "interactive"):
            size = max(run.facts.get("parameters") or 0 for run in c.runs)
            rows.append((c.task, c.variant, c.backbone.partition(" ")[0], size, median(tokens), c))
    several = Counter(row[:3] for row in rows)
    rows = sorted((row for row in rows if several[row[:3]] > 1), key=lambda row: row[:5])
    lines: defaultdict[str, dict[int, list[int]]] = defaultdict(dict)
    mambas = [row for row in rows if row[2] == "mamba" and row[3]]
    most = max((tokens for *_, tokens, _ in mambas), default=0)
    mambas = [row for row in mambas if row[4] > 0.9 * most]
    for task, variant, _, size, _, c in mambas:
        # Of the same shape, those of one task have a few parameters more than those of another, for its vocabulary.
        line, about = lines[f"{task} {variant}".strip()], int(float(f"{size:.1e}"))
        line[about] = max(line.get(about, []), c.exact_to(), key=lambda reaches: median(reaches or [-1]))
    lines = {label: line for label, line in lines.items() if len(line) > 2}
    page = []
    if lines:
        path = figures / "growth_size_paper.png"
        trained = few_to_many(round(tokens / 1e6) for *_, tokens, _ in mambas)
        save_figure(growth_figure(lines, "parameters of a Mamba", f"style paper, {trained} million training tokens"),
                    path)
        page = [f"![reach against size](figures/{path.name})", ""]
    return ["### Style paper: reach against size and training tokens", "",
            "The largest length up to which every problem of every length is exact.", "", *page,
            *table(["task", "model", "recipe", "parameters", "training tokens", "seeds", "reach"],
                   [[f"{task} {variant}".strip(), c.backbone, c.recipe, f"{size:,}" if size else NOTHING,
                     f"{tokens:,.0f}", seeds(c.runs), counts(c.exact_to())]
                    for task, variant, _, size, tokens, c in rows])] if rows else []


def experiment_section(cells: Sequence[Curve], figures: Path) -> list[str]:
    """Figures and table of one experiment, and the commands."""
    name = cells[0].experiment
    title, lengths = name.replace("_", " "), sorted({length for cell in cells for length in cell.lengths})
    page, several = [f"### {title}", ""], len({c.task for c in cells}) > 1
    for setting, style in dict.fromkeys((c.setting, c.style) for c in cells):
        drawn: dict[str, Curve] = {}
        for cell in (c for c in cells if (c.setting, c.style) == (setting, style)):
            recipe, task = cell.recipe.replace(f"_{style}", "").replace("_", " "), cell.task if several else ""
            label = ", ".join(filter(None, (recipe, task, cell.variant)))
            if label not in drawn or len(cell.lengths) > len(drawn[label].lengths):  # evaluators that disagree
                drawn[label] = cell
        for number, start in enumerate(range(0, len(drawn), 6)):
            part = list(drawn.items())[start : start + 6]
            path = figures / f"{name}_{setting}_{style}_{number}.png".replace(", ", "_")
            lines = {label: {n: (c.at(n), c.interval(n)) for n in c.lengths} for label, c in part}
            what = "pass rate" if cells[0].task in PASSES else "exact match"
            save_figure(seeds_figure(lines, cells[0].trained, f"{title}, {setting}, style {style}", what), path)
            page += [f"![{title}](figures/{path.name})", ""]
    if cells[0].task in PASSES:
        page += ["Pass rates: whether the problem was solved, however.", ""]
    fold = bool(GROWTH.fullmatch(name))
    page += ["<details><summary>table</summary>", ""] if fold else []
    page += table(["recipe", "task", "setting, style", "evaluator", "problems a length", "seeds",
                   *(f"{n:,}" for n in lengths), "first errors"],
                  [[cell.recipe, " ".join(filter(None, (cell.task, cell.variant))), f"{cell.setting}, {cell.style}",
                    cell.evaluator, few_to_many(cell.problems.values()), seeds(cell.runs),
                    *(spread(cell.at(n)) for n in lengths), phases(cell.errors)] for cell in cells])
    page += ["</details>", ""] if fold else []
    page += ["<details><summary>commands</summary>", ""]
    page += [f"- {run.name}: `{run.facts.get('command', 'not known')}` (commit {run.facts.get('commit')}, "
             f"{run.facts.get('device')}{facts(run)})"
             for run in dict((run.name, run) for cell in cells for run in cell.runs).values()]
    return [*page, "", "</details>", ""]


def benchmark_section(title: str, folder: Path, figures: Path) -> list[str]:
    """The tables of all benchmarks in a folder, whatever their columns, and the command of each; a figure of those that
    time backbones by length."""
    page = []
    for path in sorted(folder.glob("*.json")):
        content = read_results(path)
        rows = content["records"]
        # Rows of several runs name their own, and the table has their commits and devices beside them.
        runs = dict.fromkeys(tuple(row.get(name, content.get(name)) for name in ("command", "commit", "device"))
                             for row in rows)
        names = list(dict.fromkeys(name for row in rows for name in row if name not in ("command", "versions")))
        page += [f"### {path.stem.replace('_', ' ')}", "",
                 *(f"- `{command}` (commit {commit}, {device})" for command, commit, device in runs), "",
                 *cost_figure(path.stem, rows, figures), "<details><summary>table</summary>", "",
                 *table(names, [[cell(row.get(name)) for name in names] for row in rows]), "</details>", ""]
    return [f"## {title}", "", *page] if page else []


def cost_figure(name: str, rows: Sequence[dict[str, Any]], figures: Path) -> list[str]:
    """A figure of the time per token against length, where a benchmark has several backbones."""
    lines: defaultdict[str, dict[int, list[float]]] = defaultdict(dict)
    for row in rows:
        if {"backbone", "length", "seconds", "tokens"} <= row.keys():
            lines[row["backbone"]][row["length"]] = [1e9 * row["seconds"] / row["tokens"]]
    if len(lines) < 2:
        return []
    path = figures / f"cost_{name}.png"
    save_figure(growth_figure(lines, "problem length", "time by length", "time (ns a token)"), path)
    return [f"![{name}](figures/{path.name})", ""]


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    """Lines of a markdown table; a bar in a value becomes a slash."""
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head),
            *("| " + " | ".join(str(value).replace("|", "/") for value in row) + " |" for row in rows), ""]


def seeds(runs: Sequence[Run]) -> str:
    """The seeds of runs: `1, 2 (diverged), 3`."""
    diverged = {run.facts["seed"]: bool(run.facts.get("diverged")) for run in runs
                if run.facts.get("seed") is not None}
    return ", ".join(f"{seed}{' (diverged)' * diverged[seed]}" for seed in sorted(diverged))


def few_to_many(values: Iterable[int]) -> str:
    """Lowest and highest with a dash between, or the number that all are."""
    low, high = min(values := list(values)), max(values)
    return str(low) if low == high else f"{low}{TO}{high}"


def spread(values: Sequence[float]) -> str:
    """Median (lowest to highest) in percent."""
    if not values:
        return NOTHING
    low, middle, high = (f"{100 * value:.3g}" for value in (min(values), median(values), max(values)))
    return f"{middle}%" if low == high else f"{middle}% ({low}{TO}{high})"


def counts(values: Sequence[int] | None) -> str:
    """Median (lowest to highest) of lengths."""
    if not values:
        return NOTHING
    low, middle, high = (f"{int(value):,}" for value in (min(values), median(values), max(values)))
    return middle if low == high else f"{middle} ({low}{TO}{high})"


def reached(curve: Curve) -> str:
    """Median reach, lowest and highest; and up to which length all seeds are exact on all problems."""
    return f"{counts([reach for reach, _ in curve.reaches()])}; all seeds at 100% to {min(curve.exact_to()):,}"


def best(curve: Curve) -> str:
    """Reach of the best seed, in the paper's terms: `1,000 (98%)`."""
    return reach_text(curve.reaches()[-1])


def phases(errors: Mapping[str, int]) -> str:
    """Where the first errors fall at the first length that is not all exact, with the number of problems."""
    common = Counter(errors).most_common(2)
    return ", ".join(f"{phase or 'outside'} ({count})" for phase, count in common) or NOTHING


def facts(run: Run) -> str:
    """Size, training and stream of a run, as far as they are known, each with a comma before it."""
    parts = [f"{run.facts[key]:,} {text}" for key, text in (("parameters", "parameters"), ("train_tokens", "tokens"))
             if run.facts.get(key)]
    if run.facts.get("train_seconds"):
        parts.append(f"{run.facts['train_seconds']:.0f} s of training")
    parts.append(f"stream {run.facts.get('stream', {}).get('version', 1)}")
    if run.facts.get("train_loss") is not None:
        parts.append(f"loss {run.facts['train_loss']:.2g} at its end")
    if run.facts.get("diverged"):
        parts.append("diverged")
    return "".join(f", {part}" for part in parts)


def cell(value: Any) -> str:
    """A benchmark's value as text; of a mapping its parts, with the mean of each list."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {cell(sum(v) / len(v) if isinstance(v, list) else v)}" for key, v in value.items())
    if isinstance(value, float):
        return f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
    return NOTHING if value is None else f"{value:,}" if isinstance(value, int) else str(value)
