"""Tasks as environments of Gymnasium: an action is a token, the tool answers commands, the reward is for the answer."""

import random
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from length_gen.datamodules.rollout import Rollout, budget
from length_gen.datamodules.tasks import Problem, ToolTask
from length_gen.datamodules.tokens import Kind
from length_gen.tools import UserError

REWARDS = ("answer", "exact")
ID = "length_gen/Task-v0"


class TaskEnvironment(gymnasium.Env):
    """One problem an episode: an action is a token, an observation what is said to it: a row of tokens, often none.

    The first observation is the question. A token that is a command is answered by the tool; after all others, and
    commands that only move, nothing is said. What the tool holds beyond that is not shown. The episode ends with [END],
    with a command that is not possible, or, truncated, after a quarter more tokens than the reference, and 32. Then the
    reward is 1 or 0, before it is 0, and `info` has `reason`, `answer` (is it right) and `exact` (is it the reference).

    Tokens are ids of `vocabulary`. `info["tokens"]` has an observation's tokens as text.

    Args:
        task: the task, in its style and setting
        length: of the problems; null: any that the task trains on
        variant: of the problems of a length; null: the task's first
        reward: for the right `answer`, or for the trajectory of the reference (`exact`)

    Raises UserError for a length, variant or reward that there is not.
    """

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 (Gymnasium's own)

    def __init__(self, task: ToolTask, length: int | None = None, variant: str | None = None, reward: str = "answer",
                 render_mode: str | None = None) -> None:
        if reward not in REWARDS:
            raise UserError(f"unknown reward {reward!r}: expected {' or '.join(REWARDS)}")
        self.task, self.reward, self.render_mode = task, reward, render_mode
        self.vocabulary = task.vocabulary()
        self._length, self._variant = length, task.variants[0] if variant is None else variant
        if self._variant not in task.variants:
            raise UserError(f"{task.name} has no variant {variant!r}: expected {', '.join(map(repr, task.variants))}")
        if length is not None:
            task.check_length(length)
        self.action_space = spaces.Discrete(len(self.vocabulary))
        self.observation_space = spaces.Sequence(spaces.Discrete(len(self.vocabulary)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[tuple, dict[str, Any]]:
        """Begin a problem; returns the question.

        options: `length`, in place of the environment's, or `problem`, as a person would write it
        """
        super().reset(seed=seed)
        options = options or {}
        self._problem = self._drawn(options)
        self._reference = self.task.record(self._problem)
        self._row = Rollout(self._problem, budget(self._reference), self.task.tool(self._problem),
                            self.task.shown(self._problem))
        return self._said(self._row.read())

    def _drawn(self, options: dict[str, Any]) -> Problem:
        if "problem" in options:
            return self.task.parse(options["problem"])
        rng = random.Random(int(self.np_random.integers(2**62)))
        length = options.get("length", self._length)
        if length is None:
            return self.task.sample_training(rng)
        self.task.check_length(length)
        return self.task.sample(rng, length, self._variant)

    def step(self, action: int) -> tuple[tuple, float, bool, bool, dict[str, Any]]:
        """Write a token; returns the tool's observation, the reward, whether it is over, and how."""
        row = self._row
        observation, info = self._said(row.write(self.vocabulary.tokens[action]))
        if not row.reason:
            return observation, 0.0, False, False, info
        info |= {"reason": row.reason, "exact": row.tokens == self._reference.tokens,
                 "answer": self.task.solved(row.problem, row.outputs(), row.reason, row.tool)}
        return observation, float(info[self.reward]), row.reason != "budget", row.reason == "budget", info

    def _said(self, tokens: Sequence[str]) -> tuple[tuple, dict[str, Any]]:
        return tuple(np.int64(i) for i in self.vocabulary.encode(tokens)), {"tokens": list(tokens)}

    def render(self) -> str | None:
        """What was said so far, tokens with blanks between."""
        return " ".join(self._row.tokens) if self.render_mode == "ansi" else None

    def close(self) -> None:
        """Let go of what the tool holds."""
        if hasattr(self, "_row"):
            self._row.tool.close()


def scripted(task: ToolTask, question: Sequence[str]) -> Iterator[str]:
    """The tokens that a task's algorithm writes for a question: an agent that solves every problem.

    It has a tool of its own, and so needs no observation; but it has to be shown the question.
    """
    reference = task.record(Problem(tuple(question), 0))
    for token, kind in zip(reference.tokens, reference.kinds, strict=True):
        if kind not in (Kind.PROMPT, Kind.OBSERVATION):
            yield token


gymnasium.register(ID, "length_gen.datamodules.environment:TaskEnvironment")
