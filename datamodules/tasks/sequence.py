"""Copy, reverse and sort n symbols: answers as long as the question, which no fixed memory can hold (Theorem 2.1)."""

import random
import re

from length_gen.datamodules.questions import FIRST, LAST, Questions
from length_gen.datamodules.tasks.base import Problem, ToolTask
from length_gen.datamodules.trajectory import Scribe
from length_gen.tools import EDGE, PointerMemory, UserError

SYMBOLS = tuple("abcdefghij")


class SequenceTask(ToolTask):
    """A row of n random symbols, `c a b =`; one pointer. Length: number of symbols."""

    symbols = (*SYMBOLS, "=")

    def memory(self) -> PointerMemory:
        return PointerMemory(1)

    def questions(self, variant: str) -> Questions:
        return (FIRST, SYMBOLS, "more"), ("more", SYMBOLS, "more"), ("more", "=", LAST)

    def sample(self, rng: random.Random, length: int, variant: str = "") -> Problem:
        return Problem((*rng.choices(SYMBOLS, k=length), "="), length)

    def structured(self, rng: random.Random, length: int, variant: str) -> list[Problem]:
        """One symbol alone, in order, in reverse, in turns, and one that differs at an end."""
        first, last, rising = SYMBOLS[0], SYMBOLS[-1], sorted(rng.choices(SYMBOLS, k=length))
        rows = [first * length, last * length, rising, rising[::-1], (first + last) * length, last + first * length,
                first * (length - 1) + last]
        return [Problem((*row[:length], "="), length, variant) for row in rows]

    def longest_problem(self) -> Problem:
        return Problem((*SYMBOLS[:1] * self.max_length, "="), self.max_length)

    def parse(self, text: str) -> Problem:
        letters = re.sub(r"\s|=$", "", text)
        if not letters or not set(letters) <= set(SYMBOLS):
            raise UserError(f"{text!r} is not a problem of {self.name}: expected letters from {SYMBOLS[0]} to "
                            f"{SYMBOLS[-1]}, like cab")
        return Problem((*letters, "="), len(letters))


class Copy(SequenceTask):
    """`c a b =` is answered by `c a b`; 3 tokens a symbol: read, observation, output, and a move."""

    name = "copy"
    phases = ("copy",)

    def solve(self, problem: Problem, scribe: Scribe) -> None:
        scribe.phase("copy")
        pointer = scribe.pointer(1)
        scribe.answer()
        while (symbol := pointer.read()) != "=":
            scribe.output(symbol)
            pointer.right()

    def answer(self, problem: Problem) -> tuple[str, ...]:
        return problem.prompt[:-1]


class Reverse(SequenceTask):
    """`c a b =` is answered by `b a c`: a walk to '=', and back."""

    name = "reverse"
    phases = ("find_equals", "copy")

    def solve(self, problem: Problem, scribe: Scribe) -> None:
        scribe.phase("find_equals")
        pointer = scribe.pointer(1)
        pointer.walk_right("=")
        scribe.phase("copy")
        scribe.answer()
        pointer.left()
        while (symbol := pointer.read()) != EDGE:
            scribe.output(symbol)
            pointer.left()

    def answer(self, problem: Problem) -> tuple[str, ...]:
        return problem.prompt[-2::-1]


class Sort(SequenceTask):
    """`c a b =` is answered by `a b c`: one walk over the question for each symbol of the alphabet, in its order.

    Each walk outputs the symbol whenever it is read. In style `local` the phase says which symbol is wanted; in style
    `paper` nothing near does, so the walk must be remembered.
    """

    name = "sort"
    phases = tuple(f"select_{symbol}" for symbol in SYMBOLS)

    def solve(self, problem: Problem, scribe: Scribe) -> None:
        scribe.phase(self.phases[0])
        scribe.answer()
        for symbol, phase in zip(SYMBOLS, self.phases, strict=True):
            scribe.phase(phase)
            pointer = scribe.pointer(1)
            while (found := pointer.read()) != "=":
                if found == symbol:
                    scribe.output(symbol)
                pointer.right()

    def answer(self, problem: Problem) -> tuple[str, ...]:
        return tuple(sorted(problem.prompt[:-1]))
