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
import torch
from rich.console import Console
from rich.table import Table

from length_gen.datamodules.stream import Item, collate
from length_gen.datamodules.tasks import Turing
from length_gen.lightning_modules.backbones import Suffix
from length_gen.lightning_modules.evaluation.horizons import horizons
from length_gen.lightning_modules.evaluation.metrics import write_metrics
from length_gen.lightning_modules.evaluation.verify import verify
from length_gen.lightning_modules.model import masked_targets
from length_gen.lightning_modules.provenance import origin


def main() -> None:
    """Measure each machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machines", nargs="+", default=["increment", "add", "sort", "palindrome", "brackets", "copy"])
    parser.add_argument("--max_length", type=int, default=6, help="n0: longest training input")
    parser.add_argument("--length", type=int, default=50, help="of the test inputs")
    parser.add_argument("--problems", type=int, default=16, help="test inputs")
    parser.add_argument("--trials", type=int, default=10, help="independent draws of the training trajectories")
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--delta", type=float, default=0.1)
    parser.add_argument("--most", type=int, default=1024, help="give up beyond so many trajectories")
    parser.add_argument("--out", default="results/theory/sample_complexity.json")
    options = parser.parse_args()
    table = Table("machine", "states x symbols", "horizon", "needed", "bound", "needed / bound",
                  "errors by trajectories")
    rows = []
    for name in options.machines:
        row = measure(name, options)
        rows.append(row)
        table.add_row(name, f"{row['states']} x {row['symbols']}", str(row["horizon"]), str(row["needed"] or "more"),
                      f"{row['bound']:,}", f"{row['needed'] / row['bound']:.3f}" if row["needed"] else "",
                      " ".join(f"{m}:{sum(e) / len(e):.2f}" for m, e in row["errors"].items()))
    Console(width=160).print(table)
    write_metrics(options.out, rows, **origin(torch.device("cpu")), settings=vars(options))


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
