"""Cells as jobs of submitit: by its debug executor (in this process), and by its local one."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from length_gen.lightning_modules.commands.main import main
from length_gen.lightning_modules.runs import cluster
from length_gen.lightning_modules.runs import sweep as module
from length_gen.lightning_modules.runs.sweep import sweep
from length_gen.lightning_modules.training.callbacks import REQUEUE
from length_gen.tools import UserError

CELLS = "{results: out, grid: {x: {good: '', bad: ''}}}\n"
SCRIPT = f"""
import os, pathlib, signal, sys, time
run = pathlib.Path(sys.argv[1])
run.mkdir(exist_ok=True)
saved = run.with_suffix('.saved')
def save(*_):
    saved.open('a').write('once ')
    time.sleep(0.3)
    sys.exit({REQUEUE})
if run.name.startswith('bad'):
    sys.exit('error: no GPU')
if run.name.startswith('long') and not saved.exists():
    signal.signal(signal.SIGTERM, save)
    part = run.with_suffix('.part')
    part.write_text(f'{{os.getppid()}} {{os.getpid()}}')
    part.rename(run.with_suffix('.pids'))
    time.sleep(200)
(run / 'metrics.json').write_text('{{"records": []}}')
"""
def script(cell):
    return [sys.executable, "-c", SCRIPT, str(cell.folder / cell.name)]


class Scripted(cluster.RunCell):
    """In place of `run.py fit`, also in the process of a job."""

    def __call__(self, cell):
        module.command = script
        return super().__call__(cell)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "command", script)
    monkeypatch.setattr(cluster, "RunCell", Scripted)
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[3]), *sys.path])
    monkeypatch.setattr(sys, "argv", ["run.py"])


def submit(**parameters):
    sweep("s.yaml", launcher="submitit", submitit={"timeout_min": 60} | parameters)


def test_jobs_leave_what_cells_here_leave_and_what_is_done_is_skipped(capsys):
    """By submitit's executor that runs jobs in this process."""
    Path("s.yaml").write_text(CELLS)
    for cells in (2, 1):
        with pytest.raises(SystemExit):
            main(["sweep", "s.yaml", "--launcher", "submitit", "--submitit",
                  "{timeout_min: 5, gpus_per_node: 1, slurm_partition: gpu}", "--submitit.cluster", "debug"])
        output, error = capsys.readouterr()
        assert f"error: 1 of {cells} cells failed: bad_seed1" in error
        assert "bad_seed1, error: no GPU; see runs/sweeps/s/out/bad_seed1.log" in output
        assert ("done        out/good_seed1, job DEBUG_" in output) == (cells == 2)
    assert json.loads(Path("out/good_seed1.json").read_text()) == {"records": []}


@pytest.mark.slow
def test_a_job_whose_time_is_up_saves_and_goes_on(capsys):
    """By submitit's executor for processes of this machine, which does as SLURM: it runs a job again that asks for it.

    SLURM sends its signals to all processes of a job, also to the cell's: SIGTERM where it preempts, then USR2.
    """
    Path("s.yaml").write_text("{results: out, grid: {x: {long: ''}}}\n")
    pids = Path("runs/sweeps/s/out/long_seed1.pids")

    def signals():
        while not pids.exists():
            time.sleep(0.05)
        for sign in (signal.SIGTERM, signal.SIGUSR2):
            for pid in map(int, pids.read_text().split()):
                os.kill(pid, sign)
            time.sleep(0.1)

    scheduler = threading.Thread(target=signals)
    scheduler.start()
    submit(cluster="local")
    scheduler.join()
    assert pids.with_suffix(".saved").is_file()
    assert "done        out/long_seed1, job " in capsys.readouterr().out and Path("out/long_seed1.json").is_file()
    log = "".join(path.read_text() for path in Path("runs/sweeps/submitit").rglob("*.out"))
    assert log.count("Requeued job") == 1 and log.count("Job completed successfully") == 1


def test_what_slurm_is_asked_for_and_an_interrupt_leaves_the_jobs_in_its_queue(tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    Path("s.yaml").write_text(CELLS)
    monkeypatch.setattr(cluster.submitit.helpers, "as_completed", interrupted)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name, what in (("srun", ""), ("sacct", ""), ("sbatch", 'cp "$1" asked; echo Submitted batch job 7')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{what}\n")
        (tmp_path / name).chmod(0o700)
    with pytest.raises(UserError, match=r"2 jobs go on without this command.*scancel 7$"):
        submit(slurm_partition="gpu", gpus_per_node=1, slurm_array_parallelism=1)
    asked = Path("asked").read_text().splitlines()
    assert {f"#SBATCH --{option}" for option in ("partition=gpu", "gpus-per-node=1", "time=60", "array=0-1%1",
                                                 "job-name=s", "signal=USR2@90", "open-mode=append")} <= set(asked)


@pytest.mark.parametrize(("options", "message"), [
    ({"launcher": "submitit"}, "give at least the minutes"),
    ({"launcher": "submitit", "submitit": {"timeout_min": 5}}, "submitit: Could not detect \"srun\""),
    ({"launcher": "submitit", "submitit": {"timeout_min": 5, "cluster": "pbs"}}, "any executor named pbs"),
    ({"launcher": "submitit", "submitit": {"timeout_min": "long", "cluster": "local"}}, "timeout_min.* expected type"),
    ({"launcher": "submitit", "submitit": {"timeout_min": 5, "cluster": "debug", "slurm_pages": 2}}, "argument .pages"),
    ({"launcher": "submitit", "parallel": 2}, "give --submitit.slurm_array_parallelism"),
    ({"launcher": "submitit", "minutes": 2}, "--submitit.timeout_min"),
    ({"submitit": {"timeout_min": 5}}, "needs --launcher submitit")])
def test_what_cannot_be_submitted_is_one_line(options, message, monkeypatch):
    Path("s.yaml").write_text(CELLS)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=message) as error:
        sweep("s.yaml", **options)
    assert "\n" not in str(error.value)
