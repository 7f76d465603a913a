"""What a sweep file says: the cells of its grid, each one `fit` that leaves one file in results/."""

import itertools
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from string import Formatter
from typing import Any

from length_gen.datamodules.typed import typed
from length_gen.lightning_modules.provenance import shipped
from length_gen.lightning_modules.runs.folders import SWEEPS
from length_gen.tools import UserError
from length_gen.tools.files import read_yaml


@dataclass(frozen=True)
class Block:
    """What a block of a sweep file says, see `read_sweep`; types alone."""

    results: str
    options: str = ""
    grid: dict[str, dict[str, str]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=lambda: [1])
    minutes: float = 0.0


@dataclass(frozen=True, slots=True)
class Cell:
    """One training run: its name, the options of `run.py fit`, and the file that it leaves.

    folder:  where it trains, `runs/sweeps/<file>/<experiment>`
    minutes: how long it takes, about, on the device that its file names
    """

    name: str
    options: tuple[str, ...]
    result: Path
    folder: Path
    minutes: float


def read_sweep(files: str | Path) -> list[Cell]:
    """The cells of a sweep file, or of several with commas between: the first seed of every cell, then the second, ...

    A file is a block or has a list of `blocks`, the most valuable first. The keys of a block: `results` (folder of its
    files; `{axis}` stands for the axis's label), `options` (command-line options of every cell), `grid` (axis -> label
    -> options; all combinations are run, and the labels of the axes that are not in `results` make the cell's name),
    `seeds`, and `minutes` (what a cell takes, about). `options` beside `blocks` go before theirs, and
    every `--config` before all that is no file. Raises UserError that says what is wrong with a file.
    """
    ranked: list[tuple[int, Cell]] = []
    for path in map(shipped, str(files).split(",")):
        for block in _blocks(path):
            ranked += _cells(path, block)
    results = Counter(cell.result for _, cell in ranked)
    if twice := [str(result) for result, count in results.items() if count > 1]:
        raise UserError(f"{files}: two cells have the same name, {twice[0]}; give every axis labels of its own")
    return [cell for _, cell in sorted(ranked, key=lambda pair: pair[0])]  # stable: by the seed's place alone


def read_content(path: Path) -> Any:
    """What a sweep file holds, of whatever kind; raises UserError where it cannot be read."""
    if not path.is_file():
        raise UserError(f"there is no sweep file {path}: configs/sweeps/ has some, found from any folder")
    try:
        return read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def _blocks(path: Path) -> list[Block]:
    """The blocks of a sweep file, with the options of all in theirs; raises UserError that says what is wrong."""
    content = read_content(path)
    if not isinstance(content, dict) or not content.keys() & {"results", "blocks"}:
        raise UserError(f"{path} is not a sweep: expected the keys {', '.join(key.name for key in fields(Block))}, or "
                        f"blocks of them")

    def block(part: Any) -> Block:
        if isinstance(part, dict):
            part = {key: value for key, value in part.items() if value is not None}
        if isinstance(part, dict) and isinstance(part.get("grid"), dict):  # labels may look like numbers
            part |= {"grid": {axis: {str(label): text or "" for label, text in labels.items()}
                                    if isinstance(labels, dict) else labels for axis, labels in part["grid"].items()}}
        return typed(Block, part, lambda what: UserError(f"{path} is not a sweep: {what}"))

    if "blocks" not in content:
        return [block(content)]
    common, blocks = content.get("options") or "", content["blocks"]
    if content.keys() - {"blocks", "options"} or not isinstance(blocks, list) or not blocks \
            or not isinstance(common, str):
        raise UserError(f"{path} is not a sweep: expected a list of blocks and the options of all, as one text")
    return [replace(one, options=f"{common} {one.options}") for one in map(block, blocks)]


def _cells(path: Path, block: Block) -> Iterable[tuple[int, Cell]]:
    """The cells of one block, each with the place of its seed."""
    grid = block.grid
    if empty := [axis for axis, labels in grid.items() if not labels]:
        raise UserError(f"{path}: axis {empty[0]} of grid needs labels with their options")
    if not 0 <= block.minutes < math.inf:
        raise UserError(f"{path}: minutes {block.minutes} are not a number from 0 on")
    if wrong := [seed for seed in block.seeds if not 0 <= seed < 2**32]:
        raise UserError(f"{path}: seed {wrong[0]} is not possible: expected a whole number from 0 to 4,294,967,295")
    try:
        shared = {name for _, name, _, _ in Formatter().parse(block.results) if name is not None}
        if unknown := shared - grid.keys():
            raise UserError(f"{path}: results {block.results!r} names {min(unknown)!r}, which is no axis of grid")
        for choice in itertools.product(*(axis.items() for axis in grid.values())):
            labels = dict(zip(grid, (label for label, _ in choice), strict=True))
            folder = Path(block.results.format(**labels))
            options = configs_first([part for text in (block.options, *(t for _, t in choice))
                                      for part in shlex.split(text)])
            for place, seed in enumerate(block.seeds or [1]):
                name = "_".join([*(label for axis, label in labels.items() if axis not in shared), f"seed{seed}"])
                yield place, Cell(name, (*options, "--seed_everything", str(seed)), folder / f"{name}.json",
                                  SWEEPS / path.stem / folder.name, block.minutes)
    except ValueError as error:
        raise UserError(f"{path}: results or options cannot be read: {error}") from error


def configs_first(options: Sequence[str]) -> list[str]:
    """Configuration files before all other options, which they would overwrite."""
    at = [i for i, option in enumerate(options[:-1]) if option == "--config"]
    configs = [part for i in at for part in options[i : i + 2]]
    return [*configs, *(option for i, option in enumerate(options) if i not in at and i - 1 not in at)]
