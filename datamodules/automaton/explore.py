"""All that an algorithm can write, whatever the question: its states, and the tokens from one to the next."""

from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from length_gen.datamodules.automaton.frozen import Constants, Freezer
from length_gen.datamodules.automaton.machine import Machine, Request, Stopped, enter
from length_gen.datamodules.automaton.memory import KINDS
from length_gen.datamodules.automaton.program import Unsupported
from length_gen.datamodules.automaton.values import UNKNOWN, Handle, Looked, Name
from length_gen.datamodules.questions import Questions
from length_gen.datamodules.tasks import ToolTask
from length_gen.datamodules.tokens import END
from length_gen.datamodules.trajectory import Pointer, Scribe
from length_gen.tools import UserError

MOST_STATES = 1_000_000
MOST_CALLS = 64
"""Calls of the tool without a choice, after which there is a state all the same: some algorithms go round for ever."""

Said = tuple[tuple[str, bool], ...]
"""Tokens, and whether the model has to predict each."""


class World(NamedTuple):
    """All that is not the algorithm's: the memory's state, the phase, what commands carry for it, and the last thought
    or output."""

    memory: Any
    phase: str = ""
    suffix: str = ""
    said: str = ""


@dataclass(frozen=True, slots=True)
class States:
    """edges: of each state, the first of which a trajectory starts in after the question, the tokens that may come next
    and the state then; -1 is the end of the trajectory, whose last token is the end token."""

    edges: list[list[tuple[Said, int]]]


def _carried_out(name: str) -> Any:
    """A method that the explorer carries out; nobody else can."""
    def method(self: Handle, *_: Any, **__: Any) -> Any:
        raise Unsupported(f"{name} is called where Python calls it: write a loop")

    method.__name__ = name
    return method


class _Scribe(Handle):
    """Stands for `Scribe`."""

    own = frozenset({"phase", "pointer", "command", "think", "output"})
    phase, pointer, command, think, output = map(_carried_out, ("phase", "pointer", "command", "think", "output"))
    answer, rounds = Scribe.answer, Scribe.rounds
    _many = False

    def _walk(self, pointer: "_Pointer", symbol: str) -> bool:
        return False


class _Pointer(Handle):
    """Stands for `Pointer`."""

    own = frozenset({"left", "right", "read"})
    left, right, read = map(_carried_out, ("left", "right", "read"))
    walk_right = Pointer.walk_right

    @property
    def _scribe(self) -> _Scribe:
        return SCRIBE


SCRIBE = _Scribe()


class Explorer:
    """Explores one task with all of `questions`."""

    def __init__(self, task: ToolTask, questions: Questions) -> None:
        tool = task.tool()
        if type(tool) not in KINDS:
            known = " and ".join(kind.__name__ for kind in KINDS)
            raise Unsupported(f"{task.name} in setting {task.setting} has a {type(tool).__name__}: only algorithms "
                              f"with a {known} can be explored")
        self.task, self.memory = task, KINDS[type(tool)](tool, questions)
        self.names, self.constants = frozenset(task.names), Constants(task, SCRIBE)
        self.freezer = Freezer(self.constants)

    def states(self) -> States:
        """Explores again and again, until nothing is written to the memory that has not been before."""
        while True:
            self.memory.cells.grown = False
            found = self._round()
            if not self.memory.cells.grown:
                self.constants.check()
                return found

    def _round(self) -> States:
        frames = [enter(self.task._setting.solve, (self.task, UNKNOWN, SCRIBE), {})]
        queue = deque([(self.freezer.freeze(frames), World(self.memory.start))])
        numbers: dict[Hashable, int] = {queue[0]: 0}
        edges: list[list[tuple[Said, int]]] = []
        while queue:
            frozen, world = queue.popleft()
            machine = Machine(self.freezer.thaw(frozen), self.constants)
            edges.append([])
            request = self._run(machine)
            for outcome in self._outcomes(machine, request, world) if request else [(world, None, ())]:
                machine = Machine(self.freezer.thaw(frozen), self.constants)
                self._run(machine)
                said, state = self._follow(machine, request, outcome)
                if state is not None and state not in numbers:
                    numbers[state] = len(numbers)
                    queue.append(state)
                    if len(numbers) > MOST_STATES:
                        raise Unsupported(f"{self.task.name} has more than {MOST_STATES:,} states: does a variable "
                                          f"grow with the question?")
                if said is not None:
                    edges[-1].append((said, -1 if state is None else numbers[state]))
        return States(edges)

    def _follow(self, machine: Machine, request: Request | None, outcome: tuple[World, Any, Said]) \
            -> tuple[Said | None, Any]:
        """What is said from one choice to the next, and the state there; None at the end, twice where it gives up."""
        said: list[tuple[str, bool]] = []
        for _ in range(MOST_CALLS):
            world, value, tokens = outcome
            said += tokens
            if request:
                machine.answer(value)
            try:
                request = self._run(machine)
            except Stopped:
                return None, None
            if request is None:
                return (*said, (END, True)), None
            outcomes = self._outcomes(machine, request, world)
            if len(outcomes) != 1:  # a choice; or a pointer that can be nowhere, as the graph is so far
                break
            outcome, = outcomes
        return tuple(said), (self.freezer.freeze(machine.frames), world)

    def _run(self, machine: Machine) -> Request | None:
        try:
            return machine.run()
        except (Stopped, UserError):
            raise
        except Looked as error:
            raise Unsupported(f"{machine.where()}: {error}") from error
        except Exception as error:
            raise Unsupported(f"{machine.where()}: {type(error).__name__}: {error}; if it cannot come to that, say so "
                              f"in {type(self.task).__name__}.questions, or raise an error there") from error

    def _outcomes(self, machine: Machine, request: Request, world: World) -> list[tuple[World, Any, Said]]:
        """What may come of a request: the world then, the value that the algorithm gets, and the tokens."""
        handle, arguments = request.handle, request.arguments
        if handle is None:
            return [(world, value, ()) for value in (True, False)]
        try:
            method = getattr(self, f"_{request.name}")
            return method(machine, world, handle, *arguments, **request.named)
        except TypeError as error:
            raise Unsupported(f"{machine.where()}: {request.name}: {error}") from error

    def _phase(self, machine: Machine, world: World, handle: Handle, name: str) -> list:
        suffix = self.task.mark + name if self.task.mark else ""
        return [(world._replace(suffix=suffix, phase=name), None, ())]

    def _pointer(self, machine: Machine, world: World, handle: Handle, number: int) -> list:
        return [(world, _Pointer(number), said)
                for world, _, said in self._command(machine, world, handle, f"p{number}.init")]

    def _left(self, machine: Machine, world: World, handle: Handle, name: str = "left") -> list:
        moved = self._command(machine, world, handle, f"p{handle.number}.{name}")
        return [(world, None, said) for world, _, said in moved]

    def _right(self, machine: Machine, world: World, handle: Handle) -> list:
        return self._left(machine, world, handle, "right")

    def _read(self, machine: Machine, world: World, handle: Handle) -> list:
        return [(world, symbol, said)
                for world, (symbol,), said in self._command(machine, world, handle, f"p{handle.number}.read")]

    def _seen(self, token: str) -> str | Name:
        """What the algorithm gets to see of a token."""
        return Name(token, self.names) if token in self.names else token

    def _command(self, machine: Machine, world: World, handle: Handle, *given: Any) -> list:
        tokens = [self._token(machine, token) for token in given]
        found: list[tuple[World, tuple[str, ...], Said]] = [(world, (), ())]
        for token in tokens:
            if token in self.memory.commands:
                found = [(world._replace(memory=memory), observed, (*said, (token + world.suffix, True)))
                         for world, _, said in found
                         for memory, observed in self.memory.run(world.memory, token, (world.phase, world.said))]
            else:
                found = [(self._written(machine, world, token, 0), observed, (*said, (token, True)))
                         for world, observed, said in found]
        return [(world, tuple(map(self._seen, observed)), (*said, *((token, False) for token in observed)))
                for world, observed, said in found]

    def _think(self, machine: Machine, world: World, handle: Handle, *given: Any) -> list:
        tokens = [self._token(machine, token) for token in given]
        for index, token in enumerate(tokens):
            world = self._written(machine, world, token, index)
        return [(world, None, tuple((token, True) for token in tokens))]

    _output = _think

    @staticmethod
    def _token(machine: Machine, given: Any) -> str:
        if not isinstance(given, str | Name):
            raise Unsupported(f"{machine.where()}: {given!r} is written, which is no token")
        return given.token if isinstance(given, Name) else given

    def _written(self, machine: Machine, world: World, token: str, index: int) -> World:
        memory = self.memory.write(world.memory, token, (world.phase, machine.site(), index))
        return world._replace(memory=memory, said=token)
