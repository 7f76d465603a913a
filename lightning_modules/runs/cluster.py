"""Cells of a sweep as jobs of a cluster, through submitit: SLURM, or its executors for trying that on one machine."""

import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from length_gen.lightning_modules.runs.folders import SWEEPS
from length_gen.lightning_modules.runs.sweep import GRACE, Pool, failure, show
from length_gen.lightning_modules.runs.sweep_file import Cell
from length_gen.tools import UserError

try:
    import submitit
except ImportError:
    raise UserError("--launcher submitit needs the package of that name: pip install -e '.[cluster]'") from None

CONSTRUCTOR = ("cluster", "slurm_max_num_timeout", "slurm_python")
"""Parameters of submitit's AutoExecutor itself; all others are of its `update_parameters`."""

PATIENCE = 600
"""Seconds that a job whose cell has heard SIGTERM waits for what its scheduler does next."""


class RunCell:
    """What a job does: one cell, as a sweep on the node would."""

    pool: Pool

    def __call__(self, cell: Cell) -> str:
        """Train a cell, or go on with it; tells how it ended, as `Pool.run` does."""
        console = Console(soft_wrap=True, emoji=False, highlight=False, markup=False)
        self.pool = Pool(1, None, console)
        how = next(how for how, names in self.pool.run([cell]).items() if names)
        if how == "interrupted" and self.pool.stopping != signal.SIGINT:
            # Preempted. A scheduler that also sends submitit's signal has it requeue the job, below; another requeues
            # what is still there when its patience ends.
            time.sleep(PATIENCE)
        return how

    def checkpoint(self, cell: Cell) -> "submitit.helpers.DelayedSubmission":
        """What is to be run after the job's time is up: the same. submitit asks in a handler of its signal; the cell
        has saved when this returns, or will go on from an earlier checkpoint."""
        self.pool.stop()
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline and any(job.process.poll() is None for job in self.pool.jobs):
            time.sleep(0.1)
        return submitit.helpers.DelayedSubmission(type(self)(), cell)


def run(cells: Sequence[Cell], parameters: Mapping[str, Any], name: str, console: Console) -> dict[str, list[str]]:
    """Submit cells as one array of jobs and wait for them; names of cells by how they ended, as `Pool.run`.

    parameters: submitit's own. Raises UserError for those that it or the scheduler refuses, and on Ctrl-C, which
    leaves the jobs in the queue.
    """
    folder = SWEEPS / "submitit" / "%j"  # of its pickles and logs; a cell's own log is where it always is
    own = {key: parameters[key] for key in CONSTRUCTOR if key in parameters}
    others = {key: value for key, value in parameters.items() if key not in own}
    if not {"timeout_min", "slurm_time"} & others.keys():
        raise UserError("give at least the minutes after which a job is stopped and goes on in the queue: "
                        "--submitit.timeout_min 240")
    paths = os.pathsep.join(filter(None, sys.path))  # where the suite is found
    try:
        executor = submitit.AutoExecutor(folder, **{"cluster": "slurm"} | own)
        executor.update_parameters(**{"name": name} | others)
        with submitit.helpers.environment_variables(PYTHONPATH=paths):
            jobs = executor.map_array(RunCell(), cells)
    except (AssertionError, LookupError, NameError, RuntimeError, TypeError, ValueError, OSError) as error:
        raise UserError(f"submitit: {' '.join(str(error).split())[:500]}") from error
    first, last = jobs[0].job_id, jobs[-1].job_id
    console.print(f"{len(jobs)} jobs: {first}" + f" to {last}" * (len(jobs) > 1) + f"; logs in {folder.parent}/")
    ended: defaultdict[str, list[str]] = defaultdict(list)
    known = {job.job_id: cell for job, cell in zip(jobs, cells, strict=True)}
    try:
        for job in submitit.helpers.as_completed(jobs, poll_frequency=1):
            cell = known.pop(job.job_id)
            error = job.exception()
            how = "failed" if error else job.result()
            ended[how].append(cell.name)
            show(console, how, cell, f"job {job.job_id}, see {job.paths.stderr}" if error else
                 failure(cell) if how == "failed" else f"job {job.job_id}")
    except KeyboardInterrupt:
        raise UserError(f"{len(known)} jobs go on without this command, and leave their results where they belong; to "
                        f"cancel them: scancel {first.partition('_')[0]}") from None
    return ended
