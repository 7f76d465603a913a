"""The main page: the answer, what speaks against it and for it, and a section for each question.

A section is a function that returns its lines of markdown, none where it has nothing to show.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from length_gen.lightning_modules.evaluation.metrics import wilson_interval
from length_gen.lightning_modules.reporting.beacons import beacons_section
from length_gen.lightning_modules.reporting.claims import (
    PAPER,
    STYLES,
    Reached,
    against,
    answer,
    below,
    farthest,
    headline,
    horizon_claims,
    paper_grid,
    reached_by_horizon,
    summary,
)
from length_gen.lightning_modules.reporting.details import REACH, growth, training
from length_gen.lightning_modules.reporting.first_errors import first_errors_section
from length_gen.lightning_modules.reporting.pages import Pages
from length_gen.lightning_modules.reporting.plots import growth_figure, reach_figure, seeds_figure
from length_gen.lightning_modules.reporting.results import PASSES, Curve, Run, models, read_results
from length_gen.lightning_modules.reporting.text import (
    NOTHING,
    course,
    ends,
    few_to_many,
    plural,
    reach_text,
    table,
)
from length_gen.lightning_modules.reporting.titles import growth_title, of_curves, reach_title, seeds_title

BARS = "bars: lowest to highest seed, of one seed 95% Wilson"
SEEDS = "small points: seeds; line: the one in the middle, the lower of two"
SETTINGS = ("no_tool", "single_turn", "direct", "direct_reversed")


def overview(pages: Pages, runs: Sequence[Run], everything: Sequence[Curve], rows: Sequence[dict[str, Any]],
             horizons: Sequence[dict[str, Any]], queue: str, more: Mapping[str, Sequence[str]]) -> None:
    """Add the main page; `queue`: a line on what there is of the paper's grid, `more`: kind -> links to other pages."""
    pages.add(None, [
        "# Results", "", *answer(rows),
        f"{plural(models(runs), 'trained model')} in `{pages.results}/`; no seed is left out, and no recipe is picked "
        f"by its results. *Exact match*: the whole trajectory is the reference's, every command and thought. *Reach*, "
        f"the paper's number: `m (p%)`, the largest length m with at least 5%, and the share p there. *Exact up to*: "
        f"the {REACH}. Several seeds: the one in the middle, the lower one of two, with the lowest and the highest.",
        "",
        *against(everything, rows, horizons), *summary(everything),
        *paper_section(pages, everything, rows, queue), *lengths_section(pages, everything, horizons),
        *beacons_section(pages, everything, horizons), *first_errors_section(pages, runs, horizons),
        *settings_section(pages, everything), *sizes_section(pages, everything),
        *passes_section(pages, everything),
        *(["## All of it", "", *(f"- {kind}: {', '.join(links)}." for kind, links in more.items())] if more else [])])


def paper_section(pages: Pages, everything: Sequence[Curve], rows: Sequence[dict[str, Any]], queue: str) -> list[str]:
    """The paper's tables beside ours, of each style the first recipe, and how much there is by the paper's own."""
    if not rows:
        return []
    body, missing = [], []
    for row in rows:
        cells = []
        for style in STYLES:
            recipes = row["ours"][style]
            text = headline(recipes[0], row["trained"]) if recipes else NOTHING
            met = recipes and PAPER.search(row["paper"]) and not below(row, style)
            cells.append(f"**{text}**" if met else text)
        body.append([row["what"], row["backbone"], row["paper"], *cells])
        if not any(row["ours"].values()):
            missing.append(f"{row['what']} {row['backbone']}")
    head, grid = paper_grid(rows)
    return ["## Against the paper", "",
            f"Reaches, trained up to -> reach. The paper's numbers are the best of 2 seeds (Hanoi: of 10). Ours are of "
            f"one recipe, all its seeds: the paper's own (`configs/sweeps/paper.yaml`) where it was run, else that of "
            f"the most seeds, then of the most training tokens; all others, and where the first errors are: "
            f"{pages.link('against_paper', 'every recipe')}. **Bold**: at least the paper's share at the paper's "
            f"length.", "",
            *table(["what", "model", "paper", *(f"ours, style {style}" for style in STYLES)], body),
            *([f"Not measured at all: {'; '.join(missing)}.", ""] if missing else []),
            *(["**How much of the paper's grid there is** by its own recipe (sizes, style, 2,000 steps): "
               f"{sum(value != NOTHING for line in grid for value in line[1:])} of "
               f"{sum(len(line) - 1 for line in grid)} cells{queue}. The seeds that ran:", "", *table(head, grid)]
              if grid else []),
            *_figure_2(pages, everything, rows)]


def _figure_2(pages: Pages, everything: Sequence[Curve], rows: Sequence[dict[str, Any]]) -> list[str]:
    """Addition by length in both styles: the table's recipes, style local's size in style paper, and the far lengths
    (`addition_long`, `benchmarks/verify.json`)."""
    row = next((row for row in rows if (row["what"], row["backbone"]) == ("addition, Figure 2", "mamba")
                and all(row["ours"].values())), None)
    if row is None:
        return []
    local, paper = (row["ours"][style] for style in STYLES)
    far = [c for c in everything if re.fullmatch(r"addition_long_\d+", c.experiment) and not c.variant]
    chosen = [*local[:1], *sorted(far, key=lambda c: c.lengths[-1])[-1:], *paper[:1],
              *[c for c in paper[1:] if c.backbone == local[0].backbone][:1]]
    lines = {f"style {c.style}, {c.backbone.partition(' ')[2]}, {c.seeds}": {
        n: (c.at(n), c.interval(n)) for n in c.lengths} for c in chosen}
    if (path := pages.results / "benchmarks" / "verify.json").is_file():
        verified = [record for record in read_results(path)["records"] if record.get("exact")]
        for model in dict.fromkeys(record["backbone"] for record in verified):
            lines[f"style local, {model.partition(' ')[2]}, 1 problem"] = {
                record["length"]: ([1.0], wilson_interval(1, 1)) for record in verified if record["backbone"] == model}
    reach = PAPER.search(row["paper"])
    others = {"the paper's": (int(reach[1].replace(",", "")), int(reach[2]) / 100)} if reach else {}
    return ["Addition by length, of the table's recipes, of style local's size in style paper, and of the two "
            "trainings that were tried farthest, those with one problem a length from 10,000 on; bars are from the "
            "lowest to the highest seed, of one seed 95% Wilson intervals:", "",
            *pages.picture("addition_reach", "addition, exact match by length", partial(
                seeds_figure, lines, row["trained"], seeds_title(lines), others=others,
                note=f"addition; {of_curves(chosen)}; points: the seed in the middle; {BARS}"), main=True)]


def lengths_section(pages: Pages, everything: Sequence[Curve], horizons: Sequence[dict[str, Any]]) -> list[str]:
    """How far Mambas get on each kind of problem, and how far those get whose horizon is known."""
    page = []
    if far := farthest(everything):
        page += ["Every Mamba that was trained in style local, whatever its size and recipe:", "",
                 *table(["problem", "trained up to", "models", "exact up to the largest length they tried",
                         "largest length tried", "exact there", "problems", "tokens a problem"],
                        [[name, few_to_many(c.trained for c in one.curves), one.models, f"{one.whole} of {one.models}",
                          f"{one.length:,}", f"{sum(e == 1 for e in one.there)} of {len(one.there)}", one.problems,
                          f"{one.tokens:,.0f}"] for name, one in far.items()])]
    lines: defaultdict[tuple[str, str], list[Reached]] = defaultdict(list)
    drawn = reached_by_horizon(everything, horizons)
    for one in drawn:
        lines[one.label, one.kind].append(one)
    rows = [(f"{label} ({few_to_many(one.tokens for one in models)})", kind, [
        (one.exact / one.curve.trained, one.tried / one.curve.trained) for one in models])
        for (label, kind), models in lines.items()]
    if rows:
        page += ["The *horizon*, how many tokens back one must look to know every token that a model has to predict, "
                 f"is known without training ({pages.link('horizons', 'horizons of all tasks')}):", "",
                 *horizon_claims(everything, horizons), "",
                 *pages.picture("horizon_reach", "how far, by horizon", partial(
                     reach_figure, rows, reach_title(rows), f"{plural(len(drawn), 'point')} of "
                     f"{of_curves(list({id(c): c for c in (one.curve for one in drawn)}.values()))}, each a seed of a "
                     f"recipe on a kind of problem (in brackets its horizon in tokens); grey: to the largest length "
                     f"tried; arrow: nothing longer tried; \N{MULTIPLICATION SIGN}10: 10 points"), main=True),
                 "Each point is a trained Mamba, every recipe and every seed, in both styles. In brackets the horizon, "
                 "in tokens, at the largest length that was analysed; *bounded* includes horizons that still grow, but "
                 "slower than any power of the length.", ""]
    return ["## Lengths", "", *page] if page else []


def settings_section(pages: Pages, everything: Sequence[Curve]) -> list[str]:
    """How far the other settings get beside the interactive one, for each task."""
    found = [c for c in everything if c.setting in SETTINGS and c.trained and c.task not in PASSES]
    rows = [[" ".join(filter(None, (c.task, c.variant))), c.setting, c.style, c.backbone, c.trained,
             reach_text(c.median_reach()), c.seeds, pages.link(c.experiment, "details")]
            for c in sorted(found, key=lambda c: (c.task, SETTINGS.index(c.setting)))]
    return ["## Settings", "",
            "Without the tool, with a single call of a solver, or with the answer at once; every recipe that was run:",
            "",
            *table(["task", "setting", "style", "model", "trained up to", "reach", "seeds", ""], rows)] if rows else []


def sizes_section(pages: Pages, everything: Sequence[Curve]) -> list[str]:
    """Style paper: how far Mambas get by their size, of those that were trained longest; and by training length."""
    found = []
    for c in everything:
        size = max((run.facts.get("parameters") or 0 for run in c.runs), default=0)
        tokens = max((run.facts.get("train_tokens") or 0 for run in c.runs), default=0)
        if c.trained and re.fullmatch(rf"{c.task}_\d+", c.experiment) and c.task not in PASSES and size and tokens \
                and (c.style, c.setting) == ("paper", "interactive") and c.backbone.startswith("mamba "):
            found.append((f"{c.task} {c.variant}".strip().replace("_", " "), size, tokens, c))
    most = max((tokens for _, _, tokens, _ in found), default=0)
    found = sorted((entry for entry in found if entry[2] > 0.9 * most), key=lambda entry: entry[:2])
    lines: defaultdict[str, dict[float, list[tuple[int, bool]]]] = defaultdict(lambda: defaultdict(list))
    for name, size, _, c in found:
        # Of the same shape, those of one task have a few parameters more than those of another, for its vocabulary.
        lines[name][int(float(f"{size:.1e}"))] += c.outcomes()
    several = Counter(name for name, *_ in found)
    drawn = {name: line for name, line in lines.items() if len(line) > 2}
    page = []
    if rows := [[name, c.backbone.partition(" ")[2], f"{size:,}", c.recipe, len(c.exact), ends(c.outcomes())]
                for name, size, _, c in found if several[name] > 1]:
        trained = few_to_many(round(tokens / 1e6) for _, _, tokens, _ in found)
        shown = [c for name, *_, c in found if name in drawn]
        page += [f"Style paper, every Mamba of the longest training ({trained} million tokens), all recipes and seeds:",
                 "",
                 *(pages.picture("sizes", "how far, by size", partial(
                     growth_figure, drawn, "parameters of a Mamba", growth_title(drawn), "exact up to",
                     f"style paper, {trained} million training tokens; {of_curves(shown)}; {SEEDS}"), main=True)
                   if drawn else []),
                 *table(["problem", "size", "parameters", "recipe", "seeds", "exact up to"], rows)]
    for (name, what), line in growth(everything).items():
        if what == "training length":
            shown = [c for c in everything if c.experiment.startswith(f"{name.replace(' ', '_')}_scaling_")]
            page += [f"{name.capitalize()}, by the largest training length:", "",
                     *pages.picture(f"growth_{name.replace(' ', '_')}", f"{name}, by training length", partial(
                         growth_figure, line, what, growth_title(line), "exact up to",
                         f"{name}; {of_curves(shown)}; {SEEDS}"), main=True)]
    if growth(everything):
        page += [f"By training length and steps, in numbers: {pages.link('growth', 'growth')}.", ""]
    return ["## Sizes and training", "", *page] if page else []


def passes_section(pages: Pages, everything: Sequence[Curve]) -> list[str]:
    """Tasks where what counts is that a problem is solved."""
    found = [c for c in everything if c.task in PASSES]
    if not found:
        return []
    lines = {f"{c.backbone}, {c.setting.replace('_', ' ')}": {n: (c.at(n), c.interval(n)) for n in c.lengths}
             for c in found[:6]}
    return [f"## {found[0].task.replace('_', ' ').capitalize()}", "",
            f"Pass rates by the number of functions, trained on up to {found[0].trained}; bars are 95% Wilson "
            f"intervals where there is one seed, else from the lowest to the highest.", "",
            *pages.picture("passes", "pass rate by length", partial(
                seeds_figure, lines, found[0].trained, seeds_title(lines), "pass rate",
                note=f"{found[0].task.replace('_', ' ')}; {of_curves(found[:6])}; {BARS}"), main=True),
            *table(["model", "setting", "parameters", "training tokens", "seeds", "pass rate", ""],
                   [[c.backbone, c.setting, *list(training(c).values())[:2], c.seeds, course(c),
                     pages.link(c.experiment, "details")] for c in found])]
