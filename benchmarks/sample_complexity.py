"""How many training trajectories the string-matching learner needs for a Turing machine, beside Theorem 2.2's bound.

    python benchmarks/sample_complexity.py --machines increment add sort palindrome --max_length 6 --length 50

For each machine: the fewest trajectories (a power of two), of inputs up to `max_length`, after which the error at
`length` is at most `epsilon` in at least a share 1 - `delta` of the trials; and the bound of Theorem 2.2,
n0 M log(M / delta) / epsilon with M = |Q| |S| (its states times its symbols, blank included).
Writes results/theory/sample_complexity.json.
"""

import argparse
import math
import random

import numpy as np

from length_gen.datamodules.stream import Item, collate
from length_gen.datamodules.tasks import Turing
from length_gen.lightning_modules.backbones import Suffix
from length_gen.lightning_modules.evaluation.analysis import horizons
from length_gen.lightning_modules.evaluation.verify import verify
from length_gen.lightning_modules.model import masked_targets
from length_gen.lightning_modules.reporting.measurements import Records, arguments


def main() -> None:
    """Measure each machine."""
    options = arguments(
        __doc__, "results/theory/sample_complexity",
        machines=["increment", "add", "sort", "palindrome", "brackets", "copy"],
        max_length=(6, "n0: longest training input"), length=(50, "of the test inputs"), problems=(16, "test inputs"),
        trials=(10, "independent draws of the training trajectories"), epsilon=0.1, delta=0.1,
        most=(1024, "give up beyond so many trajectories"))
    records = Records(options.out, settings=vars(options))
    for name in options.machines:
        records.add(measure(name, options))
    records.show()


def measure(name: str, options: argparse.Namespace) -> dict:
    """A machine's row: needed trajectories, bound, horizon, and the errors of every trial by trajectories."""
    task = Turing(name, options.max_length)
    vocabulary = task.vocabulary()
    horizon = [row["horizon"] for row in horizons(task, [2, 4, options.max_length], 100, 0)][-1]
    tests = [task.record(task.problem("test", 0, options.length, i)) for i in range(options.problems)]
    errors: dict[int, list[float]] = {}
    for trial in range(options.trials):
        learner, rng, seen, count = Suffix(len(vocabulary), window=horizon, min_count=1), random.Random(trial), 0, 1
        while count <= options.most:
            trajectories = [task.record(task.sample_training(rng)) for _ in range(count - seen)]
            seen = count
            for start in range(0, len(trajectories), 64):
                items = [Item(vocabulary.encode(t.tokens), np.frombuffer(t.kinds, dtype=np.uint8), 0, "")
                         for t in trajectories[start : start + 64]]
                batch = collate(items, 0, packed=False)
                learner.learn(batch["tokens"][:, :-1], masked_targets(batch["tokens"], batch["kinds"]))
            outcomes = verify(learner, vocabulary, tests)
            errors.setdefault(count, []).append(1 - sum(o.exact for o in outcomes) / len(outcomes))
            if errors[count][-1] == 0:
                break
            count *= 2
    # A trial that reached 0 is taken to stay there.
    for values in errors.values():
        values += [0.0] * (options.trials - len(values))
    enough = (1 - options.delta) * options.trials
    good = [m for m, values in errors.items() if sum(e <= options.epsilon for e in values) >= enough]
    states, symbols = len(task.machine.states) - len(task.machine.halt), len(task.machine.symbols) + 1
    pairs = states * symbols
    bound = math.ceil(options.max_length * pairs * math.log(pairs / options.delta) / options.epsilon)
    return {"machine": name, "states": states, "symbols": symbols, "horizon": horizon, "bound": bound,
            "needed": min(good, default=None), "errors": dict(sorted(errors.items()))}


if __name__ == "__main__":
    main()
