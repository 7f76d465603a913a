"""The pages of details: all recipes beside the paper's, horizons, growth, an experiment each, benchmarks.

Each function adds a page where it has something to show.
"""

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median_low
from typing import Any

from length_gen.lightning_modules.reporting.claims import STYLES, below, horizon_of
from length_gen.lightning_modules.reporting.pages import Pages
from length_gen.lightning_modules.reporting.plots import fading_figure, growth_figure, margins_figure
from length_gen.lightning_modules.reporting.results import PASSES, Curve, read_results
from length_gen.lightning_modules.reporting.text import (
    NOTHING,
    cell,
    course,
    ends,
    few_to_many,
    natural,
    phases,
    plural,
    reach_text,
    table,
)
from length_gen.lightning_modules.reporting.titles import cost_title, fading_title, model_name, proofs_title
from length_gen.tools.files import read_json

COURSE = ("*Exact match*: share of the problems of a length whose whole trajectory is the reference's; of several "
          "seeds that of the one in the middle, the lower one of two, with (lowest to highest).")
REACH = "largest length up to which every problem of every length is exact (\N{GREATER-THAN OR EQUAL TO}: nothing " \
        "longer was tried)"


def recipes_page(pages: Pages, rows: Sequence[dict[str, Any]], horizons: Sequence[dict[str, Any]]) -> None:
    """Every recipe for every row of the paper's tables, and what explains where ours is below."""
    lines = ["# Against the paper: every recipe", "",
             "`n -> m (p%)`: trained up to n, exact match p at m, the largest m with at least 5%. The first recipe of "
             "a row and style stands in the main table; no result decides which it is.", "",
             "Where ours is below the paper the last column says in which phases the first errors are (with the number "
             "of problems), and the horizon. Where the horizon grows, the wrong token is a decision whose cue lies "
             "further back the longer the problem; where it is bounded, the model has not learnt what was there to "
             "see, or goes by a cue that holds on the training lengths only.", ""]
    for row in rows:
        if not any(row["ours"].values()):
            continue
        lines += [f"## {row['what']}, {row['backbone']}", "", f"The paper: {row['paper']}.", ""]
        body = []
        for style in STYLES:
            for k, c in enumerate(row["ours"][style]):
                why = ""
                if k == 0 and below(row, style):
                    verdict = (horizon_of(c, horizons) or ("not known",))[0]
                    why = f"first errors in {phases(c.errors)}; horizon {verdict}"
                body.append([style, c.recipe, c.backbone, seeds(pages, c),
                             f"{c.trained} -> {reach_text(c.median_reach())}", ends(c.outcomes()), why])
        lines += table(["style", "recipe", "model", "seeds", "reach, median seed", "exact up to", "below the paper"],
                       body)
    if rows:
        pages.add("against_paper", lines)


def horizons_page(pages: Pages, horizons: Sequence[dict[str, Any]]) -> None:
    """Horizons of all tasks, which need no training."""
    rows = [[h["task"], variant or NOTHING, h["style"], verdict,
             ", ".join(f"{r['horizon']} at {r['length']}" for r in own), ", ".join(list(own[-1]["phases"])[:2])]
            for h in horizons for variant, verdict in h["verdicts"].items()
            if (own := [r for r in h["records"] if r["variant"] == variant])]
    if rows:
        pages.add("horizons", [
            "# Horizons", "",
            "How many tokens back one must look to know every token that a model has to predict (`python run.py "
            "analyze`), on validation problems up to each length; no training. A variant's is that of its own tokens, "
            "against what stands before the tokens of all variants, which training mixes.", "",
            *table(["task", "variant", "style", "verdict", "horizon (tokens)", "worst decisions in"], rows)])


def growth_page(pages: Pages, everything: Sequence[Curve]) -> None:
    """How far by training length (experiments `<task>_scaling_<n>`) and steps (`<n>steps` in a recipe's name)."""
    lines = []
    for (name, what), recipes in growth(everything).items():
        xs = sorted({x for line in recipes.values() for x in line})
        lines += [f"## {name}, by {what}", "",
                  *table(["recipe", *(f"{x:,}" for x in xs)],
                         [[label, *(ends(line.get(x)) for x in xs)] for label, line in recipes.items()])]
    if lines:
        pages.add("growth", ["# How far by training", "", f"The {REACH}.", "", *lines])


def growth(everything: Sequence[Curve]) -> dict[tuple[str, str], dict[str, dict[int, list[tuple[int, bool]]]]]:
    """(task, `training length` or `training steps`) -> recipe -> length or steps -> outcomes, of at least two."""
    groups: defaultdict[tuple[str, str], dict[str, dict[int, list[tuple[int, bool]]]]] = defaultdict(
        lambda: defaultdict(dict))
    for c in everything:
        scaling, steps = re.fullmatch(r"(.+)_scaling_\d+", c.experiment), re.search(r"(\d+)steps_?", c.recipe)
        if not c.trained:
            continue
        if scaling:
            label = ", ".join(filter(None, (c.recipe, c.variant)))
            groups[scaling[1].replace("_", " "), "training length"][label][c.trained] = c.outcomes()
        elif steps:
            rest = (c.recipe[: steps.start()] + c.recipe[steps.end() :]).strip("_")
            where = re.sub(r"_(steps_)?\d+$", "", c.experiment).replace("_", " ")
            label = ", ".join(filter(None, (rest, f"up to {c.trained}")))
            groups[", ".join(filter(None, (where, c.variant))), "training steps"][label][int(steps[1])] = c.outcomes()
    several = {key: {label: recipes[label] for label in sorted(recipes, key=natural) if len(recipes[label]) > 1}
               for key, recipes in groups.items()}
    return {key: several[key] for key in sorted(several, key=lambda key: (key[1], key[0])) if several[key]}


def experiment_pages(pages: Pages, everything: Sequence[Curve]) -> dict[str, int]:
    """A page for each experiment, with a table for each setting and style; how many recipes each has."""
    experiments: defaultdict[str, list[Curve]] = defaultdict(list)
    for c in everything:
        experiments[c.experiment].append(c)
    for name, curves in experiments.items():
        passes = curves[0].task in PASSES
        lines = [f"# {name.replace('_', ' ')}", "",
                 "Pass rates: share of the problems of a length that were solved, however." if passes else COURSE,
                 "A seed leads to its file, with command, commit, device, versions and every record.", ""]
        for setting, style in dict.fromkeys((c.setting, c.style) for c in curves):
            lines += [f"## {setting}, style {style}", "", *common(
                [{"recipe": c.recipe, "problem": " ".join(filter(None, (c.task, c.variant))), "model": c.backbone,
                  "pass rate" if passes else "exact match": course(c), "seeds": seeds(pages, c),
                  "first errors": phases(c.errors)} for c in curves if (c.setting, c.style) == (setting, style)],
                ("recipe", "seeds", "pass rate", "exact match", "first errors"))]
        lines += ["## How they were trained and tested", "", *common(
            [{"recipe": c.recipe, **training(c), "evaluator": c.evaluator,
              "problems a length": few_to_many(c.problems.values())}
             for c in {c.recipe: c for c in reversed(curves)}.values()][::-1], ("recipe",))]
        pages.add(name, lines)
    return {name: len({c.recipe for c in curves}) for name, curves in experiments.items()}


def common(rows: Sequence[dict[str, Any]], kept: Sequence[str] = ()) -> list[str]:
    """Lines of a table; columns that are the same in all of several rows stand above it instead, but for some."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    same = [name for name in names if name not in kept and len(rows) > 1
            and len({str(row.get(name)) for row in rows}) == 1]
    above = [f"{name}: {value}" for name in same if (value := str(rows[0].get(name)))]
    columns = [name for name in names if name not in same]
    return [*([f"{'; '.join(above)}.", ""] if above else []),
            *(table(columns, [[row.get(name, NOTHING) for name in columns] for row in rows])
              if len(columns) > 1 or not same else [])]


def seeds(pages: Pages, curve: Curve) -> str:
    """The seeds of a curve, each leading to its file: `1, 2 (diverged), 3`; of one with two files the other as well."""
    parts: dict[Any, str] = {}
    for run in curve.runs:
        seed = run.facts.get("seed", run.name)
        if seed in parts:
            parts[seed] += f" ({pages.file(run, 'rollout' if run.name.endswith('_rollout') else 'more')})"
        else:
            parts[seed] = pages.file(run, str(seed)) + " (diverged)" * bool(run.facts.get("diverged"))
    return ", ".join(parts[seed] for seed in sorted(parts, key=lambda seed: natural(str(seed))))


def training(curve: Curve) -> dict[str, str]:
    """Size, training tokens and stream of a recipe; of different seeds the one in the middle."""
    known = {text: [run.facts[key] for run in curve.runs if run.facts.get(key)]
             for key, text in (("parameters", "parameters"), ("train_tokens", "training tokens"))}
    versions = {(run.facts.get("stream") or {}).get("version", 1) for run in curve.runs}
    return {**{text: f"{median_low(values):,}" if values else NOTHING for text, values in known.items()},
            "stream": few_to_many(versions)}


def benchmark_page(pages: Pages, name: str, folder: Path) -> list[str]:
    """A page of the tables of all files in a folder, whatever their columns, with a figure of those that time backbones
    by length. Gives the tables' titles."""
    lines, contents = [], []
    for path in sorted(folder.glob("*.json")):
        content = read_results(path)
        rows = content["records"]
        # Rows of several runs name their own, and the table has their commits and devices beside them.
        runs = dict.fromkeys(tuple(row.get(name, content.get(name)) for name in ("commit", "device")) for row in rows)
        title = path.stem.replace("_", " ")
        contents.append(title)
        where = "; ".join(f"{device}, commit {commit}" for commit, device in runs)
        lines += [f"## {title}", "",
                  f"[{path.name}]({os.path.relpath(path, pages.folder)}), with the command: {where}.", "",
                  *cost_figure(pages, path.stem, rows, f"{', '.join(dict.fromkeys(device for _, device in runs))}; one "
                               f"run a point, so no interval"), "<details><summary>table</summary>", "",
                  *common([{key: cell(value) for key, value in row.items() if key not in ("command", "versions")}
                           for row in rows]), "</details>", ""]
    if lines:
        pages.add(name, [f"# {name.capitalize()}", "", *lines])
    return contents


def certificates_figure(pages: Pages, folder: Path) -> None:
    """A figure of what is proved of all decisions, for a document that people write."""
    verdicts = [verdict for path in sorted(folder.glob("*.json")) if (verdict := read_json(path)).get("margins")]
    lines: defaultdict[str, list[list[float]]] = defaultdict(list)
    for verdict in verdicts:
        lines[model_name(verdict)].append(verdict["margins"])
    if lines:
        pages.picture("margins", "margins", partial(
            margins_figure, dict(lines), proofs_title(verdicts),
            f"{plural(len(verdicts), 'model')}, one seed each, {few_to_many(v['decisions'] for v in verdicts)} "
            f"decisions; each decision's least margin in any problem of any length: a bound, no sample"))


def phase_figure(pages: Pages, file: Path) -> None:
    """A figure of how the phase fades (benchmarks/latch.py), for a document that people write."""
    if not file.is_file():
        return
    content = read_results(file)
    problems, short = (content["settings"][name] for name in ("problems", "short"))
    models = {f"{row['step sizes at the start']}, seed {row['seed']}": tuple(
        {int(n): margin for n, margin in row[f"{row['side']} {which}"].items()} for which in (
            "margins", "margins foretold")) for row in content["records"]}
    pages.picture("fading", "how the phase fades", partial(
        fading_figure, models, fading_title(content["records"]),
        f"{plural(len(models), 'model')}, by step sizes at the start, no interval; points: the mean of {problems} "
        f"problems, at the decision that is lost first; dashed: foretold from walks of {short} digits"))


def cost_figure(pages: Pages, name: str, rows: Sequence[dict[str, Any]], note: str) -> list[str]:
    """A figure of the time per token against length, where a benchmark has several backbones; `note`: below its
    title."""
    lines: defaultdict[str, dict[int, list[tuple[float, bool]]]] = defaultdict(dict)
    for row in rows:
        if {"backbone", "length", "seconds", "tokens"} <= row.keys():
            lines[row["backbone"]][row["length"]] = [(1e6 * row["seconds"] / row["tokens"], False)]
    if sum(len(line) > 1 for line in lines.values()) < 2:
        return []
    return pages.picture(f"cost_{name}", "time by length", partial(
        growth_figure, lines, "problem length", cost_title(lines), "time (\N{MICRO SIGN}s a token)", note))
