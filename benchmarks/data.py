"""Recording speed of every task: tokens a second of one core, against the 1 million that keep a GPU fed.

    python benchmarks/data.py

`ours` is the stream's batches (problem, trajectory, token ids, packing), or the files of the command `data`;
`alternative` is the recording alone. Writes results/benchmarks/data.json.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from length_gen.datamodules.export import FORMATS, write_shard
from length_gen.datamodules.stream import TrajectoryStream, collate
from length_gen.datamodules.tasks import (
    Addition,
    Copy,
    HanoiIterative,
    HanoiRecursive,
    LogicalGraph,
    Multiplication,
    Reverse,
    Sort,
    Task,
    Turing,
)
from length_gen.datamodules.tasks.machine import FOLDER
from length_gen.lightning_modules.evaluation.metrics import write_metrics
from length_gen.lightning_modules.provenance import origin

TARGET = 1e6


def main() -> None:
    """Measure each task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    parser.add_argument("--out", default="results/benchmarks/data.json")
    options = parser.parse_args()
    tasks: list[Task] = [cls(length, style) for cls, length in (
        (Addition, 5), (Multiplication, 10), (Copy, 10), (Reverse, 10), (Sort, 10), (LogicalGraph, 10),
        (HanoiIterative, 5), (HanoiRecursive, 5)) for style in ("local", "paper")]
    tasks += [Turing(path.stem, 6) for path in sorted(FOLDER.glob("*.yaml"))]
    table, rows = Table("task", "style", "recording, M tokens/s", "batches", *FORMATS, "least of 1 M"), []
    for task in tasks:
        recording = measure_recording(task, options.seconds)
        speeds = {"": measure_rows(task, options.seconds)}
        speeds |= {f", {format} in Parquet": measure_export(task, format, options.seconds) for format in FORMATS}
        table.add_row(task.name, task.style, *(f"{speed / 1e6:.2f}" for speed in (recording, *speeds.values())),
                      f"{min(speeds.values()) / TARGET:.2f}")
        rows += [{"what": f"{task.name}, {task.style}{what}", "ours": speed, "alternative": recording,
                  "alternative_name": "recording alone", "unit": "tokens/s a core", "ratio": speed / recording,
                  "floor": TARGET, "device": "CPU, one core"} for what, speed in speeds.items()]
    Console().print(table)
    write_metrics(options.out, rows, **origin(torch.device("cpu")))


def measure_recording(task: Task, seconds: float) -> float:
    """Tokens a second of processor time in recording trajectories alone."""
    rng, tokens, begun = random.Random(0), 0, time.process_time()
    while time.process_time() - begun < seconds:
        tokens += len(task.record(task.sample_training(rng)).tokens)
    return tokens / (time.process_time() - begun)


def measure_rows(task: Task, seconds: float) -> float:
    """Tokens a second of processor time in the stream's items and their packing, 128 items at a time."""
    stream, begun = TrajectoryStream(task, 0), time.process_time()
    index = tokens = 0
    while time.process_time() - begun < seconds:
        items = [stream[index + i] for i in range(128)]
        tokens += sum(len(item.ids) for item in items)
        collate(items, 4096, packed=True)
        index += 128
    return tokens / (time.process_time() - begun)


def measure_export(task: Task, format: str, seconds: float) -> float:
    """Tokens a second of processor time in writing files of 1,000 trajectories, after a first one."""
    stream, size, tokens = TrajectoryStream(task, 0), 1000, 0
    with tempfile.TemporaryDirectory() as folder:
        write_shard(Path(folder), stream, format, 0, size, size)
        begun, number = time.process_time(), 0
        while time.process_time() - begun < seconds:
            number += 1
            tokens += write_shard(Path(folder), stream, format, number, size, (number + 1) * size)
    return tokens / (time.process_time() - begun)


if __name__ == "__main__":
    main()
