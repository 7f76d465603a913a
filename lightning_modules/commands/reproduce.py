"""The command `reproduce`: one cell of the paper's tables, trained by its recipe, beside what the paper says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from length_gen.lightning_modules.evaluation.metrics import wilson_interval
from length_gen.lightning_modules.provenance import shipped
from length_gen.lightning_modules.reporting.claims import QUEUE
from length_gen.lightning_modules.reporting.results import Curve, curves, read_runs, trained
from length_gen.lightning_modules.reporting.text import NOTHING, TO, reach_text, share
from length_gen.lightning_modules.runs.sweep import sweep
from length_gen.lightning_modules.runs.sweep_file import Cell, read_sweep
from length_gen.tools import UserError
from length_gen.tools.files import read_yaml

TABLES = {"table1": "Table 1", "table2": "Table 2", "figure2": "Figure 2"}
"""Name -> as it ends what a row of results/paper.yaml is about."""


def reproduce(table: str, cell: str, seed: int = 1, options: str = "", queue: str = "configs/sweeps/paper.yaml",
              paper: str = "results/paper.yaml", dry_run: bool = False) -> None:
    """Print a cell of the paper's tables, ours beside the paper's; one not in results/ is trained first, by its recipe.

    One that was cut off goes on.

    Args:
        table: table1, table2 or figure2
        cell: model and task, such as mamba/addition; a name that is none tells which there are
        seed: of the weights and of the training stream
        options: further options of the training, such as '--trainer.accelerator cpu'
        queue: the sweep file with the paper's recipe; its head says where it departs from the paper, and whose the
            minutes are
        paper: the paper's numbers
        dry_run: train nothing, but print the command and about how long it takes
    """
    if table not in TABLES:
        raise UserError(f"there is no {table}: expected {', '.join(TABLES)}")
    if not Path(paper).is_file():
        raise UserError(f"there is no file {paper} with the paper's numbers: run in a clone of the suite, or name it")
    rows = [row for row in read_yaml(paper)["rows"] if row["what"].endswith(TABLES[table])]
    own = [row for row in rows if f"{row['backbone']}/{row['task']}" == cell]
    if not own:
        names = dict.fromkeys(f"{row['backbone']}/{row['task']}" for row in rows)
        raise UserError(f"{table} has no cell {cell}: expected one of {', '.join(names)}")
    cells = read_sweep(shipped(queue))
    names = [_name(one) for one in cells]
    if (cell, seed) not in names:
        seeds = {name: [str(number) for other, number in names if other == name] for name, _ in names}
        known = "; ".join(f"{name} with seed {', '.join(own)}" for name, own in seeds.items())
        raise UserError(f"{queue} has no recipe for {cell} with seed {seed}: expected {known}; or add one there")
    at = names.index((cell, seed))
    result = cells[at].result
    if result.is_file():
        print(f"{cell}, seed {seed}, is done and not trained again: move {result} away to train it")
    else:
        print(f"{cell}, seed {seed}, is not there: {'training it' if dry_run else 'it is trained, which'} takes about "
              f"{cells[at].minutes:g} minutes on the device that {queue} names")
        sweep(queue, index=at, options=options, dry_run=dry_run)
        if dry_run:
            return
    if not result.is_file():
        raise UserError(f"{result} is not there yet: the same command goes on")
    found = curves([run for run in read_runs(result.parents[1]) if (run.experiment, run.name) == (
        result.parent.name, result.stem)])
    for line in [beside(own, found), f"{result}: {found[0].runs[0].facts['command']}",
                 f"Where this recipe departs from the paper: the head of {queue}"]:
        Console(emoji=False).print(line, markup=False, highlight=False, soft_wrap=True)


def _name(cell: Cell) -> tuple[str, int]:
    """`mamba/addition` and the seed, of a cell of the queue."""
    experiment, (model, seed) = cell.result.parent.name, cell.name.removeprefix(QUEUE).rsplit("_seed", 1)
    return f"{model}/{experiment.removesuffix(f'_{trained(experiment)}')}", int(seed)


def beside(rows: Sequence[dict[str, Any]], found: Sequence[Curve]) -> Table:
    """Exact match by length with its 95% Wilson interval and the number of problems, of one seed.

    A column for each kind of problem, with what the paper says at its top.
    """
    table = Table(title=f"{found[0].backbone}, seed {found[0].seed_of(0)}, trained up to {found[0].trained}",
                  caption="exact match (95% interval), problems; above: the paper's reach, of the best of 2 seeds "
                          "(Hanoi: of 10), and ours", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("\n\npaper\nours", justify="right")
    shown = [(row, curve) for row in rows for curve in found
             if curve.variant.removesuffix("structured").rstrip() == row.get("variant", "")]
    for row, curve in shown:
        table.add_column(f"{row['what'].rpartition(', ')[0]}\n{'structured' * curve.variant.endswith('structured')}\n"
                         f"{row['paper'].partition('-> ')[2] or row['paper']}\n{reach_text(curve.median_reach())}")
    for length in sorted({length for _, curve in shown for length in curve.lengths}):
        table.add_row(f"{length:,}", *(_exact(curve, length) for _, curve in shown))
    return table


def _exact(curve: Curve, length: int) -> str:
    if not (count := curve.problems.get(length, 0)) or not curve.at(length):
        return NOTHING
    value = curve.at(length)[0]
    low, high = wilson_interval(round(value * count), count)
    return f"{share(value)} ({share(low).rstrip('%')}{TO}{share(high).rstrip('%')}) {count}"
