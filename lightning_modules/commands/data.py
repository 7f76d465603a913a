"""The command `data`: a task's trajectories as files that other people's trainers read."""

import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import track

from length_gen.datamodules.export import card, export_of, start_export, write_shard
from length_gen.datamodules.stream import TrajectoryStream
from length_gen.lightning_modules.runs.load import Run
from length_gen.tools import UserError
from length_gen.tools.files import atomic_path
from length_gen.tools.system import cores


def data(run: Run, out: str, count: int, format: Literal["messages", "tokens"] = "messages",
         split: Literal["training", "validation", "test"] = "training", shard_size: int = 10_000,
         workers: int | None = None, name: str | None = None) -> None:
    """Write trajectories as Parquet, with a tokenizer and a data set's card, for `datasets` and TRL.

    Row i is trajectory i of the stream that a training with the same configuration and seed reads. Goes on where it was
    cut off, and where more are asked for: files that are there stay.

    Args:
        run: its task, seed and noise; it need not be trained
        out: the data set's folder, which may hold several configurations
        count: number of trajectories
        format: messages by role, or tokens with the mask of the loss
        split: of the stream; validation and test are drawn apart from training
        shard_size: trajectories in one file
        workers: files side by side; null: one for each core
        name: of the configuration in the data set; null: task, length, style and setting
    """
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError("Parquet needs pyarrow: pip install 'tool-use-length-generalization[data]'") from None
    for what, value in {"count": count, "shard_size": shard_size, "workers": workers or 1}.items():
        if value < 1:
            raise UserError(f"{what} {value} is not possible: expected at least 1")
    settings, held_out = run.data, split != "training"
    stream = TrajectoryStream(run.task, settings.evaluation_seed if held_out else settings.seed, split,
                              0.0 if held_out else settings.mistakes, 0.0 if held_out else settings.corrupted)
    export = export_of(stream, format, shard_size)
    name = name or export.name
    if not re.fullmatch(r"[\w.-]+", name):
        raise UserError(f"name {name!r} is not possible: expected letters, digits, '_', '.' and '-'")
    folder = Path(out) / name
    try:
        start_export(folder, export, stream)
        tokens = _write(folder, stream, format, shard_size, count, workers or cores())
        with atomic_path(Path(out) / "README.md") as temporary:
            temporary.write_text(card(Path(out)), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror or error}): give another --out") from error
    console = Console(emoji=False, highlight=False)
    console.print(f"{folder}: {count:,} trajectories, {tokens:,} tokens", soft_wrap=True, markup=False)
    console.print(f'Read them: datasets.load_dataset("{out}", "{name}")', soft_wrap=True, markup=False)


def _write(folder: Path, stream: TrajectoryStream, format: str, size: int, count: int, workers: int) -> int:
    numbers = range(-(-count // size))
    with ProcessPoolExecutor(min(workers, len(numbers)), multiprocessing.get_context("fork")) as pool:
        jobs = [pool.submit(write_shard, folder, stream, format, number, size, count) for number in numbers]
        try:
            return sum(job.result() for job in track(as_completed(jobs), f"{len(jobs):,} files", len(jobs)))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
