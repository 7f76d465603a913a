"""Scripted agents in mini-swe-agent's loop and the sandbox: how many code bases they fix, and how fast.

    python benchmarks/agents.py --lengths 4,8,16,32,64 --problems 200

Beside it the processor time of a trajectory, which a busy machine does not change much, how many a core could do in a
second, and what starting Python alone takes, which every run of the code pays.
"""

import argparse
import multiprocessing
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from length_gen.datamodules.collection import Collection, summary
from length_gen.datamodules.judge import judge_sandbox
from length_gen.datamodules.scripted import AGENTS
from length_gen.lightning_modules.evaluation.metrics import wilson_interval, write_metrics
from length_gen.lightning_modules.provenance import origin
from length_gen.tools.sandbox import Limits, Sandbox, of_thread
from length_gen.tools.system import cores


def one(job: tuple[Collection, int]) -> dict:
    """A trajectory, and the processor time that it took, in the sandboxes and in the loop."""
    collection, index = job
    boxes = [of_thread("agent", Limits(), collection.unsandboxed), judge_sandbox(collection.unsandboxed)]
    before = time.process_time() + sum(box.cpu_seconds() for box in boxes)
    record = summary(collection.record(index))
    return record | {"cpu": time.process_time() + sum(box.cpu_seconds() for box in boxes) - before}


def start_of_python(unsandboxed: bool, runs: int = 20) -> float:
    """Processor time of one `python3 -c pass` in a sandbox that is there."""
    with Sandbox(unsandboxed=unsandboxed) as sandbox:
        before = sandbox.cpu_seconds()
        for _ in range(runs):
            sandbox.run("python3 -c pass")
        return (sandbox.cpu_seconds() - before) / runs


def main() -> None:
    """Measure each agent at each length."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="4,8,16,32,64", help="functions; a range such as 4-16 is one cell")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--agents", default=",".join(AGENTS))
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--unsandboxed", action="store_true")
    parser.add_argument("--out", default="results/benchmarks/agents.json")
    options = parser.parse_args()
    table = Table("agent", "functions", "fixed", "needless", "messages", "trajectories/s", "CPU ms", "per core and s",
                  "CPU ms of python3")
    rows = []
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("fork")) as pool:
        for agent in options.agents.split(","):
            for lengths in options.lengths.split(","):
                low, _, high = lengths.partition("-")
                collection = Collection(agent, 1, (int(low), int(high or low)), unsandboxed=options.unsandboxed)
                list(pool.map(one, [(collection, -1 - i) for i in range(options.workers)]))  # imports, judges
                start = time.perf_counter()
                records = list(pool.map(one, [(collection, i) for i in range(options.problems)]))
                seconds = time.perf_counter() - start
                python = sum(pool.map(start_of_python, [options.unsandboxed] * options.workers)) / options.workers
                cpu = sum(record["cpu"] for record in records) / options.problems
                fixed = sum(record["fixed"] for record in records)
                row = {"agent": agent, "functions": lengths, "problems": options.problems, "fixed": fixed,
                       "fixed_low": wilson_interval(fixed, options.problems)[0],
                       "needless": sum(record["needless"] for record in records),
                       "messages": sum(2 * record["turns"] + 1 for record in records) / options.problems,
                       "trajectories_per_second": options.problems / seconds, "cpu_seconds": cpu,
                       "python_start_cpu_seconds": python}
                rows.append(row)
                table.add_row(agent, lengths, f"{fixed}/{options.problems}", str(row["needless"]),
                              f"{row['messages']:.1f}", f"{row['trajectories_per_second']:.1f}", f"{1000 * cpu:.0f}",
                              f"{1 / cpu:.1f}", f"{1000 * python:.1f}")
    Console(width=120, emoji=False).print(table)
    write_metrics(options.out, rows, **origin(torch.device("cpu")), workers=options.workers, load=os.getloadavg()[0])


if __name__ == "__main__":
    main()
