"""Trajectories of less than perfect quality: wrong moves that are taken back, and corrupted tokens."""

import random
from dataclasses import dataclass

import numpy as np

from length_gen.datamodules.tokens import PREDICTED
from length_gen.tools import Tool
from length_gen.tools.base import Slip


@dataclass(slots=True)
class Noise:
    """Draws the mistakes of one training trajectory.

    A wrong command has `Kind.MISTAKE`: no loss, so that the model learns to recover and not to err. What takes it back
    is a command like any other. Which commands are wrong and can be taken back the tool says (`Tool.slips`).

    rate: chance of a mistake before each command
    """

    rng: random.Random
    rate: float = 0.05

    def slip(self, tool: Tool, intended: str) -> Slip | None:
        """Tokens of a wrong command other than the intended one, and those that take it back; None: no mistake here."""
        if self.rng.random() >= self.rate:
            return None
        slips = [slip for slip in tool.slips(self.rng) if slip[0][0] != intended or len(slip[0]) > 1]
        return self.rng.choice(slips) if slips else None


def corrupt(tokens: np.ndarray, kinds: np.ndarray, share: float, vocabulary_size: int,
            rng: random.Random) -> np.ndarray:
    """A copy in which a share of the predicted tokens is another, uniformly random token.

    The model is trained to write them, and what follows comes after them: slips that nobody noticed.
    """
    random_state = np.random.default_rng(rng.getrandbits(64))
    hit = np.isin(kinds, list(PREDICTED)) & (random_state.random(len(tokens)) < share)
    others = (tokens + random_state.integers(1, vocabulary_size, len(tokens))) % vocabulary_size
    return np.where(hit, others, tokens)
