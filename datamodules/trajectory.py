"""Trajectories, and the scribe that records one while an algorithm talks to the real tool."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress

from datamodules.tokens import ANSWER, END, Kind, turns
from tools import PointerMemory, Unassisted
from tools.base import PHASE_MARK, Tool

STYLES: dict[str, Callable[[str], str]] = {"paper": lambda phase: "", "local": lambda phase: PHASE_MARK + phase}
"""Name of a style -> what its commands carry in a phase. `paper`: commands as in the paper. `local`: a command carries
the phase it is given in, so that the next token follows from a bounded window of the trajectory however long the
problem is."""

_THOUGHT, _OUTPUT, _END = (bytes([k]) for k in (Kind.THOUGHT, Kind.OUTPUT, Kind.END))
_COMMAND, _OBSERVATION = bytes([Kind.COMMAND]), bytes([Kind.OBSERVATION])
READ = _COMMAND + _OBSERVATION
_WRITTEN = (Kind.THOUGHT, Kind.OUTPUT)
_WALK = READ + _COMMAND


@dataclass(slots=True)
class Trajectory:
    """Everything that one solved problem says.

    tokens: question, thoughts, commands, observations, outputs, end token
    kinds:  one `Kind` a token
    phases: (position of its first token, name), in order; positions before the first belong to no phase
    """

    tokens: list[str]
    kinds: bytearray
    phases: list[tuple[int, str]]

    def phase_at(self, position: int) -> str:
        """Name of the phase that the token at `position` belongs to; "" for the question."""
        i = bisect_right(self.phases, position, key=lambda phase: phase[0])
        return self.phases[i - 1][1] if i else ""

    def outputs(self) -> list[str]:
        return [t for t, k in zip(self.tokens, self.kinds, strict=True) if k == Kind.OUTPUT]

    def turns(self) -> int:
        """Number of commands that were answered by an observation."""
        return turns(self.kinds)


class Scribe:
    """Records a trajectory: what the algorithm writes, what it asks the tool, and what the tool answers.

    Example, with the kinds of the tokens that it records below them (T thought, C command, O observation)::

        scribe.phase("find_plus")
        left = scribe.pointer(1)           # p1.init@find_plus
                                           # C
        while left.read() != "+":          # p1.read@find_plus  7  p1.right@find_plus  p1.read@find_plus  +
            left.right()                   # C                  O  C                   C                  O
        scribe.think("[ANS]")              # [ANS]
                                           # T

    In style `paper` the same commands are `p1.init`, `p1.read`, ...

    suffix: phase -> what commands carry in it, see `STYLES`
    """

    def __init__(self, tool: Tool, prompt: Sequence[str], suffix: Callable[[str], str] = STYLES["paper"]) -> None:
        tool.reset(prompt)
        self._unassisted = isinstance(tool, Unassisted)
        self._tool = tool.tool if isinstance(tool, Unassisted) else tool
        self._suffix_of = suffix
        self._suffix = ""
        self._pointers: list[Pointer] = []
        self.trajectory = Trajectory(list(prompt), bytearray([Kind.PROMPT]) * len(prompt), [])
        self._tokens, self._kinds = self.trajectory.tokens, self.trajectory.kinds

    def phase(self, name: str) -> None:
        """Declare that what follows belongs to phase `name`."""
        phases = self.trajectory.phases
        if phases and phases[-1][1] == name:
            return
        phases.append((len(self._tokens), name))
        if (suffix := self._suffix_of(name)) != self._suffix:
            self._suffix = suffix
            for pointer in self._pointers:
                pointer.rename(suffix)

    def pointer(self, number: int) -> "Pointer":
        """Initialise pointer `number` of a pointer memory (this is a command) and return a handle to it."""
        self.command(f"p{number}.init")
        pointer = self._handle(number)
        pointer.rename(self._suffix)
        self._pointers.append(pointer)
        return pointer

    def _handle(self, number: int) -> "Pointer":
        return Pointer(self._tool, self._tokens, self._kinds, number)

    def command(self, *tokens: str) -> tuple[str, ...]:
        """Give a command of one token or more and record it with its observation, which is returned.

        The phase is carried by the tool's own command tokens, not by the values between them.
        """
        tool, commands, observation = self._tool, self._tool.commands, ()
        for token in tokens:
            if token in commands:
                observation = commands[token]()
                self._tokens.append(token + self._suffix)
            else:
                tool.write(token)
                self._tokens.append(token)
        self._tokens += observation
        self._kinds += _COMMAND * len(tokens)
        self._kinds += _OBSERVATION * len(observation)
        return observation

    def think(self, *tokens: str) -> None:
        """Write thoughts."""
        for token in tokens:
            self._tool.write(token)
        self._tokens += tokens
        self._kinds += _THOUGHT * len(tokens)

    def answer(self) -> None:
        """Write [ANS], the thought after which outputs come."""
        self.think(ANSWER)

    def output(self, *tokens: str) -> None:
        """Write outputs: the part of the trajectory that is judged."""
        for token in tokens:
            self._tool.write(token)
        self._tokens += tokens
        self._kinds += _OUTPUT * len(tokens)

    def rounds(self, columns: Sequence[str | Sequence[str]], kinds: bytes, count: int) -> None:
        """Record `count` equal rounds of commands and writing at once: far faster than one by one where they are many.

        The caller has made out what is read (`Pointer.ahead`), and moves the pointers (`Pointer.jump`): a tool whose
        commands do something else beside has no `ahead`.

        columns: the tokens of a round in order, each the same in all rounds, or `count` of them
        kinds:   one `Kind` a token of a round
        """
        width, tokens = len(columns), [""] * (len(columns) * count)
        for k, column in enumerate(columns):
            tokens[k::width] = [column] * count if isinstance(column, str) else column
        writing = [kind in _WRITTEN for kind in kinds] * count
        for token in compress(tokens, writing):
            self._tool.write(token)
        self._tokens += tokens
        self._kinds += kinds * count

    def end(self) -> Trajectory:
        """Write the end token and return the whole trajectory."""
        self._tokens.append(END)
        self._kinds += _END
        self.trajectory.kinds = self._settled(self._kinds)
        return self.trajectory

    def _settled(self, kinds: bytearray) -> bytearray:
        """Kinds as they are without a tool: what it would say is the model's to predict."""
        return kinds.replace(_OBSERVATION, _COMMAND) if self._unassisted else kinds


class Pointer:
    """Handle to one pointer of a pointer memory: each call is a command, recorded with its observation."""

    __slots__ = ("_kinds", "_left", "_name", "_number", "_read", "_right", "_scan", "_tokens", "_tool", "left_token",
                 "read_token", "right_token")

    def __init__(self, tool: PointerMemory, tokens: list[str], kinds: bytearray, number: int) -> None:
        self._tokens, self._kinds, self._number, self._name = tokens, kinds, number, f"p{number}"
        self._left, self._right, self._read = (tool.commands[f"{self._name}.{o}"] for o in ("left", "right", "read"))
        self._scan, self._tool = tool.scan, tool

    def rename(self, suffix: str) -> None:
        """Let the commands from now on carry `suffix`."""
        self.left_token = f"{self._name}.left{suffix}"
        self.right_token = f"{self._name}.right{suffix}"
        self.read_token = f"{self._name}.read{suffix}"

    def left(self) -> None:
        self._left()
        self._tokens.append(self.left_token)
        self._kinds += _COMMAND

    def right(self) -> None:
        self._right()
        self._tokens.append(self.right_token)
        self._kinds += _COMMAND

    def read(self) -> str:
        """The token under the pointer; `[EDGE]` beyond either end."""
        observation = self._read()
        self._tokens.append(self.read_token)
        self._tokens += observation
        self._kinds += READ
        return observation[0]

    def ahead(self, step: int, most: int) -> list[str]:
        """What reading and then moving `step` cells would give, up to `most` times; nothing is recorded.

        Nothing where the tool cannot tell: then the algorithm goes on one command after the other.
        """
        return self._tool.ahead(self._number, step, most) if hasattr(self._tool, "ahead") else []

    def jump(self, cells: int) -> None:
        """Move so many cells to the right (negative: to the left), which others record (`Scribe.rounds`)."""
        self._tool.jump(self._number, cells)

    def walk_right(self, symbol: str) -> None:
        """Read, and move right, until `symbol` is read."""
        while self.scan_right(symbol):
            pass

    def scan_right(self, symbol: str, most: int = 100_000) -> bool:
        """At most so many reads of `walk_right`, recorded at once; tells whether the walk goes on."""
        seen, found = self._scan(self._number, symbol, most)
        moves = len(seen) - found
        tokens = [self.read_token, "", self.right_token] * len(seen)
        tokens[1::3] = seen
        self._tokens += tokens[: 2 * len(seen) + moves]
        self._kinds += (_WALK * len(seen))[: 2 * len(seen) + moves]
        return not found
