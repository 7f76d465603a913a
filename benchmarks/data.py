"""Recording speed of every task: tokens a second of one core, against the 1 million that keep a GPU fed.

    python benchmarks/data.py

`ours` is the stream's batches (problem, trajectory, token ids, packing); `alternative` is the recording alone. Writes
results/benchmarks/data.json.
"""

import argparse
import random
import time

import torch
from rich.console import Console
from rich.table import Table

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
    table, rows = Table("task", "style", "batches, M tokens/s", "recording alone", "of 1 M"), []
    for task in tasks:
        recording, stream = measure_recording(task, options.seconds), measure_rows(task, options.seconds)
        table.add_row(task.name, task.style, f"{stream / 1e6:.2f}", f"{recording / 1e6:.2f}", f"{stream / TARGET:.2f}")
        rows.append({"what": f"{task.name}, {task.style}", "ours": stream, "alternative": recording,
                     "alternative_name": "recording alone", "unit": "tokens/s a core", "ratio": stream / recording,
                     "floor": TARGET, "device": "CPU, one core"})
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


if __name__ == "__main__":
    main()
