"""Length generalization of one model: exact match and answers at growing lengths, by rollout or verify."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.rollout import budget
from length_gen.datamodules.tasks import Problem
from length_gen.datamodules.trajectory import Trajectory
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.evaluation.metrics import LengthMetrics, Record
from length_gen.lightning_modules.evaluation.outcome import Outcome, judge
from length_gen.lightning_modules.evaluation.sharing import dealt, shared
from length_gen.lightning_modules.evaluation.verify import expected_tokens, verify, verify_streamed
from length_gen.tools import UserError

EVALUATORS = ("rollout", "verify")

PROBLEM_SETS = ("uniform", "structured")
"""Problems that the task draws at random, and those that look for trouble (`Task.structured`)."""


UNDRAFTED = 4
"""Problems of a record that are rolled out without a draft, from the first on, however the others are."""


def check_lengths(lengths: Sequence[int], shortest: int = 1) -> None:
    """Raises UserError unless all lengths are at least `shortest`, and each is larger than the one before."""
    if any(length < shortest for length in lengths):
        raise UserError(f"length {min(lengths)} is not allowed: evaluation lengths start at {shortest}")
    if list(lengths) != sorted(set(lengths)):
        raise UserError(f"evaluation lengths {list(lengths)} do not increase: give each once, in growing order")


def evaluate(backbone: Backbone, data: TrajectoryDataModule, lengths: Sequence[int],
             problems: Callable[[int], int], evaluator: str, split: str, batch_size: int = 64, rank: int = 0,
             world: int = 1, decoding: Decoding = Decoding(), stream_from: int | None = None,  # noqa: B008 (frozen)
             folder: Path | None = None, problem_set: str = "uniform",
             watch: Callable[[int, int, int], None] = lambda length, done, total: None) -> Iterator[Record]:
    """Records of metrics.json, a length and variant at a time.

    problems:    number of problems at a length, for each variant, at most; ranks share them
    split:       `test` or `validation` problems
    stream_from: verify lengths from this one on while their trajectories are recorded, which takes no memory
    folder:      where such a verification keeps what it needs to go on after it was cut off; None: nowhere
    problem_set: one of `PROBLEM_SETS`
    watch:       called while it goes on with the length, and how many of how many tokens at that length are done

    A variant's lengths stop growing after one with no exact and no right answer; one that it has not is left out.
    """
    going = list(data.task.variants)
    was_training = backbone.training
    backbone.eval()
    for length in lengths:
        variants = [variant for variant in data.task.variants_at(length) if variant in going]
        if not variants:
            continue
        cells = [(variant, number) for variant in variants for number in range(
            data.problem_count(split, length, variant, problems(length), problem_set))]

        def asked(places: Iterable[int], length=length, variants=variants, cells=cells) -> list[Problem]:
            """The problems of these places in `cells`, which rise."""
            chosen = [cells[place] for place in places]
            return [problem for variant in variants for problem in data.problems(
                split, length, variant, problems(length), problem_set, [n for own, n in chosen if own == variant])]

        metrics = {v: _metrics(backbone, data, v, length, evaluator, problem_set) for v in variants}
        if evaluator == "verify" and stream_from is not None and length >= stream_from:
            expected = {v: expected_tokens(data.task, length, v, data.evaluation_seed) for v in variants}
            places = dealt([expected[variant] for variant, _ in cells], world)[rank]
            outcomes = []
            for variant in variants:
                own = asked(place for place in places if cells[place][0] == variant)
                outcomes += _streamed(backbone, data, own, length, expected[variant], rank, folder, watch)
        else:
            watch(length, 0, 1)
            share = shared(asked, len(cells), data.task.references, rank, world)
            places = list(share)
            outcomes = _outcomes(backbone, data, list(share.values()), [cells[place][1] for place in places],
                                 evaluator, batch_size, decoding, partial(watch, length))
        for place, outcome in zip(places, outcomes, strict=True):
            metrics[cells[place][0]].update(outcome)
        for variant, metric in metrics.items():
            record = metric.compute()
            if not record["exact_match"] and not record["answer_accuracy"]:
                going.remove(variant)
            if record["problems"]:
                yield record
    backbone.train(was_training)


def _outcomes(backbone: Backbone, data: TrajectoryDataModule, share: Sequence[tuple[Problem, Trajectory]],
              numbers: Sequence[int], evaluator: str, batch_size: int, decoding: Decoding,
              watch: Callable[[int, int], None]) -> list[Outcome]:
    """One after the other, of problems and their references; `numbers`: which of its record's problems each one is."""
    task, vocabulary, references = data.task, data.vocabulary, [reference for _, reference in share]
    total, done = sum(len(reference.tokens) for reference in references), 0

    def progress(tokens: int) -> None:
        nonlocal done
        done = min(done + tokens, total)  # a rollout may take more than its reference
        watch(done, total)

    if evaluator == "verify":
        return verify(backbone, vocabulary, references, batch_size=batch_size, progress=progress)
    budgets = [(problem, budget(reference)) for problem, reference in share]
    drafts = [reference.tokens if number >= UNDRAFTED else None
              for number, reference in zip(numbers, references, strict=True)]
    rows = rollout(backbone, vocabulary, task, budgets, batch_size, decoding, progress, drafts)
    outcomes = [judge(row, task, reference) for row, reference in zip(rows, references, strict=True)]
    watch(total, total)  # from here on this rank waits for the others
    return outcomes


def _streamed(backbone: Backbone, data: TrajectoryDataModule, problems: Sequence[Problem], length: int, total: int,
              rank: int, folder: Path | None, watch: Callable[[int, int, int], None]) -> list[Outcome]:
    """total: tokens of a trajectory, about"""
    if not problems:
        return []
    return verify_streamed(backbone, data.task, problems, data.vocabulary, workers=max(1, data.cores - 1),
                           progress=lambda tokens: watch(length, min(tokens, total), total),
                           saved=folder and folder / f"verify_rank{rank}.pt")


def _metrics(backbone: Backbone, data: TrajectoryDataModule, variant: str, length: int,
             evaluator: str, problem_set: str) -> LengthMetrics:
    task, variant = data.task.part(variant)
    metric = LengthMetrics(task.name, length, variant=variant, setting=task.setting, style=task.style,
                           evaluator=evaluator, problem_set=problem_set, phases=task.phases)
    return metric.to(next(backbone.parameters()).device)
