"""Which decision breaks: in which phase models err first, against how far back each phase makes them look."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from length_gen.lightning_modules.evaluation.metrics import DEFAULTS, Record, exact_up_to, shares
from length_gen.lightning_modules.reporting.pages import Pages
from length_gen.lightning_modules.reporting.plots import rates_figure
from length_gen.lightning_modules.reporting.results import PASSES, SEED, Run, trained
from length_gen.lightning_modules.reporting.text import few_to_many, plural, table
from length_gen.lightning_modules.reporting.titles import rates_title

ATTENTION = ("pythia", "mistral", "hybrid")
"""Families that see tokens again, however far back they stand: all of them, or those in a window."""

DRAWS = 10_000
"""Of the bootstrap."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A trained model on a kind of problem, at the first length that is not all exact.

    kind:      task, variant and style
    family:    of the backbone
    learnt:    whether it is exact up to its training length
    verdict:   how the horizon of its trajectories grows
    errors:    first errors by phase
    deepest:   the phases of the largest need, at the analysed length at or below its own
    need:      that need, in tokens
    base:      share of all decisions that lie in these phases
    """

    experiment: str
    recipe: str
    kind: tuple[str, str, str]
    family: str
    learnt: bool
    verdict: str
    length: int
    errors: Counter
    deepest: tuple[str, ...]
    need: int
    base: float

    @property
    def hit(self) -> float:
        """Share of first errors that are in the phases of the largest need."""
        return sum(self.errors[phase] for phase in self.deepest) / self.errors.total()

    @property
    def group(self) -> str:
        """Of which the prediction is one."""
        memory = "attention" if self.family in ATTENTION else "fixed memory"
        return f"horizon {'grows' if self.verdict.startswith('growing') else 'bounded'}, {memory}"


def failures(runs: Iterable[Run], horizons: Sequence[dict[str, Any]]) -> tuple[list[Failure], Counter]:
    """All models that fail, each on every kind of (uniform) problem that it was evaluated on, and how many such cases
    are left out, by why.

    horizons: what `analyze` wrote, with the needs of phases
    """
    known = {(h["task"], h["setting"], h["style"]): h for h in horizons if "needs" in h["records"][0]}
    cases: defaultdict[tuple, dict[int, Record]] = defaultdict(dict)
    facts: dict[tuple, Run] = {}
    for run in runs:
        for r in run.records:
            if r["task"] not in PASSES and r.get("problem_set", DEFAULTS["problem_set"]) == DEFAULTS["problem_set"]:
                recipe, seed = SEED.sub("", run.name), run.facts.get("seed", run.name)
                case = (run.experiment, recipe, seed, r["task"], r["variant"], r["setting"], r["style"])
                facts[case] = run
                if r["length"] not in cases[case] or r["evaluator"] == "rollout":  # the truth, where both are
                    cases[case][r["length"]] = r
    found, left = [], Counter()
    for (experiment, recipe, _, task, variant, setting, style), records in cases.items():
        run = facts[experiment, recipe, _, task, variant, setting, style]
        failing = next((records[n] for n in sorted(records) if records[n]["exact_match"] < 1), None)
        family = str(run.facts.get("backbone", "")).partition(" ")[0]
        most = trained(experiment) or trained(str(run.facts.get("experiment")))
        if failing is None or family == "suffix" or most is None:
            continue
        content = known.get((task, setting, style))
        rows = [r for r in content["records"] if r["variant"] == variant] if content else []
        if not failing["first_error_phases"].keys() - {""}:
            left["no first errors in the record"] += 1
        elif not rows:
            left[f"setting {setting}, whose horizon is not analysed" if setting != "interactive"
                 else "trajectories whose horizon is not analysed"] += 1
        else:
            row = [r for r in rows if r["length"] <= failing["length"]][-1:] or rows[:1]
            needs = row[0]["needs"]
            need = max(one["need"] for one in needs.values())
            deepest = tuple(phase for phase, one in needs.items() if one["need"] == need)
            decisions = {phase: one["decisions"] for phase, one in needs.items()}
            found.append(Failure(experiment, recipe, (task, variant, style), family,
                                 exact_up_to(shares(records.values())) >= most, content["verdicts"][variant],
                                 failing["length"], Counter(failing["first_error_phases"]), deepest, need,
                                 sum(decisions[phase] for phase in deepest) / sum(decisions.values())))
    return found, left


@dataclass(frozen=True, slots=True)
class Rates:
    """Of some failures: hit rate, base rate, and the difference, the last with its 95% interval."""

    models: int
    recipes: int
    hit: float
    base: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        """Hit less base."""
        return self.hit - self.base


def rates(cases: Sequence[Failure]) -> Rates:
    """Means over models; the interval is a bootstrap over recipes, of which all models are drawn together."""
    clusters: defaultdict[tuple[str, str], list[Failure]] = defaultdict(list)
    for one in cases:
        clusters[one.experiment, one.recipe].append(one)
    sums = np.array([[len(c), sum(one.hit - one.base for one in c)] for c in clusters.values()])
    drawn = sums[np.random.default_rng(0).integers(len(sums), size=(DRAWS, len(sums)))].sum(1)
    low, high = np.quantile(drawn[:, 1] / drawn[:, 0], [0.025, 0.975])
    return Rates(len(cases), len(clusters), float(np.mean([one.hit for one in cases])),
                 float(np.mean([one.base for one in cases])), float(low), float(high))


def grouped(cases: Sequence[Failure]) -> dict[str, Rates]:
    """`rates` of the groups of the prediction, those that have learnt their training length, and of all others."""
    groups: defaultdict[str, list[Failure]] = defaultdict(list)
    for one in sorted(cases, key=lambda one: (not one.learnt, "bounded" in one.group, "attention" in one.group)):
        groups[one.group if one.learnt else "not exact at the training length"].append(one)
    return {name: rates(found) for name, found in groups.items()}


def first_errors_section(pages: Pages, runs: Sequence[Run], horizons: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of the main page, and a page of every kind of problem; nothing where no horizon has needs."""
    cases, left = failures(runs, horizons)
    if not cases:
        return []
    found = grouped(cases)
    kinds: defaultdict[tuple[bool, tuple[str, str, str]], list[Failure]] = defaultdict(list)
    for one in cases:
        kinds[one.learnt, one.kind].append(one)
    rows = [[" ".join(filter(None, kind[:2])), kind[2], "yes" if learnt else "no", len(models),
             few_to_many(one.need for one in models), ", ".join(dict.fromkeys(
                 phase for one in models for phase in one.deepest)),
             f"{np.mean([one.base for one in models]):.0%}", f"{np.mean([one.hit for one in models]):.0%}",
             _phases(models)] for (learnt, kind), models in sorted(kinds.items(), key=lambda pair: (not pair[0][0],
                                                                                                  pair[0][1]))]
    pages.add("first_errors", [
        "# Where models err first", "",
        "The phases of the largest need are those with a decision that makes a model look furthest back. A model's "
        "first errors are those at its first length that is not all exact, over all models of all families; their "
        "shares are means over models.", "",
        *table(["problem", "style", "exact at the training length", "models", "largest need (tokens)",
                "phases of the largest need", "decisions there", "first errors there", "first errors"], rows)])
    lines = {f"{name} ({one.models})": (one.hit, one.base, one.base + one.low, one.base + one.high)
             for name, one in found.items()}
    return ["## Which decision breaks", "",
            f"Do models err first where they must look furthest back? {plural(len(cases), 'case')} (a trained model, a "
            f"kind of problem) fail at some length and say in which phase. *Hit*: share of first errors in a phase of "
            f"the largest need; *base*: share of all decisions that lie there. Left out: "
            + "; ".join(f"{count} ({why})" for why, count in left.most_common()) + ". By kind of problem: "
            f"{pages.link('first_errors', 'first errors')}.", "",
            *pages.picture("first_errors", "first errors where the need is largest", partial(
                rates_figure, lines, "share of first errors (%)", rates_title(lines),
                f"need: how far back a decision makes a model look. {plural(len(cases), 'case')}, a seed of a recipe "
                f"on a kind of problem; bars: 95%, a bootstrap over "
                f"{plural(sum(one.recipes for one in found.values()), 'recipe')}"), main=True),
            "In brackets the cases; bars: 95%, a bootstrap over recipes, of hit less base.", "",
            *table(["models", "cases", "recipes", "hit", "base", "difference (95%)"],
                   [[name, one.models, one.recipes, f"{one.hit:.0%}", f"{one.base:.0%}",
                     f"{one.difference:+.0%} ({one.low:+.0%} to {one.high:+.0%})"] for name, one in found.items()])]


def _phases(models: Sequence[Failure]) -> str:
    """The four commonest phases of first errors, each model counting once."""
    counts: defaultdict[str, float] = defaultdict(float)
    for one in models:
        for phase, count in one.errors.items():
            counts[phase] += count / one.errors.total() / len(models)
    return ", ".join(f"{phase or 'outside'} {part:.0%}" for phase, part in
                     sorted(counts.items(), key=lambda pair: -pair[1])[:4])
