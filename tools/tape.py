"""Tape: the memory of a Turing machine, read and written one cell at a time (paper, appendix B, Theorem 2.2)."""

from __future__ import annotations  # else those of the closures below are made with each tool

import random
from collections.abc import Callable, Sequence
from functools import cached_property

from length_gen.tools.base import Slip, Tool, View

BLANK = "_"


class Tape(Tool):
    """The question on a tape without ends, one symbol a cell, blank (`_`) elsewhere; the head starts on its first cell.

    | command   | effect                               | observation               |
    |-----------|--------------------------------------|---------------------------|
    | `read`    | reads                                | the symbol under the head |
    | `write.S` | writes symbol S under the head       | none                      |
    | `left`    | moves the head one cell to the left  | none                      |
    | `right`   | moves the head one cell to the right | none                      |

    Thoughts and outputs leave the tape alone. The paper's tape ends on the left; this one has no end on either side.
    """

    def __init__(self, symbols: Sequence[str]) -> None:
        self._symbols = symbols
        # The cells right of the head, the nearest last, and left of it; the head's own is the last of `right`.
        self._left: list[str] = []
        self._right: list[str] = [BLANK]
        self._first = [0]  # number of the leftmost cell that there is, by the question's first

    @cached_property
    def commands(self) -> dict[str, Callable[[], tuple[str, ...]]]:
        left, right, first = self._left, self._right, self._first

        def move_right() -> tuple[str, ...]:
            left.append(right.pop())
            if not right:
                right.append(BLANK)
            return ()

        def move_left() -> tuple[str, ...]:
            if left:
                right.append(left.pop())
            else:
                right.append(BLANK)
                first[0] -= 1
            return ()

        def writer(symbol: str):
            def write() -> tuple[str, ...]:
                right[-1] = symbol
                return ()

            return write

        return {"read": lambda: (right[-1],), "left": move_left, "right": move_right,
                **{f"write.{symbol}": writer(symbol) for symbol in self._symbols}}

    def reset(self, prompt: Sequence[str]) -> None:
        self._left.clear()
        self._right[:] = list(prompt)[::-1] or [BLANK]
        self._first[0] = 0

    def view(self) -> View:
        first, = self._first
        return View([*self._left, *reversed(self._right)], {"head": first + len(self._left)}, first, BLANK)

    def slips(self, rng: random.Random) -> list[Slip]:
        """A move either way, which the move back undoes; also beyond the first cell, where the tape goes on."""
        return [(("left",), ("right",)), (("right",), ("left",))]

    def write(self, token: str) -> None:
        pass
