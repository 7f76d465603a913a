"""Search memory: the text so far, looked up by what its lines contain, as grep does (paper, appendix D.1)."""

import random
from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, pairwise

from length_gen.tools.base import InvalidCommand, Slip, Tool, View
from length_gen.tools.errors import UserError

FIND = "find"
FOUND = "[OBSERVATION]"
NONE = "[NONE]"
"""What a search that finds nothing is answered by."""
NEWLINE = "\n"


class SearchMemory(Tool):
    """The lines of the question and of everything that was thought or output; a line ends with the token `\\n`.

    One command, of several tokens: `find x1 .. xk [OBSERVATION]` is answered by all lines that contain the tokens x1 ..
    xk, next to each other and in this order (whole tokens: `find 7` does not find `72`), oldest first, each with its
    `\\n`; or by `[NONE]`. The x are any tokens that are no commands.

    Thoughts and outputs are appended to the memory, commands and observations are not; a line can be found once its
    `\\n` is written.

    A search for nothing, one inside another, an `[OBSERVATION]` without `find`, and a search that more than `max_lines`
    lines match raise InvalidCommand.
    """

    def __init__(self, max_lines: int = 100) -> None:
        if max_lines < 1:
            raise UserError(f"max_lines {max_lines} is not allowed: an observation needs at least 1 line")
        self.max_lines = max_lines
        self.commands = {FIND: self._start, FOUND: self._find}
        self.reset(())

    def reset(self, prompt: Sequence[str]) -> None:
        self._lines: list[tuple[str, ...]] = []
        self._line: list[str] = []
        # Lines that contain two neighbouring tokens: a pair is rare where a token, such as '=', is not.
        self._with_pair: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
        self._value: list[str] | None = None
        for token in prompt:
            self.write(token)

    def write(self, token: str) -> tuple[str, ...] | None:
        if self._value is not None:
            self._value.append(token)
            return ()
        self._line.append(token)
        if token == NEWLINE:
            self._end_line()
        return None

    def view(self) -> View:
        """The lines that can be found."""
        return View(self._lines, {})

    def slips(self, rng: random.Random) -> list[Slip]:
        """A search for the first three tokens of some line; a search changes nothing, so nothing takes it back."""
        if not self._lines:
            return []
        return [((FIND, *rng.choice(self._lines)[:3], FOUND), ())]

    def _end_line(self) -> None:
        number, line = len(self._lines), tuple(self._line)
        self._line.clear()
        self._lines.append(line)
        for pair in pairwise(line):
            self._with_pair[pair].append(number)

    def _start(self) -> tuple[str, ...]:
        if self._value is not None:
            raise InvalidCommand(f"{FIND}: the search before has not ended, write {FOUND} first")
        self._value = []
        return ()

    def _find(self) -> tuple[str, ...]:
        if not self._value:
            raise InvalidCommand(f"{FOUND}: there is nothing to look for, write {FIND} and what to find first")
        value, self._value = tuple(self._value), None
        lines = [line for line in self._candidates(value) if _contains(line, value)]
        if len(lines) > self.max_lines:
            raise InvalidCommand(f"{FIND} {' '.join(value[:8])!r}: {len(lines)} lines match, more than the "
                                 f"{self.max_lines} of one observation; look for something rarer")
        return tuple(chain.from_iterable(lines)) or (NONE,)

    def _candidates(self, value: tuple[str, ...]) -> Sequence[tuple[str, ...]]:
        """All lines that may contain `value`, in order."""
        if len(value) == 1:
            return self._lines
        numbers = min((self._with_pair.get(pair, ()) for pair in pairwise(value)), key=len)
        return [self._lines[number] for number in dict.fromkeys(numbers)]


def _contains(line: tuple[str, ...], value: tuple[str, ...]) -> bool:
    return any(line[i : i + len(value)] == value for i in range(len(line) - len(value) + 1))
