"""What TensorBoard shows of a run beside its scalars: charts that belong together, and what tells runs apart."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from length_gen.lightning_modules.evaluation.metrics import Record, exact_up_to, group_records, shares

EXACT_TO, LONGEST = "final/exact_up_to", "final/exact_match_at_longest"
"""Tags by which runs compare: of the evaluation after the training."""


def boards(trainer: Trainer) -> list[TensorBoardLogger]:
    """The run's TensorBoard loggers; none on other ranks than the first."""
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)] * trainer.is_global_zero


def begin(board: TensorBoardLogger, groups: Mapping[str, Sequence[str]], settings: Mapping[str, Any]) -> None:
    """Lay out the tab of custom scalars (loss, exact match by length, how far all is exact), and note what tells this
    run apart.

    groups:   title -> tags of the lengths of one chart
    settings: numbers and strings
    """
    board.log_metrics = _without_epoch(board.log_metrics)
    charts = {"loss": ["train/loss", "validation/loss"]} | groups | {"exact up to": ["exact_up_to"]}
    board.experiment.add_custom_scalars({"length generalization": {
        title: ["Multiline", [f"^{re.escape(tag)}$" for tag in tags]] for title, tags in charts.items()}})
    experiment, start, _ = hparams(dict(settings), {EXACT_TO: 0.0, LONGEST: 0.0})
    for summary in (experiment, start):
        board.experiment.file_writer.add_summary(summary)


def finals(records: Sequence[Record], longest: int) -> dict[str, float]:
    """By what runs compare, whatever logs it: up to which length all is exact, and the lowest exact match at the
    longest length (0 for a curve that ended before)."""
    rates = [next((r["exact_match"] for r in curve if r["length"] == longest), 0.0)
             for curve in group_records(records).values()]
    return {EXACT_TO: float(exact_up_to(shares(records))), LONGEST: float(min(rates, default=0.0))}


def finish(board: TensorBoardLogger) -> None:
    """Tell TensorBoard that the run has ended."""
    board.experiment.file_writer.add_summary(hparams({}, {})[2])  # the session has ended


def _without_epoch(log_metrics: Callable[..., None]) -> Callable[..., None]:
    """Lightning adds the epoch to all that it logs, and an endless stream has but one."""
    def log(metrics: Mapping[str, float], step: int | None = None) -> None:
        log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    return log
