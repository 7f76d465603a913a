"""Tape: the memory of a Turing machine, read and written one cell at a time (paper, appendix B, Theorem 2.2)."""

from __future__ import annotations  # else those of the closures below are made with each tool

import random
from collections.abc import Callable, Sequence
from functools import cached_property

from length_gen.tools.base import Slip, Tool

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

    @cached_property
    def commands(self) -> dict[str, Callable[[], tuple[str, ...]]]:
        left, right = self._left, self._right

        def move_right() -> tuple[str, ...]:
            left.append(right.pop())
            if not right:
                right.append(BLANK)
            return ()

        def move_left() -> tuple[str, ...]:
            right.append(left.pop() if left else BLANK)
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

    def slips(self, rng: random.Random) -> list[Slip]:
        """Moves, either way."""
        return [(("left",), ("right",)), (("right",), ("left",))]

    def write(self, token: str) -> None:
        pass
