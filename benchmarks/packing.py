"""What is learnt beside what is drawn: whole trajectories packed (`ours`), and rows filled end to end (`alternative`).

    python benchmarks/packing.py

Of rows that are filled end to end, as version 1 of the stream did and many trainers do, the last trajectory is cut, and
the longer one is, the likelier it is to be that. For the trainings of this suite: the share of the trajectories of the
greatest length, by variant, among all that are drawn, and among those that keep their endings; and what packing whole
trajectories costs in padding. Writes results/benchmarks/packing.json.
"""

import random
from collections import Counter

from length_gen.datamodules import tasks
from length_gen.datamodules.stream import pack
from length_gen.datamodules.tasks.machine import FOLDER
from length_gen.lightning_modules.reporting.measurements import Records, arguments

TRAININGS = (
    (tasks.Addition(5), 24, 512), (tasks.Addition(20), 16, 768), (tasks.Multiplication(5), 20, 768),
    (tasks.Multiplication(10), 20, 768), (tasks.Multiplication(10), 64, 1024), (tasks.Multiplication(20), 12, 1280),
    (tasks.Copy(10), 24, 512), (tasks.Reverse(10), 24, 512), (tasks.Sort(10), 24, 768),
    (tasks.LogicalGraph(10), 16, 1024), (tasks.LogicalGraph(10), 64, 1024), (tasks.HanoiIterative(5), 6, 2816),
    (tasks.HanoiRecursive(7), 4, 4224), (tasks.Mixture([tasks.Multiplication(20), tasks.Addition(20)]), 12, 1280),
    *((tasks.Turing(path.stem, 6), 8, 1536) for path in sorted(FOLDER.glob("*.yaml"))))
"""Task, rows of a step, tokens of a row."""


def main() -> None:
    """Measure each training."""
    options = arguments(__doc__, "packing", trajectories=(10_000, "of each training"))
    records = Records(options.out, trajectories=options.trajectories)
    for training in TRAININGS:
        for row in measure(*training, options.trajectories):
            records.add(row)
    records.show()


def measure(task: tasks.Task, count: int, row_length: int, trajectories: int) -> list[dict]:
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
