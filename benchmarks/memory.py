"""Memory of `verify` by the length of the trajectory: flat for a fixed memory, growing for full attention.

    python benchmarks/memory.py                     # up to a million tokens, small models on the CPU: a few minutes

`ours` is the largest resident memory of the process during `verify`, `alternative` the same at the shortest length,
and `above` what of it was not there before; the trajectories of all lengths are there all the time. Each model has a
process of its own. Writes results/benchmarks/memory.json.
"""

import json
import os
import subprocess
import sys
import threading
import time

import torch

from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules import backbones
from length_gen.lightning_modules.evaluation.verify import verify
from length_gen.lightning_modules.reporting.measurements import Records, arguments

LENGTHS = (10_000, 100_000, 1_000_000)
GROWING = (10_000, 20_000)
"""Tokens where the memory grows: full attention takes time that is quadratic in them."""

MODELS = {"Mamba": LENGTHS, "Mamba2": LENGTHS, "LSTM": LENGTHS, "GRU": LENGTHS, "Mistral": LENGTHS,
          "Suffix": LENGTHS, "Pythia": GROWING, "Hybrid": GROWING}


def main() -> None:
    """Measure each model in a process of its own."""
    options = arguments(__doc__, "memory", only=MODELS, longest=(max(LENGTHS), "tokens"), one=(str, None))
    if options.one:
        print(json.dumps(measure(options.one, [n for n in MODELS[options.one] if n <= options.longest])))
        return
    records = Records(options.out)
    for name in options.only:
        command = [sys.executable, __file__, "--one", name, "--longest", str(options.longest)]
        # One thread: a single row gains nothing by more, and their buffers would count.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        if result.returncode:
            raise SystemExit(f"{name}: {result.stderr[-2000:]}")
        cells = json.loads(result.stdout.splitlines()[-1])
        for cell in cells:
            records.add({"what": f"verify of {cell['tokens']:,} tokens, {cell['backbone']}", "ours": cell["peak"],
                         "alternative": cells[0]["peak"], "alternative_name": f"{cells[0]['tokens']:,} tokens",
                         "unit": "MB", "ratio": cell["peak"] / cells[0]["peak"], "floor": None, "device": "CPU",
                         "tokens": cell["tokens"], "above": cell["above"], "state_bytes": cell["state"],
                         "seconds": cell["seconds"]})
    records.show()


def measure(name: str, lengths: list[int]) -> list[dict]:
    """Peak memory of `verify` at each length, in MB."""
    task = Addition(5)
    vocabulary = task.vocabulary()
    torch.manual_seed(0)
    net = getattr(backbones, name)(len(vocabulary)).eval()
    trajectories = {n: trajectory(task, n) for n in lengths}
    verify(net, vocabulary, [trajectories[lengths[0]]])  # compiles, and fills the allocator
    cells = []
    for tokens in lengths:
        before, begun = resident(), time.perf_counter()
        with Peak() as peak:
            verify(net, vocabulary, [trajectories[tokens]])
        cells.append({"tokens": len(trajectories[tokens].tokens), "backbone": net.description,
                      "peak": peak.value / 1e6, "above": (peak.value - before) / 1e6, "state": net.state_size(tokens),
                      "seconds": round(time.perf_counter() - begun, 1)})
    return cells


def trajectory(task: Addition, tokens: int):
    """The shortest trajectory of at least so many tokens, to a digit."""
    digits = tokens // 40
    while len((reference := task.record(task.problem("test", 0, digits, 0, task.variants[0]))).tokens) < tokens:
        digits += max(1, (tokens - len(reference.tokens)) // 36)
    return reference


def resident() -> int:
    """Resident memory of this process in bytes (Linux)."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


class Peak:
    """The largest resident memory, in bytes, that is seen while the block runs."""

    def __enter__(self) -> "Peak":
        self.value, self._end = resident(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._end.wait(0.005):
            self.value = max(self.value, resident())

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


if __name__ == "__main__":
    main()
