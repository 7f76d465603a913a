"""Recording speed of every task: tokens a second of one core, against the 1 million that keep a GPU fed.

    python benchmarks/data.py

`ours` is the stream's batches (problem, trajectory, token ids, packing), or the files of the command `data`;
`alternative` is the recording alone. Writes results/benchmarks/data.json.
"""

import random
import tempfile
import time
from pathlib import Path

from length_gen.datamodules import tasks
from length_gen.datamodules.export import FORMATS, write_shard
from length_gen.datamodules.stream import TrajectoryStream, collate
from length_gen.datamodules.tasks.machine import FOLDER
from length_gen.lightning_modules.reporting.measurements import Records, arguments

TARGET = 1e6


def main() -> None:
    """Measure each task."""
    options = arguments(__doc__, "data", seconds=(2.0, "of each measurement"))
    measured = [cls(length, style) for cls, length in (
        (tasks.Addition, 5), (tasks.Multiplication, 10), (tasks.Copy, 10), (tasks.Reverse, 10), (tasks.Sort, 10),
        (tasks.LogicalGraph, 10), (tasks.HanoiIterative, 5), (tasks.HanoiRecursive, 5)) for style in ("local", "paper")]
    measured += [tasks.Turing(path.stem, 6) for path in sorted(FOLDER.glob("*.yaml"))]
    records = Records(options.out)
    for task in measured:
        recording = measure_recording(task, options.seconds)
        speeds = {"": measure_rows(task, options.seconds)}
        speeds |= {f", {format} in Parquet": measure_export(task, format, options.seconds) for format in FORMATS}
        for what, speed in speeds.items():
            records.add({"what": f"{task.name}, {task.style}{what}", "ours": speed, "alternative": recording,
                         "alternative_name": "recording alone", "unit": "tokens/s a core",
                         "ratio": speed / recording, "floor": TARGET, "device": "CPU, one core"})
    records.show()


def measure_recording(task: tasks.Task, seconds: float) -> float:
    """Tokens a second of processor time in recording trajectories alone."""
    rng, tokens, begun = random.Random(0), 0, time.process_time()
    while time.process_time() - begun < seconds:
        tokens += len(task.record(task.sample_training(rng)).tokens)
    return tokens / (time.process_time() - begun)


def measure_rows(task: tasks.Task, seconds: float) -> float:
    """Tokens a second of processor time in the stream's items and their packing, 128 items at a time."""
    stream, begun = TrajectoryStream(task, 0), time.process_time()
    index = tokens = 0
    while time.process_time() - begun < seconds:
        items = [stream[index + i] for i in range(128)]
        tokens += sum(len(item.ids) for item in items)
        collate(items, 4096, packed=True)
        index += 128
    return tokens / (time.process_time() - begun)


def measure_export(task: tasks.Task, format: str, seconds: float) -> float:
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
