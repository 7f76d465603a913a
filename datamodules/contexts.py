"""The contexts of decisions, what stands before each predicted token, in order: what shares most stands together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from length_gen.datamodules.tokens import PREDICTED


@dataclass(frozen=True, slots=True)
class Contexts:
    """All predicted tokens of some trajectories but a trajectory's first, in the order of what stands before them, the
    newest token first. A context ends at the start of its trajectory, which is seen as such.

    places:    int64 [P], where each is among the tokens of all trajectories, one after the other
    following: int64 [P], the token that is predicted there
    shared:    int64 [P - 1], how many tokens each has in common with the next one, the start counting as one; with one
               further away the least of those between
    """

    places: np.ndarray
    following: np.ndarray
    shared: np.ndarray


def contexts(rows: Sequence[np.ndarray], kinds: Sequence[bytes]) -> Contexts:
    """Of trajectories: the tokens of each as numbers from 0 on, and their kinds.

    Contexts of 1, 2, 4, ... tokens get numbers by pairing those of half the length, exactly (no hashing), in their
    order: O(N log N log L) for N tokens in trajectories of at most L.
    """
    tokens = np.concatenate(rows).astype(np.int64) + 1
    position = np.concatenate([np.arange(len(row)) for row in rows])
    predicted = np.isin(np.concatenate([np.frombuffer(kind, dtype=np.uint8) for kind in kinds]), list(PREDICTED))
    places = np.flatnonzero(predicted & (position > 0))
    doubled = [tokens]
    while (size := 2 ** (len(doubled) - 1)) <= max(map(len, rows)):
        doubled.append(_pair(doubled[-1], _back(doubled[-1], position, np.arange(len(tokens)), size)))
    # What stands before a place ends at the place before it.
    places = places[np.argsort(doubled[-1][places - 1], kind="stable")]
    a, b = places[:-1] - 1, places[1:] - 1
    shared = np.zeros(len(a), dtype=np.int64)
    for exponent in reversed(range(len(doubled))):
        same = _back(doubled[exponent], position, a, shared) == _back(doubled[exponent], position, b, shared)
        shared += same * 2**exponent
    return Contexts(places, tokens[places] - 1, np.minimum(shared, position[a] + 2))


def _back(numbers: np.ndarray, position: np.ndarray, at: np.ndarray, steps: np.ndarray | int) -> np.ndarray:
    """Numbers of the contexts that end `steps` before the places `at`; 0 beyond the start of a trajectory."""
    return np.where(steps <= position[at], numbers[np.maximum(at - steps, 0)], 0)


def _pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equal numbers for equal pairs, from 1 on, in the pairs' order."""
    return np.unique(a * (int(b.max()) + 1) + b, return_inverse=True)[1].astype(np.int64) + 1


def nearest(shared: np.ndarray, marked: np.ndarray) -> np.ndarray:
    """Of each in a row, how much it shares with the marked ones before it, that is with the last; -1 where there is
    none.

    shared: int64 [P - 1], of each and the next; marked: bool [P]
    """
    run = np.cumsum(marked)[:-1]  # of each link, how many marked ones are at its left
    lift = (run[-1:] - run) * (int(shared.max(initial=0)) + 1)  # each run's are all below those of the runs before it
    least = np.minimum.accumulate(shared + lift) - lift
    return np.concatenate([[-1], np.where(run > 0, least, -1)])[: len(marked)]
