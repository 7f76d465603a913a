"""What is learnt beside what is drawn: whole trajectories packed (`ours`), and rows filled end to end (`alternative`).

    python benchmarks/packing.py

Of rows that are filled end to end, as version 1 of the stream did and many trainers do, the last trajectory is cut, and
the longer one is, the likelier it is to be that. For the trainings of this suite: the share of the trajectories of the
greatest length, by variant, among all that are drawn, and among those that keep their endings; and what packing whole
trajectories costs in padding. Writes results/benchmarks/packing.json.
"""

import argparse
import random
from collections import Counter

import torch
from rich.console import Console
from rich.table import Table

from length_gen.datamodules.stream import pack
from length_gen.datamodules.tasks import (
    Addition,
    Copy,
    HanoiIterative,
    HanoiRecursive,
    LogicalGraph,
    Mixture,
    Multiplication,
    Reverse,
    Sort,
    Task,
    Turing,
)
from length_gen.datamodules.tasks.machine import FOLDER
from length_gen.lightning_modules.evaluation.metrics import write_metrics
from length_gen.lightning_modules.provenance import origin

TRAININGS: list[tuple[Task, int, int]] = [
    (Addition(5), 24, 512), (Addition(20), 16, 768), (Multiplication(5), 20, 768), (Multiplication(10), 20, 768),
    (Multiplication(10), 64, 1024), (Multiplication(20), 12, 1280), (Copy(10), 24, 512), (Reverse(10), 24, 512),
    (Sort(10), 24, 768), (LogicalGraph(10), 16, 1024), (LogicalGraph(10), 64, 1024), (HanoiIterative(5), 6, 2816),
    (HanoiRecursive(7), 4, 4224), (Mixture([Multiplication(20), Addition(20)]), 12, 1280),
    *((Turing(path.stem, 6), 8, 1536) for path in sorted(FOLDER.glob("*.yaml")))]
"""Task, rows of a step, tokens of a row."""


def main() -> None:
    """Measure each training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trajectories", type=int, default=10_000, help="of each training")
    parser.add_argument("--out", default="results/benchmarks/packing.json")
    options = parser.parse_args()
    table = Table("training", "rows", "of the longest: drawn", "packed whole", "end to end", "keep their ends",
                  "of all", "padding", "rows of a step")
    rows = []
    for task, count, length in TRAININGS:
        for row in measure(task, count, length, options.trajectories):
            rows.append(row)
            table.add_row(row["what"], f"{count} x {length}", *(f"{row[key]:.1%}" for key in (
                "drawn", "ours", "alternative", "longest_kept", "all_kept", "padding")),
                f"{row['fewest_rows']} to {row['most_rows']}")
    Console(width=160).print(table)
    write_metrics(options.out, rows, **origin(torch.device("cpu")), trajectories=options.trajectories)


def measure(task: Task, count: int, row_length: int, trajectories: int) -> list[dict]:
    """A row for each variant that is trained on."""
    rng, drawn, kept, sizes, free = random.Random(0), Counter(), Counter(), [], 0
    for _ in range(trajectories):
        problem = task.sample_training(rng)
        sizes.append(len(task.record(problem).tokens))
        drawn[problem.variant, problem.length] += 1
        free = free if free > 0 else row_length + 1  # a row starts with a whole trajectory
        kept[problem.variant, problem.length] += sizes[-1] <= free
        free -= sizes[-1]
    capacity = max(row_length + 1, *sizes)
    step = round(count * row_length / (sum(sizes) / len(sizes)))
    rows = [pack(sizes[i : i + step], capacity) for i in range(0, len(sizes) - step, step)]
    packed = sum(map(len, rows))
    result = []
    for variant in dict.fromkeys(variant for variant, _ in drawn):
        longest = variant, max(length for name, length in drawn if name == variant)
        drawn_all, kept_all = (sum(n for (name, _), n in part.items() if name == variant) for part in (drawn, kept))
        share = drawn[longest] / drawn_all
        result.append({"what": " ".join(filter(None, (task.name, variant, f"<= {longest[1]}"))), "rows": count,
                       "row_length": row_length, "longest_trajectory": max(sizes), "drawn": share, "ours": share,
                       "alternative": kept[longest] / max(1, kept_all), "alternative_name": "rows end to end",
                       "unit": "share of the greatest length among what keeps its ending",
                       "longest_kept": kept[longest] / drawn[longest], "all_kept": kept_all / drawn_all,
                       "padding": 1 - sum(sizes[: step * len(rows)]) / (packed * capacity),
                       "fewest_rows": min(map(len, rows)), "most_rows": max(map(len, rows)), "device": "CPU"})
    return result


if __name__ == "__main__":
    main()
