"""Trajectories of less than perfect quality: wrong moves that are taken back, and corrupted tokens."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from datamodules.tokens import PREDICTED, Kind
from datamodules.trajectory import Pointer, Scribe
from tools import Tool
from tools.base import bare


@dataclass(slots=True)
class Noise:
    """Where mistakes come from.

    rate: chance of a mistake before each command
    """

    rng: random.Random
    rate: float = 0.05


class NoisyScribe(Scribe):
    """Gives a wrong command now and then, and takes it back before it goes on.

    The wrong command has `Kind.MISTAKE`: no loss, so that the model learns to recover and not to err. What takes it
    back is a command like any other. Which commands are wrong and can be taken back the tool says (`Tool.slips`).
    """

    def __init__(self, tool: Tool, prompt: Sequence[str], suffix: Callable[[str], str], noise: Noise) -> None:
        super().__init__(tool, prompt, suffix)
        self._noise = noise

    def command(self, *tokens: str) -> tuple[str, ...]:
        self.slip(tokens[0])
        return super().command(*tokens)

    def _handle(self, number: int) -> Pointer:
        return NoisyPointer(self, self._tool, self._tokens, self._kinds, number)

    def slip(self, intended: str) -> None:
        """Perhaps a mistake, with what takes it back, before the command that begins with `intended`."""
        rng = self._noise.rng
        if rng.random() >= self._noise.rate:
            return
        slips = [slip for slip in self._tool.slips(rng) if slip[0][0] != bare(intended) or len(slip[0]) > 1]
        if not slips:
            return
        wrong, back = rng.choice(slips)
        start = len(self._kinds)
        super().command(*wrong)
        self._kinds[start : start + len(wrong)] = bytes([Kind.MISTAKE]) * len(wrong)
        if back:
            super().command(*back)


class NoisyPointer(Pointer):
    """A pointer of a noisy scribe."""

    __slots__ = ("_scribe",)

    def __init__(self, scribe: NoisyScribe, *arguments) -> None:
        super().__init__(*arguments)
        self._scribe = scribe

    def left(self) -> None:
        self._scribe.slip(self.left_token)
        super().left()

    def right(self) -> None:
        self._scribe.slip(self.right_token)
        super().right()

    def read(self) -> str:
        self._scribe.slip(self.read_token)
        return super().read()

    def ahead(self, step: int, most: int) -> list[str]:
        return []  # nothing is done at once, since a mistake may come before any command

    def walk_right(self, symbol: str) -> None:
        while self.read() != symbol:
            self.right()


def corrupt(tokens: np.ndarray, kinds: np.ndarray, share: float, vocabulary_size: int,
            rng: random.Random) -> np.ndarray:
    """A copy in which a share of the predicted tokens is another, uniformly random token.

    The model is trained to write them, and what follows comes after them: slips that nobody noticed.
    """
    random_state = np.random.default_rng(rng.getrandbits(64))
    hit = np.isin(kinds, list(PREDICTED)) & (random_state.random(len(tokens)) < share)
    others = (tokens + random_state.integers(1, vocabulary_size, len(tokens))) % vocabulary_size
    return np.where(hit, others, tokens)
