"""Scripted agents in mini-swe-agent's loop and the sandbox: how many code bases they fix, and how fast.

    python benchmarks/agents.py --lengths 4 8 16 32 64 --problems 200

Beside it the processor time of a trajectory, which a busy machine does not change much, how many a core could do in a
second, and what starting Python alone takes, which every run of the code pays.
"""

import itertools
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor

from length_gen.datamodules.collection import Collection, summary
from length_gen.datamodules.judge import judge_sandbox
from length_gen.datamodules.scripted import AGENTS
from length_gen.lightning_modules.evaluation.metrics import wilson_interval
from length_gen.lightning_modules.reporting.measurements import Records, arguments
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
    options = arguments(__doc__, "agents", lengths=(["4", "8", "16", "32", "64"], "functions; 4-16 is one cell"),
                        problems=200, agents=AGENTS, workers=cores(), unsandboxed=False)
    records = Records(options.out, workers=options.workers)
    with ProcessPoolExecutor(options.workers, multiprocessing.get_context("fork")) as pool:
        for agent, lengths in itertools.product(options.agents, options.lengths):
            low, _, high = lengths.partition("-")
            collection = Collection(agent, 1, (int(low), int(high or low)), unsandboxed=options.unsandboxed)
            list(pool.map(one, [(collection, -1 - i) for i in range(options.workers)]))  # imports, judges
            start = time.perf_counter()
            done = list(pool.map(one, [(collection, i) for i in range(options.problems)]))
            seconds = time.perf_counter() - start
            python = sum(pool.map(start_of_python, [options.unsandboxed] * options.workers)) / options.workers
            cpu = sum(record["cpu"] for record in done) / options.problems
            fixed = sum(record["fixed"] for record in done)
            records.add({"agent": agent, "functions": lengths, "problems": options.problems, "fixed": fixed,
                         "fixed_low": wilson_interval(fixed, options.problems)[0],
                         "needless": sum(record["needless"] for record in done),
                         "messages": sum(2 * record["turns"] + 1 for record in done) / options.problems,
                         "trajectories_per_second": options.problems / seconds, "cpu_seconds": cpu,
                         "trajectories_per_cpu_second": 1 / cpu, "python_start_cpu_seconds": python},
                        load=os.getloadavg()[0])
    records.show()


if __name__ == "__main__":
    main()
