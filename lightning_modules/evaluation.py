"""Length generalization of one model: exact match and answers at growing lengths, by rollout or verify."""

from collections.abc import Callable, Iterator, Sequence

from datamodules.datamodule import TrajectoryDataModule
from lightning_modules.metrics import LengthMetrics, Outcome, Record
from lightning_modules.model import TrajectoryModel
from lightning_modules.rollout import budget, judge, rollout
from lightning_modules.verify import verify
from tools import UserError

EVALUATORS = ("rollout", "verify")


def check_lengths(lengths: Sequence[int], shortest: int = 1) -> None:
    """Raises UserError unless the lengths are possible and grow."""
    if any(length < shortest for length in lengths):
        raise UserError(f"length {min(lengths)} is not allowed: evaluation lengths start at {shortest}")
    if list(lengths) != sorted(set(lengths)):
        raise UserError(f"evaluation lengths {list(lengths)} do not increase: give each once, in growing order")


def evaluate(model: TrajectoryModel, data: TrajectoryDataModule, lengths: Sequence[int],
             problems: Callable[[int], int], evaluator: str, split: str, batch_size: int = 64, rank: int = 0,
             world: int = 1) -> Iterator[Record]:
    """Records of metrics.json, a length and variant at a time.

    problems: number of problems at a length, for each variant; ranks share them
    split:    `test` or `validation` problems

    A variant's lengths stop growing after one with no exact and no right answer.
    """
    variants = list(data.task.variants)
    was_training = model.training
    model.eval()
    for length in lengths:
        if not variants:
            break
        cells = [(v, i) for v in variants for i in range(rank, problems(length), world)]
        metrics = {v: _metrics(model, data, v, length, evaluator) for v in variants}
        outcomes = _outcomes(model, data, cells, length, evaluator, split, batch_size)
        for (variant, _), outcome in zip(cells, outcomes, strict=True):
            metrics[variant].update(outcome)
        for variant, metric in metrics.items():
            record = metric.compute()
            if not record["exact_match"] and not record["answer_accuracy"]:
                variants.remove(variant)
            yield record
    model.train(was_training)


def _outcomes(model: TrajectoryModel, data: TrajectoryDataModule, cells: Sequence[tuple[str, int]], length: int,
              evaluator: str, split: str, batch_size: int) -> list[Outcome]:
    task, vocabulary = data.task, model.vocabulary
    problems = [data.problem(split, length, index, variant) for variant, index in cells]
    references = task.references(problems)
    if evaluator == "verify":
        return verify(model.backbone, vocabulary, references, batch_size=batch_size)
    budgets = [(problem, budget(reference)) for problem, reference in zip(problems, references, strict=True)]
    rows = rollout(model.backbone, vocabulary, task, budgets, batch_size)
    return [judge(row, task, reference) for row, reference in zip(rows, references, strict=True)]


def _metrics(model: TrajectoryModel, data: TrajectoryDataModule, variant: str, length: int,
             evaluator: str) -> LengthMetrics:
    task, variant = data.task.part(variant)
    metric = LengthMetrics(task.name, length, variant=variant, setting=task.setting, style=task.style,
                           evaluator=evaluator, phases=task.phases)
    return metric.to(model.device)
