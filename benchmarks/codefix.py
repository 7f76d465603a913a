"""Code fixing, small models from scratch: Mamba and Pythia of equal size on interactive and single-turn trajectories.

    python benchmarks/codefix.py --count 6000 --steps 500 --parallel 4

Collects what is missing of the trajectories, trains what has no result yet, and prints pass rates by length. A machine
without bubblewrap needs --unsandboxed: model-written commands then run as they are on it.
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

from lightning_modules.sweep import Cell, Pool

ROOT = Path(__file__).parent.parent

MODELS = {
    "mamba": "--model.backbone Mamba --model.backbone.n_layer 8 --model.backbone.d_model 384 "
             "--model.learning_rate 2e-3",
    "pythia": "--model.backbone Pythia --model.backbone.n_layer 4 --model.backbone.d_model 384 "
              "--model.backbone.n_head 6 --model.learning_rate 1e-3",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", default="interactive,single_turn")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--count", type=int, default=6000, help="trajectories of each agent")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--lengths", default="[16,24,32,48]")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--parallel", type=int, default=2, help="trainings side by side")
    parser.add_argument("--minutes", type=float, default=None, help="that the trainings may take in all")
    parser.add_argument("--trajectories", default="trajectories", help="folder; has a folder for each agent")
    parser.add_argument("--results", default="results/code_fixing_16")
    parser.add_argument("--unsandboxed", action="store_true")
    parser.add_argument("--options", default="", help="further options of run.py fit")
    options = parser.parse_args()
    console, begun = Console(width=120, emoji=False), time.time()
    agents = options.agents.split(",")
    for agent in agents:
        collect(options, agent)
        console.print(f"{agent}: {options.count} trajectories, {time.time() - begun:.0f} s")
    cells = [cell(options, model, agent, seed) for seed in range(1, options.seeds + 1)
             for model in options.models.split(",") for agent in agents]
    missing = [cell for cell in cells if not cell.result.is_file()]
    Pool(options.parallel, options.minutes, console).run(missing)
    console.print(table([cell for cell in cells if cell.result.is_file()]))


def collect(options: argparse.Namespace, agent: str) -> None:
    folder = Path(options.trajectories) / agent
    if (folder / "summary.json").is_file():
        return
    command = [sys.executable, str(ROOT / "run.py"), "collect", str(folder), "--agent", agent, "--count",
               str(options.count), "--shard_size", "100", "--unsandboxed", str(options.unsandboxed).lower()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-1000:] + done.stderr[-2000:])


def cell(options: argparse.Namespace, model: str, agent: str, seed: int) -> Cell:
    name = f"{model}_{agent}_seed{seed}"
    text = (f"--config configs/codefix.yaml {MODELS[model]} --data.task.trajectories "
            f"{options.trajectories}/{agent} --data.task.unsandboxed {str(options.unsandboxed).lower()} "
            f"--data.batch_size 32 --data.row_length 2048 --trainer.max_steps {options.steps} "
            f"--trainer.val_check_interval {options.steps} --evaluation.validation_lengths [] "
            f"--evaluation.lengths {options.lengths} --evaluation.problems {options.problems} "
            f"--evaluation.batch_size 64 --trainer.precision bf16-mixed --seed_everything {seed} {options.options}")
    return Cell(name, tuple(text.split()), Path(options.results) / f"{name}.json", ROOT / "runs/sweeps/codefix", 0.0)


def table(cells: list[Cell]) -> Table:
    result = Table("cell", "functions", "pass rate (95%)", "exact", "token accuracy", "turns", "tokens", "reasons")
    for done in cells:
        for record in json.loads(done.result.read_text())["records"]:
            if record["evaluator"] == "rollout":
                low, high = record["answer_low"], record["answer_high"]
                result.add_row(done.name, str(record["length"]),
                               f"{record['answer_accuracy']:.0%} ({low:.0%} to {high:.0%})",
                               f"{record['exact_match']:.0%}", f"{record['token_accuracy']:.2%}",
                               f"{record['turns']:.1f}", f"{record['tokens']:.0f}",
                               " ".join(f"{k}:{v}" for k, v in record["reasons"].items()))
    return result


if __name__ == "__main__":
    main()
