"""What a task is: problems of every length, an algorithm that solves them with a tool, and a check of the answer."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datamodules.noise import Noise, NoisyScribe
from datamodules.tokens import ANSWER, END, Kind
from datamodules.trajectory import STYLES, Scribe, Trajectory
from datamodules.vocabulary import Vocabulary
from tools import EDGE, Solver, Tool, Unassisted, UserError
from tools.base import PHASE_MARK
from tools.solver import CALL, RETURN

SETTINGS = ("interactive", "no_tool", "single_turn", "direct", "direct_reversed")
"""`interactive`: as many calls as it takes. The others are what it is compared with (paper, appendix D.7):
`no_tool`: the same trajectory, but the model must write the observations itself; `single_turn`: one call of a solver
with the question, then the answer; `direct`: the answer at once; `direct_reversed`: the same, last token first."""


LONGEST_TRAINED = 10**6
"""No row has room for a trajectory of a longer problem."""

NewScribe = Callable[[Tool, Sequence[str], str], Scribe]


@dataclass(frozen=True, slots=True)
class Problem:
    """A question. `length` is its complexity in the task's own unit (digits of the operands, say).

    source: what the question is about where the prompt does not say it (files, say)
    """

    prompt: tuple[str, ...]
    length: int
    variant: str = ""
    source: Any = None


class Task(ABC):
    """What the suite asks of every task: problems, their reference trajectories, and their answers.

    name:       of the task, in results and checkpoints
    max_length: complexity up to which training problems go
    variants:   kinds of problems that are evaluated apart
    truncated:  whether a trajectory that is longer than a training row is cut
    streamed:   whether `record` tells a scribe token by token, so that a trajectory of any length can be verified
    passes:     whether what counts is that a problem is solved, however, and not that the trajectory is the reference's
    """

    name: str
    max_length: int
    style: str
    setting: str
    phases: Sequence[str]
    variants: Sequence[str] = ("",)
    truncated = False
    streamed = True
    passes = False

    @abstractmethod
    def sample(self, rng: random.Random, length: int, variant: str) -> Problem:
        """A random problem of exactly that length."""

    @abstractmethod
    def sample_training(self, rng: random.Random) -> Problem:
        """A random training problem, of length at most `max_length`."""

    def sample_held_out(self, rng: random.Random, split: str) -> Problem:
        """A random problem of a loss that nothing is learnt from; one like those of training unless they are limited.

        split: `validation` or `test`
        """
        return self.sample_training(rng)

    @abstractmethod
    def parse(self, text: str) -> Problem:
        """The problem that a user typed; raises UserError that says what a problem looks like."""

    @abstractmethod
    def answer(self, problem: Problem) -> tuple[str, ...]:
        """The answer, found without the reference trajectory."""

    @abstractmethod
    def outputs(self, problem: Problem) -> tuple[str, ...]:
        """What a right trajectory outputs: the answer, in the order that the setting wants."""

    @abstractmethod
    def record(self, problem: Problem, noise: Noise | None = None, scribe: NewScribe = Scribe) -> Trajectory:
        """The reference trajectory of a problem; with `noise` one with mistakes in it, for training.

        scribe: makes the scribe from a tool, a prompt and a style
        """

    def longest_problem(self) -> Problem | None:
        """A training problem whose reference trajectory is longer than no other's; None if that is not known."""
        return None

    def references(self, problems: Sequence[Problem]) -> list[Trajectory]:
        """The reference trajectories of several problems."""
        return [self.record(problem) for problem in problems]

    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """All tokens of its problems and trajectories."""

    @abstractmethod
    def check_length(self, length: int) -> None:
        """Raises UserError if no problem has that length."""

    def variants_at(self, length: int) -> Sequence[str]:
        """Those of `variants` that have problems of a length for which `check_length` raises nothing."""
        return self.variants

    @abstractmethod
    def part(self, variant: str) -> tuple["Task", str]:
        """The task of one tool that problems of a variant belong to, and what they are called there."""

    @abstractmethod
    def tool_for(self, problem: Problem) -> Tool:
        """A new tool for a rollout of that problem."""

    def solved(self, problem: Problem, outputs: tuple[str, ...], reason: str, tool: Tool) -> bool:
        """Whether a rollout with these outputs, which ended for `reason` and left `tool`, solved the problem."""
        return reason == "end" and outputs == self.outputs(problem)

    def save(self, folder: str | Path) -> None:  # noqa: B027 (most need nothing)
        """Keep in a run's folder what its configuration does not say."""

    def problem(self, split: str, seed: int, length: int, index: int, variant: str = "") -> Problem:
        """Evaluation problem number `index` of a length: a pure function of the arguments, apart from training.

        split: name of an independent set of problems, `test` or `validation`
        """
        self.part(variant)[0].check_length(length)
        # A string seed goes through SHA-512, so that neighbouring seeds and indices share nothing.
        rng = random.Random(f"{split}/{seed}/{variant}/{length}/{index}")
        return self.sample(rng, length, variant)


class ToolTask(Task):
    """A task that one algorithm solves with one tool; the base to write a task from. A subclass sets `name`, the class
    attributes below, and defines the abstract methods.

    max_length: complexity up to which training problems go
    style:      `paper` or `local`, see `datamodules.trajectory.STYLES`
    setting:    one of `SETTINGS`
    """

    settings = SETTINGS
    """Those of `SETTINGS` that make sense for the task."""
    symbols: tuple[str, ...]
    """Tokens of prompts, thoughts and outputs, without [ANS], [END] and [EDGE]."""
    phases: tuple[str, ...]
    shortest = 1
    """The least possible length."""
    longest = 10**9
    """The greatest possible length."""

    def __init__(self, max_length: int, style: str = "local", setting: str = "interactive") -> None:
        if missing := [key for key in ("name", "symbols", "phases") if not hasattr(self, key)]:
            raise UserError(f"task {type(self).__name__} has no {missing[0]}: set it in the class, see "
                            f"datamodules.tasks.base")
        if style not in STYLES:
            raise UserError(f"unknown style {style!r}: the styles are {', '.join(STYLES)}")
        if setting not in self.settings:
            raise UserError(f"unknown setting {setting!r}: {self.name} has {', '.join(self.settings)}")
        self.check_length(max_length)
        if max_length > LONGEST_TRAINED:
            raise UserError(f"max_length {max_length} is not allowed: training problems go up to {LONGEST_TRAINED:,}")
        self.max_length = max_length
        self.style, self.setting = style, setting
        if setting == "single_turn":
            self.phases = ("call", "answer")
        elif setting not in ("interactive", "no_tool"):
            self.phases = ("answer",)

    @abstractmethod
    def memory(self) -> Tool:
        """A new tool of the interactive setting, for one problem at a time."""

    @abstractmethod
    def commands(self) -> Sequence[str]:
        """All command tokens of that tool, without phases."""

    @abstractmethod
    def solve(self, problem: Problem, scribe: Scribe) -> None:
        """Solve the problem, writing and asking through `scribe`; the end token is written by the caller."""

    def tool(self) -> Tool:
        """A new tool for a rollout in the task's setting."""
        if self.setting == "interactive":
            return self.memory()
        if self.setting == "single_turn":
            return Solver(self._solution)
        return Unassisted(self.memory())

    def _solution(self, question: tuple[str, ...]) -> tuple[str, ...]:
        """The answer to a question that a model has written; ValueError for one that the model could not read."""
        answer = self.answer(Problem(question, 0))
        if not set(answer) <= set(self.symbols):
            raise ValueError("an answer of tokens that are not the task's")
        return answer

    def tool_for(self, problem: Problem) -> Tool:
        return self.tool()

    def vocabulary(self) -> Vocabulary:
        """End token, [ANS], the symbols, and the setting's own (commands in style `local` one for each phase).

        Raises UserError for a symbol that means something else to the tool, and where the mark of phases is taken.
        """
        own = {END, ANSWER, EDGE, CALL, RETURN, *self.commands()}
        for token in (*self.symbols, *self.commands(), *self.phases):
            if PHASE_MARK in token or (token in own and token in self.symbols):
                raise UserError(f"{self.name} cannot have the token {token!r}: commands and {END}, {ANSWER}, {EDGE}, "
                                f"{CALL} and {RETURN} are no symbols, and {PHASE_MARK} is in none, nor in a command or "
                                f"phase; give it another name")
        if self.setting == "single_turn":
            return Vocabulary([END, ANSWER, CALL, RETURN, *self.symbols])
        if self.setting not in ("interactive", "no_tool"):
            return Vocabulary([END, ANSWER, *self.symbols])
        commands = list(self.commands())
        if self.style == "local":
            commands = [command + PHASE_MARK + phase for phase in self.phases for command in commands]
        return Vocabulary([END, ANSWER, EDGE, *self.symbols, *commands])

    def record(self, problem: Problem, noise: Noise | None = None, scribe: NewScribe = Scribe) -> Trajectory:
        """In the interactive setting the trace of `solve` with the real tool. Raises UserError for noise elsewhere."""
        if noise and self.setting != "interactive":
            raise UserError(f"mistakes need setting interactive, not {self.setting}: give --data.mistakes 0")
        if self.setting in ("interactive", "no_tool"):
            tool = self.memory()
            writer = NoisyScribe(tool, problem.prompt, self.style, noise) if noise else \
                scribe(tool, problem.prompt, self.style)
            self.solve(problem, writer)
            trajectory = writer.end()
            if self.setting == "no_tool":  # what the tool would say is the model's to predict
                trajectory.kinds = trajectory.kinds.replace(bytes([Kind.OBSERVATION]), bytes([Kind.COMMAND]))
            return trajectory
        writer = scribe(self.tool(), problem.prompt, "paper")
        if self.setting == "single_turn":
            writer.phase("call")
            writer.command(CALL, *problem.prompt, RETURN)
        writer.phase("answer")
        writer.answer()
        writer.output(*self.outputs(problem))
        return writer.end()

    def outputs(self, problem: Problem) -> tuple[str, ...]:
        answer = self.answer(problem)
        return answer[::-1] if self.setting == "direct_reversed" else answer

    def part(self, variant: str) -> tuple["ToolTask", str]:
        return self, variant

    def check_length(self, length: int) -> None:
        if length < self.shortest:
            raise UserError(f"length {length} is not allowed: {self.name} needs at least {self.shortest}")
        if length > self.longest:
            raise UserError(f"length {length} is not allowed: {self.name} goes up to {self.longest:,}")


def digits(rng: random.Random, length: int, zero: bool = False) -> str:
    """A uniform random number of exactly `length` digits; one-digit numbers include 0 only if `zero`."""
    if length == 1 and zero:
        return rng.choice("0123456789")
    return rng.choice("123456789") + "".join(rng.choices("0123456789", k=length - 1))
