"""Whether a model is exact at every length: proved, refuted, or unknown."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from length_gen.datamodules.automaton.windows import Automaton
from length_gen.datamodules.tasks import Task
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.certification.bounds import Rounding
from length_gen.lightning_modules.certification.certificate import write_certificate
from length_gen.lightning_modules.certification.fixpoint import SWEEPS, NotFadingError
from length_gen.lightning_modules.certification.graph import Graph
from length_gen.lightning_modules.certification.mamba import MambaBounds
from length_gen.lightning_modules.certification.model_bounds import LayeredBounds
from length_gen.lightning_modules.certification.refutation import Counterexample, refute
from length_gen.tools import UserError

FAMILIES: dict[type[Backbone], type[LayeredBounds]] = {Mamba: MambaBounds}
"""Families that can be certified, and their bounds."""

UNITS = {"real": 0.0, "float64": 2.0**-53, "float32": 2.0**-24}
"""Rounding errors of an operation; a proof for one holds for those before it."""

Progress = Callable[[str, float], None]
"""Called with what is done and the part of it that is done."""


@dataclass(slots=True)
class Verdict:
    """What can be said of a model. `outcome` is `certified`, `refuted` or `unknown`.

    reason:    why it is not known, in words; empty otherwise
    unit:      rounding error of an operation that is covered, or was to be
    order:     K, tokens of a window; nodes, edges: of the graph; 0 where there was none
    decisions: windows after which the model has to predict a token; `proved` is how many of them it gets right
    least:     the least margin in logits, over what was to be proved; None if there are no bounds
    margins:   of the decisions in growing order those at 0, 1, ... 100% of the way, the first of which is `least`
    weakest:   (window, wanted token, margin) of the weakest decisions, the worst first
    counterexample: the problem on which it errs, where it is refuted
    seconds:   that all took, the search for one and `doubt` included
    """

    outcome: str
    reason: str = ""
    unit: float = 0.0
    order: int = 0
    nodes: int = 0
    edges: int = 0
    decisions: int = 0
    proved: int = 0
    least: float | None = None
    margins: list[float] = field(default_factory=list)
    weakest: list[tuple[tuple[str, ...], str, float]] = field(default_factory=list)
    counterexample: Counterexample | None = None
    seconds: float = 0.0


def certify(backbone: Backbone, task: Task, vocabulary: Vocabulary, automata: Callable[[int], Automaton],
            units: Sequence[float], order: int = 8, most: int = 12, seconds: float = 60.0,
            variants: Sequence[str] | None = None, progress: Progress = lambda what, part: None,
            path: Path | None = None, header: Callable[[], dict[str, Any]] = dict,
            doubt: Callable[[], str] = str) -> Verdict:
    """The verdict on a model of a task.

    automata: the task's windows of so many tokens or more; UserError where no number is enough
    units:    rounding errors of an operation that are to be covered, the largest first; the next is tried where one is
              not proved
    order:    tokens of a window at first; it is raised by 2 up to `most` while some decision is not proved
    seconds:  for the search for a counterexample
    variants: kinds of problems that it looks among; None: all of the task's
    path:     of the certificate, where one is to be written; `header`: what else it shall say
    doubt:    called when it is written: why it is not to count, which makes the outcome unknown; empty if it does
    """
    begun = time.monotonic()
    verdict = Verdict("unknown", reason=obstacle(backbone, task), unit=units[-1])
    windows: Sequence = ()
    while not verdict.reason:
        try:
            progress(f"windows of {order} tokens", 0.0)
            automaton = automata(order)
        except UserError as error:
            verdict.reason = str(error)
            break
        order = automaton.order
        for unit in units:
            verdict.unit = unit
            windows = _prove(verdict, backbone, vocabulary, automaton, progress, path, header)
            if verdict.outcome == "certified":
                verdict.reason = doubt()
                if not verdict.reason:
                    break
                verdict.outcome = "unknown"
        if verdict.outcome == "certified" or order + 2 > most:
            break
        order += 2
        if len(windows) > 0.5 * verdict.decisions:  # then longer windows are not what is missing
            break
        verdict.reason = ""
    if verdict.outcome != "certified":
        model = copy.deepcopy(backbone).cpu().to(torch.float32 if verdict.unit > 2.0**-40 else torch.float64)
        found = refute(model, task, vocabulary, windows, seconds, variants,
                       progress=lambda part: progress("counterexamples", part))
        if found:
            verdict.outcome, verdict.counterexample = "refuted", found
    verdict.seconds = time.monotonic() - begun
    return verdict


def obstacle(backbone: Backbone, task: Task) -> str:
    """Why nothing can be proved of a model, whatever its weights; empty if something can."""
    if type(backbone) not in FAMILIES:
        return f"no bounds of {type(backbone).__name__} are known, only of {', '.join(f.__name__ for f in FAMILIES)}"
    if any(not block.mixer.dt_floor for block in backbone.parts[1]):
        return "its memory need not fade: there is no floor under its step sizes (--model.backbone.dt_floor)"
    if task.setting != "question_in_tool":
        return (f"in setting {task.setting} it reads a question of any length, after which its state can be anything: "
                f"train with --data.task.setting question_in_tool")
    return ""


def _prove(verdict: Verdict, backbone: Backbone, vocabulary: Vocabulary, automaton: Automaton, progress: Progress,
           path: Path | None, header: Callable[[], dict[str, Any]]) -> Sequence:
    """Fill in the verdict from the bounds on one automaton; returns the windows that are not proved, weakest first."""
    device = next(backbone.parameters()).device
    graph = Graph.of(automaton, device)
    bounds = FAMILIES[type(backbone)](backbone, graph, Rounding(verdict.unit))
    boxes: list[list[Any]] = []
    bounds.keep = lambda name, box: boxes.append((bounds.number, *box)) if name == "short" else None
    decided = graph.wanted >= 0
    verdict.order, verdict.nodes, verdict.edges = automaton.order, graph.nodes, graph.edges
    verdict.decisions, verdict.proved, verdict.reason = int(decided.sum()), 0, ""
    verdict.least, verdict.margins, verdict.weakest = None, [], []
    layers, done = len(backbone.parts[1]), 0.0

    def advance(part: float) -> None:
        nonlocal done
        done += part
        progress(f"layer {min(layers, int(done + 1e-9) + 1)} of {layers}, K = {automaton.order}", done / layers)

    try:
        with torch.no_grad():
            margins = bounds.margins(advance)
    except NotFadingError as error:
        verdict.reason, margins = str(error), torch.full((graph.nodes,), -torch.inf, dtype=torch.float64, device=device)
    else:
        verdict.least = float(margins[decided].min())
    order = torch.argsort(torch.where(decided, margins, torch.inf))[: verdict.decisions]
    weak = order[margins[order] <= 0].cpu()
    verdict.proved = verdict.decisions - len(weak)
    if verdict.least is not None:
        names, places = vocabulary.tokens, [i * (len(order) - 1) // 100 for i in range(101)]
        verdict.margins = margins[order[places]].tolist()
        verdict.weakest = [(tuple(names[t] for t in graph.windows[node].tolist() if t >= 0),
                            names[int(graph.wanted[node])], float(margins[node])) for node in order[:10].tolist()]
    if verdict.proved == verdict.decisions:
        verdict.outcome = "certified"
        if path:
            layer = [[[part[i] for part in boxes if part[0] == number] for i in (1, 2)] for number in range(layers)]
            write_certificate(path, automaton, [tuple(torch.cat(half, 1) for half in pair) for pair in layer], backbone,
                              unit=verdict.unit, order=automaton.order, short=bounds.short[0].windows.shape[1],
                              sweeps=SWEEPS // 2, family=type(backbone).__name__, settings=bounds.settings(),
                              nodes=graph.nodes, edges=graph.edges, decisions=verdict.decisions,
                              least_margin=verdict.least, **header())
    elif not verdict.reason:
        verdict.reason = f"{len(weak):,} of {verdict.decisions:,} decisions are not proved"
    return [automaton.windows[node] for node in weak.tolist()]
