"""Sweeps: every cell of a grid is one `fit` in a process of its own, and leaves one file in results/."""

import itertools
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

import torch
import yaml
from rich.console import Console

from lightning_modules.runs import newest_checkpoint
from tools import UserError

KEYS = {"results", "options", "grid", "seeds"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One training run: its name, the options of `run.py fit`, and the file that it leaves."""

    name: str
    options: tuple[str, ...]
    result: Path


def read_sweep(path: str | Path) -> list[Cell]:
    """The cells of a sweep file.

    Its keys: `results` (folder of the files), `options` (command-line options of every cell), `grid` (axis -> label ->
    options; all combinations are run, and the labels make the cell's name) and `seeds`. Raises UserError that says what
    is wrong with the file.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no sweep file {path}: configs/sweeps/ has some")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content.keys() <= KEYS or "results" not in content:
        raise UserError(f"{path} is not a sweep: expected the keys results, options, grid and seeds")
    grid, seeds = content.get("grid") or {}, content.get("seeds") or [1]
    if not all(isinstance(axis, dict) and axis for axis in grid.values()) or not all(isinstance(s, int) for s in seeds):
        raise UserError(f"{path}: every axis of grid needs labels with their options, and seeds are whole numbers")
    common, folder = shlex.split(content.get("options") or ""), Path(content["results"])
    cells = []
    for choice in itertools.product(*(axis.items() for axis in grid.values())):
        for seed in seeds:
            name = "_".join([*(str(label) for label, _ in choice), f"seed{seed}"])
            options = [part for _, text in choice for part in shlex.split(text or "")]
            cells.append(Cell(name, (*common, *options, "--seed_everything", str(seed)), folder / f"{name}.json"))
    if len({cell.name for cell in cells}) < len(cells):
        raise UserError(f"{path}: two cells have the same name; give every axis labels of its own")
    return cells


def sweep(file: str, parallel: int = 1, index: int | None = None, dry_run: bool = False) -> None:
    """Run every cell of a sweep that has no result yet.

    A cell that was cut off goes on from its checkpoint; one that fails does not stop the others; its output is kept.

    Args:
        file: the sweep file, such as configs/sweeps/add.yaml
        parallel: cells side by side; with several GPUs each takes the next one
        index: run only this cell, for job arrays: sbatch --array=0-9 --wrap
            'python run.py sweep FILE --index $SLURM_ARRAY_TASK_ID'
        dry_run: only print the cells and whether they are done
    """
    cells = read_sweep(file)
    console = Console(soft_wrap=True, emoji=False, highlight=False)
    if index is not None:
        if not 0 <= index < len(cells):
            raise UserError(f"index {index} is not a cell of {file}: it has {len(cells)}, from 0 on")
        cells = [cells[index]]
    if parallel < 1:
        raise UserError(f"parallel {parallel} is not allowed: expected at least 1")
    if dry_run:
        for number, cell in enumerate(cells):
            console.print(f"{number:3} {'done' if cell.result.is_file() else 'open'} {cell.name}: "
                          f"python run.py fit {shlex.join(cell.options)}")
        return
    devices: Queue[int] = Queue()
    for number in range(parallel):
        devices.put(number)
    folder = Path("runs/sweeps") / Path(file).stem

    def work(cell: Cell) -> bool:
        device = devices.get()
        try:
            good = run_cell(cell, folder, device)
        finally:
            devices.put(device)
        console.print(f"{'done  ' if good else '[red]failed[/red]'} {cell.name}"
                      f"{'' if good else f': see {folder / cell.name}.log'}")
        return good

    missing = [cell for cell in cells if not cell.result.is_file()]
    console.print(f"{len(cells)} cells, {len(cells) - len(missing)} of them done")
    with ThreadPoolExecutor(parallel) as pool:
        failed = [cell.name for cell, good in zip(missing, pool.map(work, missing), strict=True) if not good]
    if failed:
        raise UserError(f"{len(failed)} of {len(missing)} cells failed: {', '.join(failed)}")


def run_cell(cell: Cell, folder: Path, device: int = 0) -> bool:
    """Train one cell in `folder`/<name>/ and copy its metrics.json to the results; tells whether that went well."""
    run = folder / cell.name
    command = [sys.executable, str(Path(__file__).parent.parent / "run.py"), "fit", *cell.options,
               "--trainer.logger.save_dir", str(folder.parent), "--trainer.logger.name", folder.name,
               "--trainer.logger.version", cell.name, "--trainer.enable_progress_bar", "false"]
    try:
        command += ["--ckpt_path", str(newest_checkpoint(run))]
    except UserError:
        shutil.rmtree(run, ignore_errors=True)  # cut off before its first checkpoint
    environment = dict(os.environ)
    if torch.cuda.device_count() > 1:
        environment["CUDA_VISIBLE_DEVICES"] = str(device % torch.cuda.device_count())
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{cell.name}.log", "a", encoding="utf-8") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, env=environment, check=False).returncode
    if code or not (run / "metrics.json").is_file():
        return False
    cell.result.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "metrics.json", cell.result.with_suffix(".part"))
    os.replace(cell.result.with_suffix(".part"), cell.result)
    return True
