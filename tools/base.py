"""The protocol between a model (or an algorithm that plays the model) and a tool."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

PHASE_MARK = "@"
"""Separates a command from the phase that it may carry: `p1.read@find_plus` does what `p1.read` does."""


def bare(token: str) -> str:
    """A command without its phase; any other token as it is, since only commands with a phase have the mark."""
    return token.partition(PHASE_MARK)[0]


Slip = tuple[tuple[str, ...], tuple[str, ...]]
"""The tokens of a wrong command, and of the command that takes it back (none if there is nothing to take back)."""


class InvalidCommand(Exception):
    """A command that the tool cannot carry out as it stands; the message says why. Ends a rollout's row."""


class View(NamedTuple):
    """A tool's memory as people see it: cells side by side, and heads on them.

    cells: the text in each, or its tokens; may be the tool's own list: neither change nor keep it
    heads: name -> number of the cell that it stands on; one without a place is left out
    first: number of the first of `cells`; the others follow
    blank: what a head reads outside of them

    From one token to the next, cells change under a head or at either end alone.
    """

    cells: Sequence[str | Sequence[str]]
    heads: Mapping[str, int]
    first: int = 0
    blank: str = ""


class Tool(ABC):
    """A stateful oracle (paper, appendix A): it reads what the model writes and answers its commands.

    One object serves one problem at a time. The same object answers the algorithm that writes a training trajectory
    and the model in a rollout, so that the two cannot disagree.

    A subclass sets `commands`, or makes them in a property of that name.
    """

    @cached_property
    def commands(self) -> dict[str, Callable[[], tuple[str, ...]]]:
        """Command token -> function that carries it out and returns the observation tokens; made when first used."""
        return {}

    @abstractmethod
    def reset(self, prompt: Sequence[str]) -> None:
        """Start a new problem, whose question is `prompt`."""

    def close(self) -> None:  # noqa: B027 (most hold nothing)
        """Let go of what the tool holds (processes, files); called when a rollout's row has ended."""

    def view(self) -> View | None:
        """The memory as it stands, for people who follow a rollout; None if there is nothing to show.

        A tool that shows one is asked twice: once by the model, and once more, with the same tokens, to be shown.
        """
        return None

    def slips(self, rng: random.Random) -> list[Slip]:
        """Commands that could be given now and taken back, each as its tokens and those that take it back: the mistakes
        of noisy training trajectories. A tool without any has none."""
        return []

    @abstractmethod
    def write(self, token: str) -> tuple[str, ...] | None:
        """Take a token that is in no way special to the tool.

        Returns None if it is a thought or an output, and () if it belongs to a command of several tokens that the
        tokens before have begun.
        """

    def feed(self, token: str) -> tuple[str, ...] | None:
        """Take one token that the model wrote.

        Returns the observation, possibly empty, if the token is a command or part of one (then it is empty until the
        command is complete), and None if it is a thought or an output. A command may carry a phase, which changes
        nothing.

        Raises InvalidCommand if the command cannot be carried out in the tool's present state.
        """
        command = self.commands.get(bare(token))
        if command is None:
            return self.write(token)
        return command()
