"""Kill a training run with SIGKILL at random moments, resume it each time, and compare with the run that was let alone.

    python benchmarks/kill.py --kills 20

Each trial starts a run, kills it after a random time, resumes it from its newest checkpoint (or starts again where
there is none yet), and so on until it ends by itself. Weights, optimizer, the position of the stream and metrics.json
must equal those of the uninterrupted run, bit by bit. Trials go through packed and padded rows, with 0 and with 2
workers. Prints a table and writes results/benchmarks/kill.json.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from lightning_modules.metrics import write_metrics
from lightning_modules.runs import CHECKPOINT, load_checkpoint, origin

ROOT = Path(__file__).parent.parent
WAYS = (("packed", "0"), ("padded", "0"), ("packed", "2"), ("padded", "2"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="results/benchmarks/kill.json")
    options = parser.parse_args()
    rng, kills, rows = random.Random(options.seed), 0, []
    table = Table("rows", "workers", "kills", "at step (from checkpoint)", "equal")
    with tempfile.TemporaryDirectory() as folder:
        whole: dict[tuple[str, str], tuple[Path, float]] = {}
        while kills < options.kills:
            way = WAYS[len(rows) % len(WAYS)]
            if way not in whole:
                begun = time.time()
                run = start(Path(folder) / "-".join(way), way, options.steps)
                assert run.wait() == 0, "the uninterrupted run failed"
                whole[way] = Path(folder) / "-".join(way), time.time() - begun
            place = Path(folder) / f"trial{len(rows)}"
            at = trial(place, way, options.steps, whole[way][1], rng)
            equal = same(whole[way][0], place)
            kills += len(at)
            rows.append({"rows": way[0], "workers": int(way[1]), "kills": len(at), "resumed_from": at, "equal": equal})
            table.add_row(*way, str(len(at)), ", ".join(map(str, at)), str(equal))
            shutil.rmtree(place)
            print(f"{kills} kills, all equal: {all(row['equal'] for row in rows)}", flush=True)
    Console().print(table)
    write_metrics(options.out, rows, **origin(torch.device("cpu")), kills=kills, steps=options.steps)
    if not all(row["equal"] for row in rows):
        raise SystemExit("a resumed run differs from the uninterrupted one")


def start(folder: Path, way: tuple[str, str], steps: int, resume: bool = False) -> subprocess.Popen:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "run.py"), "fit", "--config", str(ROOT / "configs/add.yaml"),
               "--trainer.max_steps", str(steps), "--trainer.accelerator", "cpu", "--checkpoint.every_n_steps", "3",
               "--trainer.val_check_interval", "20", "--evaluation.lengths", "[2,4]", "--evaluation.problems", "4",
               "--evaluation.problems_at_longest", "4", "--evaluation.validation_lengths", "[2]",
               "--evaluation.validation_problems", "4", "--data.batch_size", "4", "--data.validation_rows", "4",
               "--model.backbone.d_model", "16", "--data.packed", str(way[0] == "packed"), "--data.num_workers", way[1],
               "--trainer.enable_progress_bar", "false", "--trainer.logger.version", "run"]
    if resume:
        command += ["--ckpt_path", str(folder / "runs/add/run" / CHECKPOINT)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    with open(folder / "log.txt", "a") as log:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)


def trial(folder: Path, way: tuple[str, str], steps: int, seconds: float, rng: random.Random) -> list[int]:
    """Run and kill until the run ends by itself; the steps of the checkpoints that it went on from."""
    checkpoint, at = folder / "runs/add/run" / CHECKPOINT, []
    while True:
        resume = checkpoint.is_file()
        if not resume and folder.exists():
            shutil.rmtree(folder / "runs", ignore_errors=True)
        process = start(folder, way, steps, resume)
        try:
            # The first third of a run is imports. Never more than 4 kills a trial.
            code = process.wait(rng.uniform(0.3, 1.1) * seconds if len(at) < 4 else None)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            at.append(load_checkpoint(checkpoint)["global_step"] if checkpoint.is_file() else 0)
            continue
        assert code == 0, (folder / "log.txt").read_text()[-3000:]
        return at


def same(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same weights, optimizer, stream position and metrics."""
    a, b = (load_checkpoint(path / "runs/add/run" / CHECKPOINT) for path in (one, other))
    keys = ("state_dict", "optimizer_states", "TrajectoryDataModule", "global_step")
    records = [json.loads((path / "runs/add/run/metrics.json").read_text())["records"] for path in (one, other)]
    return all(equal(a[key], b[key]) for key in keys) and records[0] == records[1]


def equal(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


if __name__ == "__main__":
    main()
