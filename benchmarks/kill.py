"""Kill a training run with SIGKILL at random moments, resume it each time, and compare with the run that was let alone.

    python benchmarks/kill.py --kills 40

Each trial starts a run, kills it at moments of the kinds in `MOMENTS`, resumes it from its newest whole checkpoint (or
starts again where there is none yet), and so on until it ends by itself. Weights, optimizer, the position of the stream
and metrics.json must equal those of the uninterrupted run, bit by bit. Trials go through packed and padded rows, with 0
and with 2 workers. Prints a table and writes results/benchmarks/kill.json.
"""

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning import Callback

sys.path.append(str(Path(__file__).parent.parent))
from benchmarks.processes import Command
from length_gen.lightning_modules.provenance import CHECKPOINT, PREVIOUS
from length_gen.lightning_modules.reporting.measurements import Records, arguments
from length_gen.lightning_modules.runs.checkpoints import load_checkpoint

ROOT = Path(__file__).parent.parent
WAYS = (("packed", "0"), ("padded", "0"), ("packed", "2"), ("padded", "2"))
MOMENTS = ("any", "save", "validation", "evaluation")
"""Any time at all; while a checkpoint is written; in a validation; in the evaluation after the training."""


class Mark(Callback):
    """Shows the killer, by files in the working folder, what the run is doing."""

    def on_validation_start(self, *arguments) -> None:
        Path("validation").touch()

    def on_validation_end(self, *arguments) -> None:
        Path("validation").unlink(missing_ok=True)

    def on_train_end(self, *arguments) -> None:
        Path("evaluation").touch()


def main() -> None:
    """Run trials until there are enough kills."""
    options = arguments(__doc__, "kill", kills=40, steps=60, seed=0)
    records = Records(options.out, steps=options.steps, seed=options.seed)
    rng, kinds = random.Random(options.seed), Counter()
    with tempfile.TemporaryDirectory() as folder:
        whole: dict[tuple[str, str], tuple[Path, float]] = {}
        Command(["fit", "--help"], Path(folder)).wait()  # imports, which the times below are without
        while kinds.total() < options.kills:
            way = WAYS[len(records) % len(WAYS)]
            if way not in whole:
                begun, place = time.time(), Path(folder) / "-".join(way)
                run = start(place, way, options.steps)
                assert run.wait() == 0, run.stderr[-3000:]
                whole[way] = place, time.time() - begun
            place = Path(folder) / f"trial{len(records)}"
            moments = rng.sample(MOMENTS, len(MOMENTS))
            moments.sort(key="evaluation".__eq__)  # after it nothing but an evaluation is left to kill
            at = trial(place, way, options.steps, whole[way][1], rng, moments)
            equal = same(whole[way][0], place)
            kinds.update(moment for moment, _ in at)
            shutil.rmtree(place)
            records.add({"rows": way[0], "workers": int(way[1]), "killed_in": [moment for moment, _ in at],
                         "at_step": [step for _, step in at], "equal": equal}, kills=kinds.total(), kinds=dict(kinds))
    records.show()
    if not all(row["equal"] for row in records):
        raise SystemExit("a resumed run differs from the uninterrupted one")


def start(folder: Path, way: tuple[str, str], steps: int, *options: str) -> Command:
    """Begin the run in a folder, or go on with it if it has a checkpoint."""
    folder.mkdir(exist_ok=True)
    for moment in MOMENTS:
        (folder / moment).unlink(missing_ok=True)
    arguments = ["fit", "--config", str(ROOT / "configs/add.yaml"), "--trainer.callbacks+=benchmarks.kill.Mark",
                 "--trainer.max_steps", str(steps), "--trainer.accelerator", "cpu", "--checkpoint.every_n_steps", "3",
                 "--trainer.val_check_interval", "5", "--evaluation.lengths", "[2,4]", "--evaluation.problems", "4",
                 "--evaluation.problems_at_longest", "4", "--evaluation.validation_lengths", "[2]",
                 "--evaluation.validation_problems", "4", "--data.batch_size", "4", "--data.validation_rows", "4",
                 "--model.backbone.d_model", "16", "--data.packed", str(way[0] == "packed"), "--data.num_workers",
                 way[1], "--trainer.enable_progress_bar", "false", "--trainer.logger.version", "run", *options]
    if any((folder / "runs/add/run" / name).is_file() for name in (CHECKPOINT, PREVIOUS)):
        arguments += ["--ckpt_path", "last"]
    else:
        shutil.rmtree(folder / "runs", ignore_errors=True)
    return Command(arguments, folder, folder, PYTHONPATH=str(ROOT))


def trial(folder: Path, way: tuple[str, str], steps: int, seconds: float, rng: random.Random,
          moments: Sequence[str]) -> list[tuple[str, int]]:
    """Run, kill at each of the moments in turn, then let the run end.

    Returns for every kill the moment and the step of the newest checkpoint then, 0 if there was none.
    """
    checkpoint, at = folder / "runs/add/run" / CHECKPOINT, []
    for moment in moments:
        run = start(folder, way, steps)
        if moment == "any":
            over = run.wait(rng.uniform(0.1, 0.9) * seconds) is not None
        else:
            run.wait(rng.uniform(0.0, 0.7) * seconds if moment == "save" else 0.0)
            over = not seen(run, folder / moment if moment != "save" else checkpoint.with_suffix(".partial"))
            if moment != "save":
                over = run.wait(rng.uniform(0.0, 0.05)) is not None
        run.kill()
        if not over:
            at.append((moment, load_checkpoint(checkpoint)["global_step"] if checkpoint.is_file() else 0))
    run = start(folder, way, steps)
    assert run.wait() == 0, run.stderr[-3000:]
    return at


def seen(run: Command, path: Path) -> bool:
    """Wait for a file; False if the run ends before."""
    while not path.exists():
        if run.wait(0.001) is not None:
            return False
    return True


def same(one: Path, other: Path) -> bool:
    """Whether two runs ended with the same weights, optimizer, stream position and metrics."""
    a, b = (load_checkpoint(path / "runs/add/run" / CHECKPOINT) for path in (one, other))
    keys = ("state_dict", "optimizer_states", "TrajectoryDataModule", "global_step")
    records = [json.loads((path / "runs/add/run/metrics.json").read_text())["records"] for path in (one, other)]
    return all(equal(a[key], b[key]) for key in keys) and records[0] == records[1]


def equal(a, b) -> bool:
    """Whether two values are the same, with tensors, mappings and sequences of them bit by bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


if __name__ == "__main__":
    main()
