"""Code fixing, small models from scratch: collects trajectories, trains and rolls out the cells of a sweep, and prints
pass rates by length.

    python benchmarks/codefix.py --count 10000 --parallel 4

A machine without bubblewrap needs --unsandboxed: model-written commands then run as they are on it. What is there
(whole collections, results) is not made again.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

from length_gen.lightning_modules.runs.sweep import read_sweep, sweep
from length_gen.tools import UserError

AGENTS = ("interactive", "single_turn")


def main() -> None:
    """Collect, train, and print the pass rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", default="configs/sweeps/code_fixing.yaml")
    parser.add_argument("--count", type=int, default=10_000, help="trajectories of each agent")
    parser.add_argument("--parallel", type=int, default=2, help="trainings side by side")
    parser.add_argument("--minutes", type=float, help="end after so long; the next call goes on")
    parser.add_argument("--unsandboxed", action="store_true")
    parser.add_argument("--options", default="", help="further options of run.py fit")
    options = parser.parse_args()
    console, begun = Console(width=120, emoji=False), time.monotonic()
    unsandboxed = str(options.unsandboxed).lower()
    for agent in AGENTS:
        collect(agent, options.count, unsandboxed)
        console.print(f"{agent}: {options.count} trajectories, {time.monotonic() - begun:.0f} s")
    left = options.minutes and options.minutes - (time.monotonic() - begun) / 60
    try:
        sweep(options.sweep, options.parallel, left, f"--data.task.unsandboxed {unsandboxed} {options.options}")
    except UserError as error:
        console.print(str(error))
    console.print(table(options.sweep))


def collect(agent: str, count: int, unsandboxed: str) -> None:
    """Collect an agent's trajectories into trajectories/<agent>, unless they are all there."""
    folder = Path("trajectories") / agent
    if (folder / "summary.json").is_file():
        return
    command = [sys.executable, "run.py", "collect", str(folder), "--agent", agent, "--count", str(count),
               "--shard_size", "100", "--unsandboxed", unsandboxed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-1000:] + done.stderr[-2000:])


def table(file: str) -> Table:
    """Pass rates, and what else is known, of the cells of a sweep file that are done."""
    result = Table("cell", "functions", "pass rate (95%)", "exact", "token accuracy", "turns", "tokens", "reasons")
    for cell in read_sweep(file):
        records = json.loads(cell.result.read_text())["records"] if cell.result.is_file() else []
        for record in records:
            if record["evaluator"] == "rollout":
                low, high = record["answer_low"], record["answer_high"]
                result.add_row(cell.name, str(record["length"]),
                               f"{record['answer_accuracy']:.0%} ({low:.0%} to {high:.0%})",
                               f"{record['exact_match']:.0%}", f"{record['token_accuracy']:.2%}",
                               f"{record['turns']:.1f}", f"{record['tokens']:.0f}",
                               " ".join(f"{k}:{v}" for k, v in record["reasons"].items()))
    return result


if __name__ == "__main__":
    main()
