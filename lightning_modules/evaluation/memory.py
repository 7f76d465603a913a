"""What a tool's memory held at each step of a rollout: the rollout again, with a new tool, kept as what changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len

from length_gen.datamodules.rollout import Rollout
from length_gen.datamodules.tasks import Problem, Task
from length_gen.lightning_modules.evaluation.traces import visible

AROUND = 12
"""Cells that are shown on either side of a head, at most."""


@dataclass(slots=True)
class MemoryTrace:
    """The changes of a memory, in order; step t is the memory after token t, and step -1 the one before the first.

    writes: (step, cell, what is shown in it from then on; None where there is no such cell any more)
    moves:  (step, head, cell that it stands on from then on)
    blank:  what a head reads where there is no cell
    """

    blank: str
    writes: list[tuple[int, int, str | None]] = field(default_factory=list)
    moves: list[tuple[int, str, int]] = field(default_factory=list)

    def at(self, step: int) -> tuple[dict[int, str], dict[str, int]]:
        """Number of each cell -> what stands in it, and name of each head -> the cell it is on, after a step."""
        cells = {cell: text for when, cell, text in self.writes if when <= step}
        heads = {head: cell for when, head, cell in self.moves if when <= step}
        return {cell: text for cell, text in cells.items() if text is not None}, heads

    def text(self, step: int, width: int) -> str:
        """The memory after a step: the cells near the heads (near the end, if there are none), and the heads below.

        The lines fit in `width` columns if one cell on either side of each head does.
        """
        cells, heads = self.at(step)
        centres = list(heads.values()) or [max(cells, default=0)]
        for radius in range(AROUND, 0, -1):
            near = {centre + i for centre in centres for i in range(-radius, radius + 1)}
            shown = sorted(near & (cells.keys() | set(centres)))
            columns = [("…", "")] if shown[0] > min(cells, default=0) else []
            for before, cell in zip([shown[0] - 1, *shown], shown, strict=False):
                if cell > before + 1:
                    columns.append(("…", ""))
                names = ",".join(head for head, place in heads.items() if place == cell)
                columns.append((cells.get(cell, self.blank), "↑" + names if names else ""))
            if shown[-1] < max(cells, default=0):
                columns.append(("…", ""))
            lines = [" ".join(column[i] + " " * (max(map(cell_len, column)) - cell_len(column[i]))
                              for column in columns).rstrip() for i in (0, 1)]
            if max(map(cell_len, lines)) <= width:
                break
        return "\n".join(filter(None, lines))


def replay(task: Task, problem: Problem, tokens: Sequence[str]) -> MemoryTrace | None:
    """The memory in the course of a rollout that wrote `tokens`; None if its tool has none to show."""
    tool = task.tool(problem)
    if (view := tool.view()) is None:
        return None
    row = Rollout(problem, len(tokens) + 1, tool, task.shown(problem))
    trace = MemoryTrace(visible(view.blank) if view.blank else "")
    cells: dict[int, str] = {}
    heads: dict[str, int] = {}
    first = stop = 0  # of the cells that are known
    for step in range(-1, len(tokens)):
        if step >= 0:
            row.advance(tokens[step])
        view = tool.view()
        begin, end = view.first, view.first + len(view.cells)
        for cell in {*heads.values(), *range(begin, first), *range(first, begin), *range(stop, end), *range(end, stop)}:
            text = view.cells[cell - begin] if begin <= cell < end else None
            if text is not None:
                text = visible(text) if isinstance(text, str) else " ".join(map(visible, text))
            if cells.get(cell) != text:
                cells[cell] = text
                trace.writes.append((step, cell, text))
        trace.moves += [(step, head, cell) for head, cell in view.heads.items() if heads.get(head) != cell]
        heads, first, stop = dict(view.heads), begin, end
    return trace
