"""Problems that lead a model to the decisions that were not proved, and a rollout of it there.

A search over problems of the task, by what it offers alone: random ones of every length and variant, and mutations of
the prompts that came nearest, those whose trajectories have the longest end of an unproved window in them, with the
least margin there. It proves nothing: where it finds no error there may be one.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from length_gen.datamodules.rollout import budget
from length_gen.datamodules.tasks import Problem, Task
from length_gen.datamodules.tokens import PREDICTED
from length_gen.datamodules.trajectory import Trajectory
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.backbones.decoder import device_guard
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.tools import UserError

WEAKEST, KEPT, BATCH, LONGEST = 64, 32, 64, 12
"""Unproved windows that are looked for, problems that are mutated, problems at a time, and their length at first."""


@dataclass(frozen=True, slots=True)
class Counterexample:
    """A problem on which a model errs, seen in a rollout.

    position: of the first token that is not the reference's; `expected` and `said` are the two (said is None if the
              rollout has ended before), and `context` the tokens before it
    """

    problem: Problem
    position: int
    context: tuple[str, ...]
    expected: str
    said: str | None


@dataclass(slots=True)
class _Tried:
    problem: Problem
    near: int        # tokens of an unproved window, from its newest back, that its trajectory has
    margin: float    # the least, there


def refute(backbone: Backbone, task: Task, vocabulary: Vocabulary, windows: Sequence[Sequence[int]], seconds: float,
           variants: Sequence[str] | None = None, seed: int = 0, context: int = 12,
           progress: Callable[[float], None] = lambda part: None) -> Counterexample | None:
    """A counterexample, or None if none is found in the time; the search is the same for the same seed.

    backbone: computes as is asked about: its parameters' type is that of the passes and the rollout
    windows:  of unproved decisions, the weakest first; token ids, -1 before the first
    variants: kinds of problems; None: all of the task's
    context:  most tokens of it that are told
    progress: called with the part of the time that has passed
    """
    rng, begun = random.Random(seed), time.monotonic()
    sought = np.array(list(windows[:WEAKEST]), dtype=np.int64)
    best: list[_Tried] = []
    seen: set[tuple[str, ...]] = set()
    longest = max(task.shortest, min(task.longest, 3))
    kinds = task.variants if variants is None else variants
    trouble = [problem for length in range(task.shortest, min(task.longest, LONGEST) + 1)
               for kind in task.variants_at(length) if kind in kinds
               for problem in task.structured_problems("validation", seed, length, kind)]
    while (passed := (time.monotonic() - begun) / seconds) < 1:
        progress(passed)
        problems = []
        for _ in range(4 * BATCH):
            if trouble:
                problem = trouble.pop(0)
            elif not best or rng.random() < 0.3:
                problem = _random(task, rng, longest, kinds)
            else:
                problem = _mutated(task, rng, rng.choice(best).problem, kinds)
            if problem is not None and problem.prompt not in seen:
                seen.add(problem.prompt)
                problems.append(problem)
            if len(problems) == BATCH:
                break
        longest = min(task.longest, longest + 1, LONGEST if len(sought) else 100 * LONGEST)
        if not problems:
            continue
        references = task.references(problems)
        margins = _margins(backbone, vocabulary, references)
        for problem, reference, (ids, least) in zip(problems, references, margins, strict=True):
            if least.min() <= 0 and (found := _confirmed(backbone, task, vocabulary, problem, reference, context)):
                return found
            near = _nearness(ids, sought)
            nearest = near.max()
            best.append(_Tried(problem, int(nearest), float(least[near == nearest].min())))
        best = sorted(best, key=lambda tried: (-tried.near, tried.margin))[:KEPT]
    return None


def _random(task: Task, rng: random.Random, longest: int, kinds: Sequence[str]) -> Problem | None:
    length = rng.randint(task.shortest, max(task.shortest, longest))
    variants = [variant for variant in task.variants_at(length) if variant in kinds]
    return task.sample(rng, length, rng.choice(variants)) if variants else None


def _mutated(task: Task, rng: random.Random, problem: Problem, kinds: Sequence[str]) -> Problem | None:
    """Another problem whose prompt differs a little, None if what comes out is none of the task, or of other kinds."""
    tokens = list(problem.prompt)
    for _ in range(rng.choice((1, 1, 2, 3))):
        i, j = sorted(rng.randrange(len(tokens) + 1) for _ in range(2))
        kind = rng.randrange(4)
        if kind == 0 and i < len(tokens):
            tokens[i] = rng.choice(tokens)
        elif kind == 1:
            tokens[i:i] = tokens[i:j][:8]  # a part again
        elif kind == 2:
            del tokens[i : min(j, i + 8)]
        elif fresh := _random(task, rng, 8, kinds):
            part = list(fresh.prompt)
            tokens[i : min(j, i + 4)] = part[: rng.randint(1, len(part))][:4]
        if not tokens:
            return None
    try:
        found = task.parse("".join(tokens))
        task.check_length(found.length)
    except (UserError, ValueError):
        return None
    # A task that says what variant a problem is of says it here too; others have one, or variants that hold each other.
    if (found.variant and found.variant not in kinds) or len(found.prompt) > 2 * len(problem.prompt) + 8:
        return None
    return found


@torch.inference_mode()
def _margins(backbone: Backbone, vocabulary: Vocabulary, references: Sequence[Trajectory]
             ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of every trajectory: its ids, and by how much the logit of each token exceeds all others' where it is predicted;
    infinite elsewhere."""
    device = next(backbone.parameters()).device
    rows = [vocabulary.encode(reference.tokens).astype(np.int64) for reference in references]
    order = np.argsort([len(row) for row in rows])
    found: list = [None] * len(rows)
    for part in np.array_split(order, max(1, len(order) // 16)):
        tokens = torch.zeros(len(part), max(len(rows[i]) for i in part), dtype=torch.long)
        for k, i in enumerate(part):
            tokens[k, : len(rows[i])] = torch.from_numpy(rows[i])
        tokens = tokens.to(device)
        with device_guard(device):
            logits = backbone(tokens[:, :-1], return_state=False)[0]
        right = logits.gather(2, tokens[:, 1:, None])[..., 0]
        others = logits.scatter(2, tokens[:, 1:, None], -torch.inf).amax(-1)
        ahead = (right - others).double().cpu().numpy()
        for k, i in enumerate(part):
            least = np.full(len(rows[i]), np.inf)
            told = np.isin(np.frombuffer(bytes(references[i].kinds), np.uint8), list(PREDICTED))
            told[0] = False
            least[told] = np.nan_to_num(ahead[k][np.flatnonzero(told) - 1], nan=-np.inf)
            found[i] = rows[i], least
    return found


def _nearness(ids: np.ndarray, sought: np.ndarray) -> np.ndarray:
    """Of every token of a trajectory: how many tokens before it are the newest of some window [windows, K]."""
    if not len(sought):
        return np.zeros(len(ids), dtype=np.int64)
    order = sought.shape[1]
    padded = np.concatenate([np.full(order, -1), ids])
    places = np.lib.stride_tricks.sliding_window_view(padded, order)[: len(ids)]
    near = np.zeros(len(ids), dtype=np.int64)
    for window in sought:
        equal = (places == window)[:, ::-1]
        near = np.maximum(near, np.where(equal.all(1), order, equal.argmin(1)))
    return near


def _confirmed(backbone: Backbone, task: Task, vocabulary: Vocabulary, problem: Problem, reference: Trajectory,
               context: int) -> Counterexample | None:
    """What goes wrong in a rollout with the real tool; None if nothing does."""
    row, = rollout(backbone, vocabulary, task, [(problem, budget(reference))], decoding=Decoding(engine="host"))
    if row.tokens == reference.tokens:
        return None
    pairs = zip(row.tokens, reference.tokens, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(row.tokens), len(reference.tokens)))
    return Counterexample(problem, at, tuple(reference.tokens[max(0, at - context) : at]),
                          reference.tokens[at] if at < len(reference.tokens) else "",
                          row.tokens[at] if at < len(row.tokens) else None)
