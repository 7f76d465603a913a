"""Sweeps: runs the cells of a sweep file, each in a process of its own, side by side."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import IO, Any, Literal, TextIO

import torch
from rich.console import Console

from length_gen.lightning_modules.provenance import shipped
from length_gen.lightning_modules.runs.folders import newest_checkpoint
from length_gen.lightning_modules.runs.search import search
from length_gen.lightning_modules.runs.sweep_file import Cell, read_content, read_sweep
from length_gen.lightning_modules.training.callbacks import REQUEUE
from length_gen.tools import UserError, system

GRACE = 20.0
"""Seconds that running cells get to save when the time is up."""


def sweep(file: str, parallel: int = 1, minutes: float | None = None, options: str = "", index: int | None = None,
          dry_run: bool = False, launcher: Literal["here", "submitit"] = "here",
          submitit: dict[str, Any] | None = None) -> None:
    """Run every cell of a sweep that has no result yet.

    A file with the key `search` has Optuna draw the cells (`runs.search`).

    A cell that was cut off goes on from its checkpoint; one that fails does not stop the others; its output is kept.
    Ctrl-C and SIGTERM let the running cells save. The cells share the cores. Several sweeps of a file share its cells:
    each leaves alone what another one is running or has done.

    Args:
        file: the sweep file, such as configs/sweeps/addition.yaml; or several, with commas between
        parallel: cells side by side; with several GPUs each takes the next one
        minutes: end after so long: no cell is begun that would take longer, and those that still run save and stop
        options: further options of every cell, such as '--trainer.accelerator cpu'
        index: run only this cell, for job arrays: sbatch --array=0-9 --wrap
            'python run.py sweep FILE --index $SLURM_ARRAY_TASK_ID'
        dry_run: only print the cells and whether they are done
        launcher: where cells run: `here`, or as jobs that `submitit` gives to SLURM, an array with a job a cell; one
            whose time is up or that is preempted saves, and goes on in the queue
        submitit: what those jobs get, by submitit's own names: --submitit.timeout_min 240 --submitit.gpus_per_node 1
            --submitit.slurm_partition gpu
    """
    console = Console(soft_wrap=True, emoji=False, highlight=False, markup=False)
    if parallel < 1:
        raise UserError(f"parallel {parallel} is not allowed: expected at least 1")
    if minutes is not None and not minutes > 0:
        raise UserError(f"minutes {minutes} are not allowed: expected a number above 0")
    if launcher == "submitit" and (parallel != 1 or minutes is not None):
        raise UserError("--parallel and --minutes are for cells that run here: give --submitit.slurm_array_parallelism "
                        "and --submitit.timeout_min")
    if launcher == "here" and submitit:
        raise UserError(f"--submitit {submitit} needs --launcher submitit")
    pool, path = Pool(parallel, minutes, console), shipped(file)

    def run(missing: list[Cell]) -> dict[str, list[str]]:
        if launcher == "here" or not missing:
            return pool.run(missing)
        from length_gen.lightning_modules.runs import cluster  # of an optional package

        return cluster.run(missing, submitit or {}, path.stem, console)

    if path.is_file() and isinstance(content := read_content(path), dict) and "search" in content:
        if dry_run or index is not None:
            raise UserError(f"{path} is a search, which draws its trials as it goes: --index and --dry_run are of "
                            f"grids")
        search(path, content, shlex.split(options), run, console)
        return
    cells = [replace(cell, options=(*cell.options, *shlex.split(options))) for cell in read_sweep(file)]
    if index is not None:
        if not 0 <= index < len(cells):
            raise UserError(f"index {index} is not a cell of {file}: it has {len(cells)}, from 0 on")
        cells = [cells[index]]
    missing = [cell for cell in cells if not cell.result.is_file()]
    console.print(f"{len(cells)} cell{'s' * (len(cells) != 1)}, {len(cells) - len(missing)} of them done")
    if dry_run:
        for number, cell in enumerate(cells):
            console.print(f"{number:3} {'open' if cell in missing else 'done'} {cell.result}, {cell.minutes:g} min: "
                          f"python run.py fit {shlex.join(cell.options)}")
        console.print(f"about {sum(cell.minutes for cell in missing) / parallel:.0f} minutes on the device that {file} "
                      f"names, {parallel} side by side")
        return
    ended = run(missing)
    left = len(missing) - sum(map(len, ended.values()))
    if ended["elsewhere"]:
        console.print(f"{len(ended['elsewhere'])} cells are left to another sweep, which runs them: "
                      f"{', '.join(ended['elsewhere'])}")
    if ended["interrupted"] or left:
        console.print(f"{len(ended['done'])} cells done, {len(ended['interrupted'])} cut off, {left} not begun: "
                      f"the same command goes on")
    if ended["failed"]:
        raise UserError(f"{len(ended['failed'])} of {len(missing)} cells failed: {', '.join(ended['failed'])}")


@dataclass(slots=True)
class Job:
    """A cell that is running.

    slot:  its place among those side by side, by which it gets its GPU
    lock:  of the cell, held until its result is there
    log:   where its output goes
    begun: when, in seconds of time.monotonic
    """

    cell: Cell
    slot: int
    process: subprocess.Popen
    lock: IO[bytes]
    log: TextIO
    begun: float = field(default_factory=time.monotonic)


class Pool:
    """Runs cells side by side, until all are done, the time is up, or a signal ends it."""

    def __init__(self, parallel: int, minutes: float | None, console: Console) -> None:
        self.console, self.parallel = console, parallel
        self.window = 60 * minutes - GRACE if minutes else float("inf")
        self.deadline = time.monotonic() + self.window
        self.slots, self.jobs = list(range(parallel)), []
        self.paces: list[float] = []  # seconds that cells took, as a multiple of those that they were expected to
        self.stopping: int | bool = False  # or the signal that says so
        self.patience = float("inf")

    def run(self, cells: Iterable[Cell]) -> dict[str, list[str]]:
        """Names of cells, by how they ended: `done`, `failed`, `interrupted`, or `elsewhere`: with another sweep."""
        ended: defaultdict[str, list[str]] = defaultdict(list)
        waiting = list(cells)
        handlers = {}
        if threading.current_thread() is threading.main_thread():
            handlers = {sign: signal.signal(sign, self.stop) for sign in (signal.SIGINT, signal.SIGTERM)}
        try:
            while waiting or self.jobs:
                while self.slots and not self.stopping and (cell := next(filter(self._fits, waiting), None)):
                    waiting.remove(cell)
                    if (lock := claim(cell)) is None:
                        ended["elsewhere"].append(cell.name)
                    elif cell.result.is_file():  # another sweep's, since this one began
                        lock.close()
                        ended["done"].append(cell.name)
                    else:
                        self.jobs.append(start(cell, lock, self.slots.pop(0), self.parallel))
                if not self.jobs:
                    break
                time.sleep(0.1)
                if time.monotonic() > self.deadline and not self.stopping:
                    self.stop()
                for job in self.jobs if time.monotonic() > self.patience else ():
                    job.process.kill()
                for job in [job for job in self.jobs if job.process.poll() is not None]:
                    self._end(job, ended)
        finally:
            for job in self.jobs:
                job.process.kill()
            for sign, handler in handlers.items():
                signal.signal(sign, handler)
        return ended

    def _fits(self, cell: Cell) -> bool:
        """Whether a cell would end in time, by its minutes and by how the cells before it compare with theirs.

        One that would not even if it had all of the time begins anyway: it goes on from its checkpoint the next time.
        """
        seconds = 60 * cell.minutes * (median(self.paces) if self.paces else 1)
        return time.monotonic() + seconds <= self.deadline or seconds > self.window

    def stop(self, sign: int | bool = True, *_: Any) -> None:
        """Let the running cells save; one that takes longer than the grace is killed, and has its last checkpoint.

        sign: the signal that asks for it, if one does
        """
        if not self.stopping:
            self.stopping, self.patience = sign, time.monotonic() + GRACE - 2
            for job in self.jobs:
                job.process.terminate()

    def _end(self, job: Job, ended: dict[str, list[str]]) -> None:
        self.jobs.remove(job)
        self.slots.append(job.slot)
        job.log.close()
        seconds, code = time.monotonic() - job.begun, job.process.returncode
        what = "done" if finish(job.cell, code) else \
            "interrupted" if code == REQUEUE or (self.stopping and code) else "failed"
        job.lock.close()  # not before its result is there
        if what == "done" and job.cell.minutes:
            self.paces.append(seconds / (60 * job.cell.minutes))
        ended[what].append(job.cell.name)
        where = f": {failure(job.cell)}" if what == "failed" else ""
        show(self.console, what, job.cell, f"{seconds:.0f} s{where}")


def show(console: Console, how: str, cell: Cell, more: str) -> None:
    """Print how a cell ended."""
    console.print(f"{how:11} {cell.result.parent.name}/{cell.name}, {more}", markup=False, highlight=False)


def failure(cell: Cell) -> str:
    """The last line of a failed cell's log, which says a mistake, and where the log is."""
    log = cell.folder / f"{cell.name}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{last}; see {log}" if last.startswith("error: ") else f"see {log}"


def claim(cell: Cell) -> IO[bytes] | None:
    """The cell's lock, or None if another sweep has it, or a run that has outlived its sweep."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    return system.lock(cell.folder / f"{cell.name}.lock", inherited=True)


def start(cell: Cell, lock: IO[bytes], slot: int, parallel: int) -> Job:
    """Train a cell in `cell.folder`/<name>/, from its checkpoint if it has one; its output goes to <name>.log.

    lock: of the cell, which its process inherits, so that it holds until that has ended as well
    """
    run, options = cell.folder / cell.name, cell.folder / f"{cell.name}.options"
    known = options.read_text(encoding="utf-8") if options.is_file() else None
    if known != shlex.join(cell.options) or not checkpoint(run):
        shutil.rmtree(run, ignore_errors=True)  # of other options, or cut off before its first checkpoint
    (run / "metrics.json").unlink(missing_ok=True)
    options.write_text(shlex.join(cell.options), encoding="utf-8")
    log = open(cell.folder / f"{cell.name}.log", "a", encoding="utf-8")  # noqa: SIM115 (the job closes it)
    # In a session of its own: of a Ctrl-C it shall hear through the sweep alone, for a second signal ends it unsaved.
    with _unheard("SIGUSR1", "SIGUSR2"):  # of these too: a scheduler sends them to all processes of a job
        process = subprocess.Popen(command(cell), stdout=log, stderr=subprocess.STDOUT,
                                   env=environment(slot, parallel), start_new_session=True,
                                   pass_fds=[lock.fileno()] if os.name == "posix" else ())
    return Job(cell, slot, process, lock, log)


@contextlib.contextmanager
def _unheard(*names: str) -> Iterator[None]:
    """Processes that are started meanwhile never hear of these signals; this one does, at the latest afterwards."""
    if os.name != "posix":
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.Signals[name] for name in names])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def command(cell: Cell) -> list[str]:
    """The command that trains a cell in its folder, from its newest whole checkpoint if it has one."""
    run = cell.folder / cell.name
    arguments = [sys.executable, "-m", "length_gen", "fit", *cell.options,
                 "--trainer.logger.save_dir", str(cell.folder.parent), "--trainer.logger.name", cell.folder.name,
                 "--trainer.logger.version", cell.name, "--trainer.enable_progress_bar", "false"]
    found = checkpoint(run)
    return [*arguments, "--ckpt_path", str(found)] if found else arguments


def checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run, if it has one."""
    try:
        return newest_checkpoint(run)
    except UserError:
        return None


def environment(slot: int, parallel: int) -> dict[str, str]:
    """The variables of a cell's process: a share of the cores, and of several GPUs the slot's.

    Processes that each spin on all cores slow each other down many times over.
    """
    threads = str(max(1, system.cores() // parallel))
    result = {"OMP_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads, **os.environ,
              "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # where the suite is found
    if (count := torch.cuda.device_count()) > 1:
        names = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        result["CUDA_VISIBLE_DEVICES"] = names.split(",")[slot % count]
    return result


def finish(cell: Cell, code: int) -> bool:
    """Copy the metrics.json of a run that came to its end to the results, and its diagnostics.json to a folder beside;
    tells whether it came to its end."""
    metrics = cell.folder / cell.name / "metrics.json"
    if code not in (0, REQUEUE) or not metrics.is_file():
        return False
    beside = cell.result.parent / "diagnostics" / cell.result.name
    for source, kept in ((metrics.with_name("diagnostics.json"), beside), (metrics, cell.result)):
        if source.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, kept.with_suffix(".part"))
            os.replace(kept.with_suffix(".part"), kept)
    return True
