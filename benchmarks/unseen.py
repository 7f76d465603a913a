"""Whether training shows what longer problems ask, by the style of trajectories; without training.

    python benchmarks/unseen.py                      # about 4 minutes on one core

Of addition and multiplication in each style, and each length and variant: how many decisions of a problem are unseen
(see datamodules/coverage.py), digits taken as alike, and in which phases. As digits are alike, so is a carry, and where
two operands of equal length end one decision is unseen in every style. Writes results/theory/unseen.json.
"""

import random
from collections import Counter

from length_gen.datamodules.coverage import unseen
from length_gen.datamodules.tasks import Addition, Multiplication
from length_gen.datamodules.tasks.arithmetic import DIGITS
from length_gen.lightning_modules.reporting.measurements import Records, arguments

STYLES = ("local", "beacons_8", "beacons_16", "beacons_32", "beacons_64", "paper")
CASES = [(Addition, 5, style) for style in STYLES] + [(Multiplication, 10, style) for style in STYLES] + [
    (Addition, 20, style) for style in ("local", *(f"beacons_{k}_random" for k in (8, 16, 32, 64)), "paper")]


def main() -> None:
    """Measure each task and style."""
    options = arguments(__doc__, "results/theory/unseen", lengths=[20, 100], problems=(8, "of each length"),
                        tokens=(200_000, "of training trajectories, about"))
    records = Records(options.out, settings=vars(options))
    for cls, most, style in CASES:
        task, rng, training = cls(most, style), random.Random(0), []
        while sum(len(one.tokens) for one in training) < options.tokens:
            training.append(task.record(task.sample_training(rng)))
        for length in options.lengths:
            for variant in task.variants:
                tests = [task.record(task.problem("validation", 0, length, i, variant))
                         for i in range(options.problems)]
                found = unseen(training, tests, task.vocabulary(), DIGITS)
                phases = Counter(test.phase_at(place) for test, places in zip(tests, found, strict=True)
                                 for place in places)
                records.add({"task": task.name, "style": style, "trained up to": most, "variant": variant,
                             "length": length, "problems": len(tests),
                             "unseen a problem": sum(map(len, found)) / len(tests),
                             "phases": ", ".join(f"{phase} ({count})" for phase, count in phases.most_common(3)),
                             "training trajectories": len(training)})
    records.show()


if __name__ == "__main__":
    main()
