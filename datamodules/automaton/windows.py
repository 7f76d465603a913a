"""The graph of windows: which last K tokens follow which, and what the model must say after each."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from length_gen.datamodules.tokens import PREDICTED
from length_gen.datamodules.trajectory import Trajectory
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.tools import UserError


class Ambiguous(UserError):
    """Two different tokens are to be predicted after the same window of `order` tokens: it is too short, or no length
    is enough."""

    order = 0


@dataclass(frozen=True, slots=True, eq=False)
class Automaton:
    """Nodes are windows of the last K tokens that a model has read; an edge appends a token.

    windows: int32 [N, K], token ids, the newest last, -1 before the first token and for one that is forgotten (never
             the newest). Rows are different and in lexicographic order, so that node 0 is the root: nothing has been
             read
    source:  int64 [E], node that an edge leaves; every window is reached from the root
    target:  int64 [E], node that it enters, in growing order (sources grow within a target). The token of an edge is
             its target's newest, `windows[target, -1]`
    wanted:  int32 [N], the token that the model must predict after a window; -1 where it predicts none: an observation
             or the question goes on, or the trajectory has ended
    """

    windows: np.ndarray
    source: np.ndarray
    target: np.ndarray
    wanted: np.ndarray

    @property
    def order(self) -> int:
        """K, the length of a window."""
        return self.windows.shape[1]

    def digest(self) -> str:
        """SHA-256 of all that it says, in hexadecimal: the same on every machine."""
        digest = hashlib.sha256(f"{self.windows.shape} {self.source.shape}".encode())
        for array, kind in ((self.windows, "<i4"), (self.source, "<i8"), (self.target, "<i8"), (self.wanted, "<i4")):
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        return digest.hexdigest()

    def contains(self, other: "Automaton") -> bool:
        """Whether every window, edge and wanted token of `other`, of the same order, is one of this."""
        place = {row.tobytes(): i for i, row in enumerate(self.windows)}
        try:
            here = np.array([place[row.tobytes()] for row in other.windows])
        except KeyError:
            return False
        edges = set(zip(self.source.tolist(), self.target.tolist(), strict=True))
        asked = other.wanted >= 0
        return (set(zip(here[other.source].tolist(), here[other.target].tolist(), strict=True)) <= edges
                and bool((self.wanted[here[asked]] == other.wanted[asked]).all()))


def of_steps(windows: np.ndarray, after: np.ndarray, predicted: np.ndarray, vocabulary: Vocabulary) -> Automaton:
    """The graph that has at least these edges, given in any order and as often as one likes.

    windows:   int [M, K], what the last K tokens were, -1 before the first and for one that is forgotten
    after:     int [M, K], the window then, the newest token of which came next
    predicted: bool [M], whether the model had to predict it

    Raises Ambiguous if different tokens were to be predicted after one window.
    """
    count, order = windows.shape
    base, tokens = len(vocabulary) + 1, after[:, -1]
    rows = np.concatenate([windows, after]) + 1
    # Numbers of windows of 1, 2, ... tokens, each from the one before: in lexicographic order, and exact.
    number = np.zeros(2 * count, dtype=np.int64)
    for column in rows.T:
        _, first, number = np.unique(number * base + column, return_index=True, return_inverse=True)
    before, following = number[:count], number[count:]
    wanted = np.full(len(first), -1, dtype=np.int32)
    wanted[before[predicted]] = tokens[predicted]
    if (clash := np.flatnonzero(predicted & (wanted[before] != tokens))).size:
        row = windows[clash[0]]
        said = " ".join(vocabulary.decode(row[row >= 0]))
        both = " and ".join(repr(token) for token in vocabulary.decode([tokens[clash[0]], wanted[before[clash[0]]]]))
        error = Ambiguous(f"the last {order} tokens do not determine the next: after {said!r} come {both}")
        error.order = order
        raise error
    edges = np.unique(following * np.int64(len(first)) + before)
    return Automaton((rows[first] - 1).astype(np.int32), edges % len(first), edges // len(first), wanted)


def of_trajectories(trajectories: Iterable[Trajectory], vocabulary: Vocabulary, order: int) -> Automaton:
    """The windows of these trajectories alone: a proof only if there are no others, else what a proof must contain."""
    return of_steps(*steps_of(trajectories, vocabulary, order), vocabulary)


def steps_of(trajectories: Iterable[Trajectory], vocabulary: Vocabulary, order: int) -> tuple[np.ndarray, ...]:
    """The windows of trajectories, those a token later, and whether it is predicted, as `of_steps` takes them."""
    found: list[np.ndarray] = []
    for trajectory in trajectories:
        ids = vocabulary.encode(trajectory.tokens)
        padded = np.concatenate([np.full(order, -1), ids]).astype(np.int32)
        predicted = np.isin(np.frombuffer(trajectory.kinds, dtype=np.uint8), list(PREDICTED))
        rows = np.column_stack([np.lib.stride_tricks.sliding_window_view(padded, order + 1), predicted])
        found.append(np.unique(rows, axis=0) if len(rows) > 10_000 else rows)
    rows = np.concatenate(found)
    return rows[:, :order], rows[:, 1 : order + 1], rows[:, order + 1].astype(bool)
