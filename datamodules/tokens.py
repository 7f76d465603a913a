"""Token kinds: who wrote a token, and whether the model is trained to predict it."""

from enum import IntEnum

ANSWER = "[ANS]"
"""Thought after which everything the model writes is output (paper, appendix D.1), until another one, if any."""

END = "[END]"
"""Last token of every trajectory; a rollout stops when the model emits it."""


class Kind(IntEnum):
    """Kind of one token of a trajectory (paper, appendix A: thoughts, commands, observations, outputs).

    A mistake is a command that a training trajectory regrets; see `datamodules.noise`.
    """

    PADDING = 0
    PROMPT = 1
    THOUGHT = 2
    COMMAND = 3
    OBSERVATION = 4
    OUTPUT = 5
    END = 6
    MISTAKE = 7


PREDICTED = frozenset({Kind.THOUGHT, Kind.COMMAND, Kind.OUTPUT, Kind.END})
"""Kinds that the loss covers and that a rollout takes from the model; all others are given to it."""


def turns(kinds: bytearray) -> int:
    """Number of commands, of one token or more, that were answered by an observation."""
    return kinds.count(bytes([Kind.COMMAND, Kind.OBSERVATION]))
