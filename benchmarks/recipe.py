"""Train small models on validation problems under several recipes and print how far each gets, by `verify`.

    python benchmarks/recipe.py --config configs/mult.yaml --seeds 3 --set model.learning_rate=3e-3,5e-3

Writes one JSON line a run to --out. Uses validation problems unless told otherwise, so that choosing a recipe never
sees a test problem.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table


def main() -> None:
    """Run every combination with every seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True)
    parser.add_argument("--set", action="append", default=[], help="key=value,value,...: every combination is run")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--parallel", type=int, default=1, help="runs side by side")
    parser.add_argument("--split", default="validation", help="test: for the results of a recipe that is settled")
    parser.add_argument("--out", default="recipe.jsonl")
    options = parser.parse_args()
    keys = [setting.split("=", 1)[0] for setting in options.set]
    choices = [setting.split("=", 1)[1].split(",") for setting in options.set]
    cells = [dict(zip(keys, values, strict=True)) | {"seed_everything": str(seed)}
             for values in itertools.product(*choices) for seed in range(1, options.seeds + 1)]
    table = Table("recipe", "seconds", "exact match by length")
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(cells), options.parallel):
            running = [(cell, time.time(), run(options, cell, Path(folder) / str(start + i)))
                       for i, cell in enumerate(cells[start : start + options.parallel])]
            for i, (cell, begun, process) in enumerate(running):
                output = process.communicate()[0]
                files = list((Path(folder) / str(start + i)).glob("*/*/metrics.json"))
                records = json.loads(files[0].read_text())["records"] if files else []
                seconds = time.time() - begun
                with open(options.out, "a") as out:
                    result = {"cell": cell, "command": process.args[1:], "seconds": seconds, "records": records}
                    out.write(json.dumps(result) + "\n")
                curve = " ".join(f"{r['variant'][-1:]}:{r['length']}:{r['exact_match']:.2f}" for r in records)
                table.add_row(" ".join(f"{k.split('.')[-1]}={v}" for k, v in cell.items()), f"{seconds:.0f}",
                              curve or output[-300:])
    Console(width=180, emoji=False).print(table)


def run(options: argparse.Namespace, cell: dict[str, str], folder: Path) -> subprocess.Popen:
    """Start the training of a cell; what it prints goes to a pipe."""
    arguments = [part for config in options.config for part in ("--config", config)]
    arguments += ["--trainer.logger.save_dir", str(folder), "--evaluation.evaluators", "[verify]",
                  "--evaluation.split", options.split, "--evaluation.validation_lengths", "[]"]
    arguments += [part for key, value in cell.items() for part in (f"--{key}", value)]
    return subprocess.Popen([sys.executable, "run.py", "fit", *arguments], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True)


if __name__ == "__main__":
    main()
