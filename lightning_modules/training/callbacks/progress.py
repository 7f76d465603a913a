"""The progress bar of a run that has steps, not epochs, and of its evaluations, length by length."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from threading import Thread
from time import sleep
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

BEAT = 1.0
"""Seconds from one sign of life to the next."""

Watch = Callable[[int, int, int], None]
"""What an evaluation tells while it goes on: the length, and how many of how many tokens at that length are done."""


class RunProgress(RichProgressBar):
    """Lightning's bar in one line of 80 columns: steps, time left, loss, tokens/s and how far all is exact."""

    def __init__(self) -> None:
        super().__init__(refresh_rate=5)

    def _init_progress(self, trainer: Trainer) -> None:
        before = self.progress
        super()._init_progress(trainer)
        if self.progress is not None and self.progress is not before:
            Thread(target=_beat, args=(self.progress,), daemon=True).start()

    def configure_columns(self, trainer: Trainer) -> list[ProgressColumn]:
        """Without the time that went by and the steps per second, and with a sign of life before the first step."""
        return [SpinnerColumn("line"), TextColumn("{task.description}"), BarColumn(8), _Done(),
                TimeRemainingColumn(compact=True), TextColumn("left", "dim")]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        formats = {"loss": "{:.3g}", "exact_up_to": "{:,.0f}"}
        shown = {name.replace("exact_up_to", "exact to"): formats.get(name, "{}").format(value)
                 for name, value in metrics.items()}
        if speed := metrics.get("tok/s"):
            shown["tok/s"] = f"{speed / 1e6:.1f}M" if speed >= 1e6 else f"{speed / 1e3:.1f}K"
        return shown

    def _get_train_description(self, current_epoch: int) -> str:
        return "Training"  # a stream has no epochs

    @contextmanager
    def evaluating(self, trainer: Trainer, name: str, work: Mapping[int, int]) -> Iterator[Watch]:
        """A bar for an evaluation, gone at its end; what it yields is to be told how far each length is.

        work: length -> its share of the work, in any unit
        """
        self._init_progress(trainer)
        if self.progress is None:
            yield lambda length, done, total: None
            return
        lengths, bar = list(work), self.progress.add_task(name, total=sum(work.values()))
        others = [task.id for task in self.progress.tasks if task.visible and task.id != bar]

        def watch(length: int, done: int, total: int) -> None:
            place = lengths.index(length)
            before = sum(work[shorter] for shorter in lengths[:place])
            self.progress.update(bar, completed=before + work[length] * done / max(total, 1),
                                 description=f"{name} {length:,}", place=f"length {place + 1} of {len(lengths)}")
            self.refresh()  # Lightning's bar draws itself when told to, not by the clock

        for task in others:
            self.progress.update(task, visible=False)
        try:
            yield watch
        finally:
            self.progress.remove_task(bar)
            if trainer.validating and self.train_progress_bar_id in others:
                self.progress.update(self.train_progress_bar_id, visible=True)
            self.progress.refresh()


def _beat(progress: Progress) -> None:
    """Draw a bar each second until it ends: Lightning's draws itself only where there is news, and a step can take
    long, as can what is compiled before the first."""
    while progress.live.is_started:
        progress.refresh()
        sleep(BEAT)


class _Done(ProgressColumn):
    """Steps or batches that are done, or the `place` that an evaluation is at."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("place") or f"{int(task.completed):,}/{task.total:,}")
