"""What a task is: problems of every length, an algorithm that solves them with a tool, and a check of the answer."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from length_gen.datamodules.noise import Noise
from length_gen.datamodules.questions import FIRST, LAST, Questions
from length_gen.datamodules.settings import SETTINGS, Setting
from length_gen.datamodules.tokens import ANSWER, END
from length_gen.datamodules.trajectory import STYLES, Scribe, Sink, Trajectory, beacons
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.tools import EDGE, TICK, Clock, Tool, UserError
from length_gen.tools.base import PHASE_MARK
from length_gen.tools.solver import CALL, RETURN

LONGEST_TRAINED = 10**6
"""No row has room for a trajectory of a longer problem."""



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
    shortest:   the least length of a problem, and `longest` the greatest
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
    shortest = 1
    longest = 10**9
    variants: Sequence[str] = ("",)
    truncated = False
    streamed = True
    passes = False

    @abstractmethod
    def sample(self, rng: random.Random, length: int, variant: str) -> Problem:
        """A random problem of exactly that length."""

    def sample_training(self, rng: random.Random) -> Problem:
        """A random training problem: any length up to `max_length`, of the first variant."""
        return self.sample(rng, rng.randint(self.shortest, self.max_length), self.variants[0])

    def structured(self, rng: random.Random, length: int, variant: str) -> Sequence[Problem]:
        """Problems of exactly that length that look for trouble, the likeliest first: what a random one hardly ever is,
        such as a carry through all digits. None where the task knows of none.
        """
        return ()

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
    def record(self, problem: Problem, noise: Noise | None = None, sink: Sink | None = None) -> Trajectory:
        """The reference trajectory of a problem; with `noise` one with mistakes in it, for training.

        sink: takes it part by part; then nothing is left of it in what is returned
        """

    @abstractmethod
    def tool(self, problem: Problem) -> Tool:
        """A new tool for a rollout of that problem."""

    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """All tokens of its problems and trajectories."""

    def shown(self, problem: Problem) -> tuple[str, ...]:
        """What the model reads of the question, with which its trajectory begins; the tool always has all of it."""
        return problem.prompt

    def outputs(self, problem: Problem) -> tuple[str, ...]:
        """What a right trajectory outputs: the answer, in the order that the setting wants."""
        return self.answer(problem)

    def solved(self, problem: Problem, outputs: tuple[str, ...], reason: str, tool: Tool) -> bool:
        """Whether a rollout with these outputs, which ended for `reason` and left `tool`, solved the problem."""
        return reason == "end" and outputs == self.outputs(problem)

    def references(self, problems: Sequence[Problem]) -> list[Trajectory]:
        """The reference trajectories of several problems."""
        return [self.record(problem) for problem in problems]

    def longest_problem(self) -> Problem:
        """A training problem whose reference trajectory is longer than no other's, or nearly: the longest of a few."""
        few = [self.problem("validation", 0, self.max_length, index, variant)
               for variant in self.variants_at(self.max_length) for index in range(8)]
        return max(few, key=lambda problem: len(self.record(problem).tokens))

    def part(self, variant: str) -> tuple["Task", str]:
        """The task that problems of a variant belong to, and what they are called there: itself, unless it is many."""
        return self, variant

    def check_length(self, length: int) -> None:
        """Raises UserError if no problem has that length."""
        if length < self.shortest:
            raise UserError(f"length {length} is not allowed: {self.name} needs at least {self.shortest}")
        if length > self.longest:
            raise UserError(f"length {length} is not allowed: {self.name} goes up to {self.longest:,}")

    def variants_at(self, length: int) -> list[str]:
        """Those of `variants` that have problems of a length for which `check_length` raises nothing."""
        return [variant for variant in self.variants if not refusal(self.part(variant)[0], length)]

    def problem(self, split: str, seed: int, length: int, index: int, variant: str = "") -> Problem:
        """Evaluation problem number `index` of a length: a pure function of the arguments, apart from training.

        split: name of an independent set of problems, `test` or `validation`
        """
        self.part(variant)[0].check_length(length)
        # A string seed goes through SHA-512, so that neighbouring seeds and indices share nothing.
        rng = random.Random(f"{split}/{seed}/{variant}/{length}/{index}")
        return self.sample(rng, length, variant)

    def structured_problems(self, split: str, seed: int, length: int, variant: str = "") -> list[Problem]:
        """All that `structured` gives for a length, each once; a pure function of the arguments."""
        self.part(variant)[0].check_length(length)
        found = self.structured(random.Random(f"{split}/structured/{seed}/{variant}/{length}"), length, variant)
        return list({problem.prompt: problem for problem in found}.values())

    def save(self, folder: str | Path) -> None:  # noqa: B027 (most need nothing)
        """Keep in a run's folder what its configuration does not say."""


def refusal(task: Task, length: int) -> str:
    """Why a task has no problems of a length; "" if it has."""
    try:
        task.check_length(length)
    except UserError as error:
        return str(error)
    return ""


class ToolTask(Task):
    """A task that one algorithm solves with one tool; the base to write a task from. A subclass sets `name`, the class
    attributes below, and defines the abstract methods.

    max_length: complexity up to which training problems go
    style:      `paper`, `local`, `beacons_K` or `beacons_K_random`, see `datamodules.trajectory.STYLES`
    setting:    one of `datamodules.settings.SETTINGS`, or your own
    """

    symbols: tuple[str, ...]
    """Tokens of prompts, thoughts and outputs, without [ANS], [END] and [EDGE]."""
    names: tuple[str, ...] = ()
    """Symbols that the algorithm only copies, as the names of disks: it does the same whatever they are."""
    phases: tuple[str, ...]

    def __init__(self, max_length: int, style: str = "local", setting: Setting | str = "interactive") -> None:
        if missing := [key for key in ("name", "symbols", "phases") if not hasattr(self, key)]:
            raise UserError(f"task {type(self).__name__} has no {missing[0]}: set it in the class, see "
                            f"length_gen.datamodules.tasks.base")
        if style not in STYLES and not beacons(style):
            raise UserError(f"unknown style {style!r}: the styles are {', '.join(STYLES)}, and beacons_K or "
                            f"beacons_K_random with a number K from 1 on")
        if isinstance(setting, str) and setting not in SETTINGS:
            raise UserError(f"unknown setting {setting!r}: {self.name} has {', '.join(SETTINGS)}, and your own by "
                            f"its import path")
        self.check_length(max_length)
        if max_length > LONGEST_TRAINED:
            raise UserError(f"max_length {max_length} is not allowed: training problems go up to {LONGEST_TRAINED:,}")
        self.max_length, self.style, self._phases = max_length, style, self.phases
        self._ask(SETTINGS[setting] if isinstance(setting, str) else setting)

    def _ask(self, setting: Setting) -> None:
        self._setting, self.setting = setting, setting.name
        self.phases = self._phases if setting.phases is None else setting.phases

    def in_setting(self, setting: str) -> "ToolTask":
        """The same task, asked in another setting."""
        task = copy(self)
        task._ask(SETTINGS[setting])
        return task

    def questions(self, variant: str) -> Questions:
        """All prompts of a variant, of every length, and of training; or more: any row of symbols, unless a task says
        less. What is proved of the task holds for these."""
        return ((FIRST, self.symbols, FIRST), (FIRST, self.symbols, LAST))

    @abstractmethod
    def memory(self) -> Tool:
        """A new tool of the interactive setting, for one problem at a time."""

    @abstractmethod
    def solve(self, problem: Problem, scribe: Scribe) -> None:
        """Solve the problem, writing and asking through `scribe`; the end token is written by the caller."""

    def asked(self, problem: Problem) -> tuple[str, ...]:
        """The end of the question that says what is asked: all that a model reads of it in setting `question_in_tool`.

        The last token, such as `=`. A task whose `solve` takes more from the question itself, and not by the tool, as a
        logical graph the node that is asked for, gives all that it takes. At least one token.
        """
        return problem.prompt[-1:]

    @property
    def mark(self) -> str:
        """What stands between a command and its phase; nothing where trajectories are the same in every style."""
        return STYLES.get(self.style, PHASE_MARK) if self._setting.phases is None else ""

    @property
    def ticked(self) -> bool:
        """Whether only a command after a tick of the tool's clock carries its phase: style `beacons_K`."""
        return bool(beacons(self.style)) and self._setting.phases is None

    def clocked(self) -> Tool:
        """A new tool of the interactive setting, with a clock where the style has one."""
        return Clock(self.memory(), *beacons(self.style)) if self.ticked else self.memory()

    def record(self, problem: Problem, noise: Noise | None = None, sink: Sink | None = None) -> Trajectory:
        """What the setting makes of it. Raises UserError for noise where there can be none."""
        if noise and not self._setting.mistakes:
            raise UserError(f"mistakes need setting interactive, not {self.setting}: give --data.mistakes 0")
        scribe = Scribe(self.tool(), problem.prompt, self.mark, noise, sink, self.shown(problem), self.ticked)
        self._setting.solve(self, problem, scribe)
        return scribe.end()

    def tool(self, problem: Problem | None = None) -> Tool:
        return self._setting.tool(self)

    def shown(self, problem: Problem) -> tuple[str, ...]:
        return self._setting.shown(self, problem)

    def outputs(self, problem: Problem) -> tuple[str, ...]:
        return self._setting.outputs(self.answer(problem))

    def solution(self, question: tuple[str, ...]) -> tuple[str, ...]:
        """The answer to a question that a model has written; ValueError for one that the model could not read."""
        answer = self.answer(Problem(question, 0))
        if not set(answer) <= set(self.symbols):
            raise ValueError("an answer of tokens that are not the task's")
        return answer

    def vocabulary(self) -> Vocabulary:
        """End token, [ANS], and what the setting needs beside.

        Raises UserError for a symbol that means something else to the tool, and where the mark of phases is taken.
        """
        commands = self.memory().commands
        own = {END, ANSWER, EDGE, TICK, CALL, RETURN, *commands}
        for token in (*self.symbols, *commands, *self.phases):
            if PHASE_MARK in token or (token in own and token in self.symbols):
                raise UserError(f"{self.name} cannot have the token {token!r}: commands and {END}, {ANSWER}, {EDGE}, "
                                f"{TICK}, {CALL} and {RETURN} are no symbols, and {PHASE_MARK} is in none, nor in a "
                                f"command or phase; give it another name")
        return Vocabulary([END, ANSWER, *self._setting.tokens(self)])


def digits(rng: random.Random, length: int, zero: bool = False) -> str:
    """A uniform random number of exactly `length` digits; one-digit numbers include 0 only if `zero`."""
    if length == 1 and zero:
        return rng.choice("0123456789")
    return rng.choice("123456789") + "".join(rng.choices("0123456789", k=length - 1))
