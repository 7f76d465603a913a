"""Pointer memory: the text so far, read one token at a time through movable pointers (paper, appendix D.1)."""

from __future__ import annotations  # else those of the closures below are made with each tool

import random
from collections.abc import Callable, Iterable, Sequence
from functools import cache, cached_property
from itertools import chain

from length_gen.tools.base import InvalidCommand, Slip, Tool, View
from length_gen.tools.errors import UserError

EDGE = "[EDGE]"
"""What a pointer reads left of the first token and right of the last."""

OPERATIONS = ("init", "left", "right", "read")


class PointerMemory(Tool):
    """The question and everything that was thought or output, with `pointers` read heads `p1`, `p2`, ...

    Commands, each a single token, for pointer K:

    | command    | effect                                             | observation            |
    |------------|----------------------------------------------------|------------------------|
    | `pK.init`  | puts the pointer on the first token of the question | none                   |
    | `pK.left`  | moves it one token to the left                     | none                   |
    | `pK.right` | moves it one token to the right                    | none                   |
    | `pK.read`  | reads                                              | the token under it     |

    Thoughts and outputs are appended to the memory, commands and observations are not.

    Edges: there is one cell left of the first token and one right of the last; both read as `[EDGE]`, and a move
    beyond them leaves the pointer where it is. A pointer on the right edge cell reads the next token that is appended,
    once it is. Using a pointer before its `init` raises InvalidCommand.
    """

    def __init__(self, pointers: int = 2) -> None:
        if pointers < 1:
            raise UserError(f"{pointers} pointers are not possible: the pointer memory needs at least 1")
        self.pointers = pointers
        # Cell 0 is the left edge, so that clamping and reading need no case of their own there.
        self._cells: list[str] = [EDGE]
        self._positions: list[int] = [-1] * pointers

    @cached_property
    def commands(self) -> dict[str, Callable[[], tuple[str, ...]]]:
        operations = chain.from_iterable(map(self._operations, range(self.pointers)))
        return dict(zip(_command_tokens(self.pointers), operations, strict=True))

    def reset(self, prompt: Sequence[str]) -> None:
        self._cells[1:] = prompt
        self._positions[:] = [-1] * self.pointers

    def write(self, token: str) -> None:
        self._cells.append(token)

    def write_all(self, tokens: Iterable[str]) -> None:
        """`write` of several tokens."""
        self._cells.extend(tokens)

    def scan(self, pointer: int, symbol: str, most: int) -> tuple[list[str], bool]:
        """What reading and moving right by turns until `symbol` is read gives: what is read, and whether it was found.

        The same as those commands of `pointer` (a number from 1), in one call; after `most` reads it stops, one cell to
        the right of the last. Raises ValueError if the symbol does not stand there.
        """
        start = self._positions[pointer - 1]
        if start >= len(self._cells):
            raise ValueError(f"{symbol!r} does not stand to the right of p{pointer}")
        try:
            found = self._cells.index(symbol, start, start + most)
        except ValueError:
            self._positions[pointer - 1] = stop = min(start + most, len(self._cells))
            return self._cells[start:stop], False
        self._positions[pointer - 1] = found
        return self._cells[start : found + 1], True

    def ahead(self, pointer: int, first: int, step: int, most: int) -> list[str]:
        """What a pointer would read `first` cells from where it is, and then `step` cells further each time (a constant
        if that is 0), up to `most` times: fewer where the memory ends.

        Raises InvalidCommand for a pointer before its `init`.
        """
        if self._positions[pointer - 1] < 0:
            raise _no_place(pointer - 1, "read")
        start = self._positions[pointer - 1] + first
        if not 0 <= start < len(self._cells):
            return []
        if not step:
            return self._cells[start : start + 1] * most
        stop = start + step * most
        return self._cells[start : stop if stop >= 0 else None : step]

    def jump(self, pointer: int, cells: int) -> None:
        """Move a pointer so many cells to the right (negative: to the left)."""
        self._positions[pointer - 1] = min(max(0, self._positions[pointer - 1] + cells), len(self._cells))

    def view(self) -> View:
        return View(self._cells, {f"p{k}": place for k, place in enumerate(self._positions, 1) if place >= 0},
                    blank=EDGE)

    def slips(self, rng: random.Random) -> list[Slip]:
        """Moves of any pointer, either way, as far as the edges let them be taken back."""
        slips: list[Slip] = []
        for index, position in enumerate(self._positions):
            left, right = (f"p{index + 1}.left",), (f"p{index + 1}.right",)
            if position > 0:
                slips.append((left, right))
            if 0 <= position < len(self._cells):
                slips.append((right, left))
        return slips

    def _operations(self, index: int) -> tuple[Callable[[], tuple[str, ...]], ...]:
        """What the four commands of a pointer do."""
        # Closures over the two lists, not methods: recording spends most of its time in these lines.
        cells, positions = self._cells, self._positions

        def init() -> tuple[str, ...]:
            positions[index] = 1
            return ()

        def left() -> tuple[str, ...]:
            position = positions[index]
            if position > 0:
                positions[index] = position - 1
            elif position < 0:
                raise _no_place(index, "left")
            return ()

        def right() -> tuple[str, ...]:
            position = positions[index]
            if position < 0:
                raise _no_place(index, "right")
            if position < len(cells):
                positions[index] = position + 1
            return ()

        def read() -> tuple[str, ...]:
            position = positions[index]
            if position < 0:
                raise _no_place(index, "read")
            return (cells[position] if position < len(cells) else EDGE,)

        return init, left, right, read


@cache
def _command_tokens(pointers: int) -> tuple[str, ...]:
    return tuple(f"p{k}.{operation}" for k in range(1, pointers + 1) for operation in OPERATIONS)


def _no_place(index: int, operation: str) -> InvalidCommand:
    name = f"p{index + 1}"
    return InvalidCommand(f"{name}.{operation}: {name} has no place yet, call {name}.init first")
