"""What a task is: problems of every length, an algorithm that solves them with a tool, and a check of the answer."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from datamodules.tokens import ANSWER, END
from datamodules.trajectory import STYLES, Scribe, Trajectory
from datamodules.vocabulary import Vocabulary
from tools import EDGE, Tool, UserError
from tools.base import PHASE_MARK


@dataclass(frozen=True, slots=True)
class Problem:
    """A question. `length` is its complexity in the task's own unit (digits of the operands, say)."""

    prompt: tuple[str, ...]
    length: int
    variant: str = ""


class Task(ABC):
    """Base of all tasks. A subclass sets the class attributes and defines the abstract methods.

    max_length: complexity up to which training problems go
    style:      `paper` or `local`, see `datamodules.trajectory.STYLES`
    """

    name: str
    setting = "interactive"
    symbols: tuple[str, ...]
    """Tokens of prompts, thoughts and outputs, without [ANS], [END] and [EDGE]."""
    phases: tuple[str, ...]
    variants: tuple[str, ...] = ("",)
    """Kinds of problems that are evaluated apart."""
    shortest = 1
    """The least possible length."""
    longest: int | None = None
    """The greatest possible length, if there is one."""

    def __init__(self, max_length: int, style: str = "local") -> None:
        if style not in STYLES:
            raise UserError(f"unknown style {style!r}: the styles are {', '.join(STYLES)}")
        self.check_length(max_length)
        self.max_length = max_length
        self.style = style

    @abstractmethod
    def tool(self) -> Tool:
        """A new tool for one problem at a time."""

    @abstractmethod
    def commands(self) -> Sequence[str]:
        """All command tokens of the tool, without phases."""

    @abstractmethod
    def sample(self, rng: random.Random, length: int, variant: str) -> Problem:
        """A random problem of exactly that length."""

    @abstractmethod
    def sample_training(self, rng: random.Random) -> Problem:
        """A random training problem, of length at most `max_length`."""

    @abstractmethod
    def solve(self, problem: Problem, scribe: Scribe) -> None:
        """Solve the problem, writing and asking through `scribe`; the end token is written by the caller."""

    @abstractmethod
    def answer(self, problem: Problem) -> tuple[str, ...]:
        """The right outputs, found without `solve`."""

    @abstractmethod
    def parse(self, text: str) -> Problem:
        """The problem that a user typed; raises UserError that says what a problem looks like."""

    def vocabulary(self) -> Vocabulary:
        """End token, [ANS], [EDGE], the symbols, and the commands (in style `local` one for each phase)."""
        commands = list(self.commands())
        if self.style == "local":
            commands = [command + PHASE_MARK + phase for phase in self.phases for command in commands]
        return Vocabulary([END, ANSWER, EDGE, *self.symbols, *commands])

    def record(self, problem: Problem) -> Trajectory:
        """The reference trajectory of a problem: the trace of `solve` against the real tool."""
        scribe = Scribe(self.tool(), problem.prompt, self.style)
        self.solve(problem, scribe)
        return scribe.end()

    def problem(self, split: str, seed: int, length: int, index: int, variant: str = "") -> Problem:
        """Evaluation problem number `index` of a length: a pure function of the arguments, apart from training.

        split: name of an independent set of problems, `test` or `validation`
        """
        self.check_length(length)
        # A string seed goes through SHA-512, so that neighbouring seeds and indices share nothing.
        rng = random.Random(f"{split}/{seed}/{variant}/{length}/{index}")
        return self.sample(rng, length, variant)

    def check_length(self, length: int) -> None:
        """Raises UserError if no problem has that length."""
        if length < self.shortest:
            raise UserError(f"length {length} is not allowed: {self.name} needs at least {self.shortest}")
        if self.longest is not None and length > self.longest:
            raise UserError(f"length {length} is not allowed: {self.name} goes up to {self.longest}")


def digits(rng: random.Random, length: int, zero: bool = False) -> str:
    """A uniform random number of exactly `length` digits; one-digit numbers include 0 only if `zero`."""
    if length == 1 and zero:
        return rng.choice("0123456789")
    return rng.choice("123456789") + "".join(rng.choices("0123456789", k=length - 1))
