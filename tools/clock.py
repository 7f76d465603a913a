"""A tool with a clock: now and then it says that it is time, so that a model need not count."""

from collections.abc import Callable, Sequence
from functools import cached_property
from random import Random

from length_gen.tools.base import Slip, Tool, View
from length_gen.tools.errors import UserError
from length_gen.tools.pointer_memory import PointerMemory
from length_gen.tools.tape import Tape

TICK = "[TICK]"


class Clock(Tool):
    """A tool that answers with `[TICK]` the first of its commands that has no answer of its own, once `every` tokens
    have passed since the last tick (commands, thoughts, outputs and answers; not the question).

    tool:   the one behind, which answers all else: a pointer memory or a tape, whose commands are single tokens, so
            that no tick is inside of one
    every:  at least 1
    random: whether each question has a time of its own at which the clock begins, drawn from the question; else it
            begins at 0, so that in short problems the tick falls on some steps only
    """

    def __init__(self, tool: Tool, every: int, random: bool = False) -> None:
        if not isinstance(tool, PointerMemory | Tape):
            raise UserError(f"a {type(tool).__name__} has no clock, which style beacons_{every} needs: only pointer "
                            f"memories and tapes have")
        self.tool, self.every, self.random, self._passed = tool, every, random, 0

    @cached_property
    def commands(self) -> dict[str, Callable[[], tuple[str, ...]]]:
        return {token: self._timed(command) for token, command in self.tool.commands.items()}

    def _timed(self, command: Callable[[], tuple[str, ...]]) -> Callable[[], tuple[str, ...]]:
        def timed() -> tuple[str, ...]:
            observation = command()
            self._passed += 1 + len(observation)
            if self._passed >= self.every and not observation:
                self._passed = 0
                return (TICK,)
            return observation

        return timed

    def reset(self, prompt: Sequence[str]) -> None:
        self.tool.reset(prompt)
        self._passed = Random(f"clock/{' '.join(prompt)}").randrange(self.every) if self.random else 0

    def close(self) -> None:
        self.tool.close()

    def write(self, token: str) -> tuple[str, ...] | None:
        self._passed += 1
        return self.tool.write(token)

    def view(self) -> View | None:
        return self.tool.view()

    def slips(self, rng: Random) -> list[Slip]:
        return self.tool.slips(rng)
