"""Trajectories, and the scribe that records one while an algorithm talks to the real tool."""

import re
import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, repeat, takewhile
from typing import NamedTuple

from length_gen.datamodules.noise import Noise
from length_gen.datamodules.tokens import ANSWER, END, Kind, turns
from length_gen.tools import TICK, PointerMemory, Tool, Unassisted
from length_gen.tools.base import PHASE_MARK

STYLES = {"paper": "", "local": PHASE_MARK}
"""Name of a style -> what stands between a command and its phase. `paper`: commands as in the paper, without a phase.
`local`: a command carries the phase it is given in, so that the next token follows from a bounded window of the
trajectory however long the problem is.

Between the two is `beacons_K` (`beacons`), K a number from 1 on: the tool says `[TICK]` every K tokens (`tools.Clock`),
and the command after a tick carries its phase, the others do not. What a command means then follows from a window of
about K tokens; without an end to K it is style `paper`. In `beacons_K_random` the clock of each problem begins at a
time of its own: in `beacons_K` short problems have ticks at some steps only, and longer ones at others."""

MANY, FEW = 8192, 64
"""Rounds that are recorded at once, and how many there must be for it to pay."""

_THOUGHT, _COMMAND, _OBSERVATION = (bytes([kind]) for kind in (Kind.THOUGHT, Kind.COMMAND, Kind.OBSERVATION))
_OUTPUT, _MISTAKE, _PROMPT, _END = (bytes([kind]) for kind in (Kind.OUTPUT, Kind.MISTAKE, Kind.PROMPT, Kind.END))
_READ = _COMMAND + _OBSERVATION
_MOVE = int(Kind.COMMAND)  # a plain number is appended three times as fast
_WALK = _READ + _COMMAND

SHIFTS = {"left": -1, "right": 1, "read": 0}
"""Cells that the methods of a pointer move it by."""

Taken = tuple[list[str], bytearray, list[tuple[int, str]]]
"""Part of a trajectory: tokens, kinds, and phases with their positions in it, the first at 0."""


def beacons(style: str) -> tuple[int, bool] | None:
    """Of style `beacons_K` or `beacons_K_random` the K, and whether it is the latter; None for other styles."""
    found = re.fullmatch(r"beacons_([1-9][0-9]{0,8})(_random)?", style, re.ASCII)
    return (int(found[1]), bool(found[2])) if found else None


@dataclass(slots=True)
class Trajectory:
    """Everything that one solved problem says.

    tokens: what is shown of the question, thoughts, commands, observations, outputs, end token
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
        """The answer in it: the tokens of kind OUTPUT."""
        return [t for t, k in zip(self.tokens, self.kinds, strict=True) if k == Kind.OUTPUT]

    def turns(self) -> int:
        """Number of commands that were answered by an observation."""
        return turns(self.kinds)


class Sink(NamedTuple):
    """Takes a trajectory part by part while it is recorded: each time that there are `size` tokens, or some more."""

    size: int
    take: Callable[[Taken], None]


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

    mark:   between a command and its phase, see `STYLES`
    ticked: whether only those commands carry their phase that come after a tick
    noise:  where mistakes come from, which it writes before commands and takes back; None: there are none
    sink:   takes the trajectory part by part, which is then never in memory as a whole
    shown:  what the model reads of the question, with which the trajectory begins; None: all of `prompt`
    """

    def __init__(self, tool: Tool, prompt: Sequence[str], mark: str = "", noise: Noise | None = None,
                 sink: Sink | None = None, shown: Sequence[str] | None = None, ticked: bool = False) -> None:
        tool.reset(prompt)
        self._unassisted = type(tool) is Unassisted
        self._tool = tool.tool if self._unassisted else tool
        self._commands, self._write = self._tool.commands, self._tool.write
        # A tool that is derived from it may do something else; and before any command there may be a mistake.
        self._plain = noise is None and type(self._tool) is PointerMemory
        self._many = self._plain and len(prompt) >= FEW
        self._mark, self._suffix, self._noise, self._command, self._sink = mark, "", noise, _COMMAND, sink
        self._size = sink.size if sink else sys.maxsize
        self._ticked, self._name = ticked, ""
        self._pointers: list[Pointer] = []
        shown = prompt if shown is None else shown
        self.trajectory = Trajectory(list(shown), bytearray(_PROMPT * len(shown)), [])
        self._tokens, self._kinds = self.trajectory.tokens, self.trajectory.kinds

    def phase(self, name: str) -> None:
        """Declare that what follows belongs to phase `name`."""
        phases = self.trajectory.phases
        if phases and phases[-1][1] == name:
            return
        phases.append((len(self._tokens), name))
        self._name = name
        if self._mark and (self._suffix or not self._ticked):
            self._suffix = self._mark + name
            for pointer in self._pointers:
                pointer.rename(self._suffix)

    def pointer(self, number: int) -> "Pointer":
        """Initialise pointer `number` of a pointer memory (this is a command) and return a handle to it."""
        self.command(f"p{number}.init")
        pointer = (TickedPointer if self._ticked else Pointer)(self, number)
        pointer.rename(self._suffix)
        self._pointers.append(pointer)
        return pointer

    def command(self, *tokens: str) -> tuple[str, ...]:
        """Give a command of one token or more and record it with its observation, which is returned.

        The phase is carried by the tool's own command tokens, not by the values between them.
        """
        if self._noise:
            self._slip(tokens[0])
        commands, write, said, kinds, observation = self._commands, self._write, self._tokens, self._kinds, ()
        for token in tokens:
            if token in commands:
                observation = commands[token]()
                said.append(token + self._suffix)
            else:
                write(token)
                said.append(token)
        kinds += self._command * len(tokens)
        if self._ticked:
            self._suffix = self._mark + self._name if TICK in observation else ""
        if observation:
            said += observation
            kinds += _OBSERVATION * len(observation)
        if len(said) >= self._size:
            self._hand_over()
        return observation

    def think(self, *tokens: str) -> None:
        """Write tokens that the model has to predict, and that the tool sees in its memory, but does not answer."""
        said, write = self._tokens, self._write
        for token in tokens:
            write(token)
        said += tokens
        self._kinds += _THOUGHT * len(tokens)
        if len(said) >= self._size:
            self._hand_over()

    def answer(self) -> None:
        """Write [ANS], the thought after which outputs come."""
        self.think(ANSWER)

    def output(self, *tokens: str) -> None:
        """Write outputs: the part of the trajectory that is judged."""
        said, write = self._tokens, self._write
        for token in tokens:
            write(token)
        said += tokens
        self._kinds += _OUTPUT * len(tokens)
        if len(said) >= self._size:
            self._hand_over()

    def rounds(self, reads: "Sequence[Step]", among: Container[str], write: Callable[..., Sequence[str]],
               moves: "Sequence[Step]", output: bool = False) -> list[str]:
        """Read, write and move in turns, for as long as all that is read is `among` some symbols.

        As if one did it step by step, and far faster where there are many rounds. Returns what the last round has read:
        the last of that is not `among` them, and ended the round.

        reads: of each round, moves among them: `pointer.read`, `pointer.left`, `pointer.right`
        write: what is read in a round -> the thoughts that are written then, or outputs; always as many
        moves: of each round, after writing
        """
        while self._many and self._record_many(reads, among, write, moves, _OUTPUT if output else _THOUGHT):
            pass
        say = self.output if output else self.think
        while True:
            seen: list[str] = []
            for step in reads:
                if (symbol := step()) is not None:
                    seen.append(symbol)
                    if symbol not in among:
                        return seen
            say(*write(*seen))
            for step in moves:
                step()

    def _record_many(self, reads: "Sequence[Step]", among: Container[str], write: Callable[..., Sequence[str]],
                     moves: "Sequence[Step]", kind: bytes) -> bool:
        """As many `rounds` at once as the memory can tell, up to `MANY`; whether there may be more."""
        shifts: Counter[int] = Counter()  # cells that a round moves each pointer by
        for step in (*reads, *moves):
            shifts[step.__self__.number] += SHIFTS[step.__name__]
        moved, columns, row, kinds = Counter(), [], [], b""
        for step in reads:
            number = step.__self__.number
            row.append(_token(step))
            kinds += _COMMAND
            if step.__name__ == "read":
                ahead = self._tool.ahead(number, moved[number], shifts[number], MANY)
                columns.append(list(takewhile(among.__contains__, ahead)))
                row.append(columns[-1])
                kinds += _OBSERVATION
            moved[number] += SHIFTS[step.__name__]
        count = min(map(len, columns))
        if count < FEW:
            return False
        # Flat at once: thousands of tuples that live on would set off Python's search for cycles.
        written = list(chain.from_iterable(map(write, *columns)))
        width = len(written) // count
        row += [*(written[k::width] for k in range(width)), *map(_token, moves)]
        tokens = [""] * (len(row) * count)
        for k, column in enumerate(row):
            tokens[k :: len(row)] = repeat(column, count) if isinstance(column, str) else column[:count]
        self._tool.write_all(written)
        for number, cells in shifts.items():
            self._tool.jump(number, cells * count)
        self._tokens += tokens
        self._kinds += (kinds + kind * width + _COMMAND * len(moves)) * count
        if len(self._tokens) >= self._size:
            self._hand_over()
        return True

    def _walk(self, pointer: "Pointer", symbol: str) -> bool:
        """All of `Pointer.walk_right` at once, many steps at a time; False if that cannot be."""
        found = not self._plain
        while not found:
            seen, found = self._tool.scan(pointer.number, symbol, 100_000)
            tokens = [pointer.read_token, "", pointer.right_token] * len(seen)
            tokens[1::3] = seen
            count = len(tokens) - found
            self._tokens += tokens[:count]
            self._kinds += (_WALK * len(seen))[:count]
            if len(self._tokens) >= self._size:
                self._hand_over()
        return self._plain

    def end(self) -> Trajectory:
        """Write the end token and return the trajectory, or what no sink has taken of it."""
        self._tokens.append(END)
        self._kinds += _END
        self._pointers.clear()  # who know this scribe: it would wait for Python's search for cycles
        if self._sink:
            self._hand_over()
        self.trajectory.kinds = self._settled()
        return self.trajectory

    def _settled(self) -> bytearray:
        """Kinds as they are without a tool: what it would say is the model's to predict."""
        return self._kinds.replace(_OBSERVATION, _COMMAND) if self._unassisted else self._kinds

    def _hand_over(self) -> None:
        """Give the sink all that is there."""
        phases = self.trajectory.phases
        last = phases[-1][1:] if phases else ()
        self._sink.take((self._tokens[:], self._settled()[:], phases[:]))
        self._tokens.clear()
        self._kinds.clear()
        phases[:] = [(0, name) for name in last]

    def _slip(self, intended: str) -> None:
        """Perhaps a mistake, with what takes it back, before the command that begins with `intended`."""
        noise, self._noise = self._noise, None
        if slip := noise.slip(self._tool, intended):
            wrong, back = slip
            self._command = _MISTAKE
            self.command(*wrong)
            self._command = _COMMAND
            if back:
                self.command(*back)
        self._noise = noise

    def _run(self, token: str) -> Callable[[], tuple[str, ...]]:
        """What carries out a command and records nothing, but for a mistake before it."""
        run = self._commands[token]
        if not self._noise:
            return run

        def noisy() -> tuple[str, ...]:
            self._slip(token)
            return run()

        return noisy


class Pointer:
    """Handle to one pointer of a pointer memory: each call is a command, recorded with its observation."""

    __slots__ = ("_kinds", "_left", "_read", "_right", "_scribe", "_tokens", "left_token", "number", "read_token",
                 "right_token")

    def __init__(self, scribe: Scribe, number: int) -> None:
        self._scribe, self._tokens, self._kinds, self.number = scribe, scribe._tokens, scribe._kinds, number
        self._left, self._right, self._read = (scribe._run(f"p{number}.{name}") for name in ("left", "right", "read"))

    def rename(self, suffix: str) -> None:
        """Let the commands from now on carry `suffix`."""
        self.left_token, self.right_token, self.read_token = _command_tokens(self.number, suffix)

    def left(self) -> None:
        """Move one cell to the left."""
        self._left()
        self._tokens.append(self.left_token)
        self._kinds.append(_MOVE)

    def right(self) -> None:
        """Move one cell to the right."""
        self._right()
        self._tokens.append(self.right_token)
        self._kinds.append(_MOVE)

    # Of a trajectory that is taken part by part nothing is handed over here, where recording spends most of its time:
    # what is only read and moved between two thoughts is not longer than the memory itself, but for a factor.
    def read(self) -> str:
        """The token under the pointer; `[EDGE]` beyond either end."""
        symbol, = self._read()
        tokens = self._tokens
        tokens.append(self.read_token)
        tokens.append(symbol)
        self._kinds += _READ
        return symbol

    def walk_right(self, symbol: str) -> None:
        """Read, and move right, until `symbol` is read."""
        if not self._scribe._walk(self, symbol):
            while self.read() != symbol:
                self.right()


class TickedPointer(Pointer):
    """A pointer whose tool may answer a move with a tick: each call is a command like any other."""

    __slots__ = ()

    def left(self) -> None:
        self._scribe.command(f"p{self.number}.left")

    def right(self) -> None:
        self._scribe.command(f"p{self.number}.right")

    def read(self) -> str:
        symbol, = self._scribe.command(f"p{self.number}.read")
        return symbol


Step = Callable[[], str | None]
"""One of a pointer's `left`, `right` and `read`."""


@lru_cache(4096)  # phases come again and again; so does what the vocabulary is asked for, which hashes it once
def _command_tokens(number: int, suffix: str) -> tuple[str, str, str]:
    """What moves a pointer to the left and to the right, and what reads."""
    return f"p{number}.left{suffix}", f"p{number}.right{suffix}", f"p{number}.read{suffix}"


def _token(step: Step) -> str:
    """The command that a step gives."""
    return getattr(step.__self__, f"{step.__name__}_token")
