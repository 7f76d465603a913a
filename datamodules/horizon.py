"""The horizon of trajectories: how far back one must look to know every token that the model has to predict.

It needs no training, and it bounds what training can give: where the horizon grows with the length of the problem, a
decision depends on ever older tokens; where it is bounded, a fixed window is enough at any length.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from length_gen.datamodules.contexts import contexts
from length_gen.datamodules.tokens import Kind
from length_gen.datamodules.trajectory import Trajectory
from length_gen.datamodules.vocabulary import Vocabulary


@dataclass(frozen=True, slots=True)
class Clash:
    """Two places with the same last `horizon - 1` tokens before them and different tokens to predict.

    contexts:  the tokens before each, one more than they share (fewer at the start of a trajectory)
    following: the token to predict at each
    phases:    phase of each
    """

    contexts: tuple[tuple[str, ...], tuple[str, ...]]
    following: tuple[str, str]
    phases: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Horizon:
    """horizon: the least k for which the k tokens before every predicted token determine it (0 conflicts)

    clash:  an example at k - 1; None if k is 0
    phases: number of predicted tokens that are not determined at k - 1, by phase
    needs:  by phase, the number of predicted tokens and the largest number of tokens that one of them takes
    """

    horizon: int
    clash: Clash | None
    phases: dict[str, int]
    needs: dict[str, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Needs:
    """How far back each decision must look; arrays [P] of all predicted tokens but a trajectory's first.

    places:   among the tokens of all trajectories, one after the other
    needs:    the least number of tokens before it that determine it; 0 where all decisions are the same
    partners: the place of a decision that is another, after the same tokens but for one; -1 where the need is 0
    """

    places: np.ndarray
    needs: np.ndarray
    partners: np.ndarray


def needs(trajectories: Sequence[Trajectory], vocabulary: Vocabulary) -> Needs:
    """What each decision of a set of trajectories needs, held against all of them. A context ends at the start of its
    trajectory, which is seen as such.

    Among all contexts in their order the one that shares most with a decision's, of those that another token follows,
    is the nearest before or after it.
    """
    found = contexts([vocabulary.encode(t.tokens) for t in trajectories], [t.kinds for t in trajectories])
    if not len(found.places):
        return Needs(found.places, found.places, found.places)
    before, left = _other(found.shared, found.following)
    after, right = _other(found.shared[::-1], found.following[::-1])
    after, right = after[::-1], np.where(right < 0, -1, len(before) - 1 - right)[::-1]
    partner = np.where(before >= after, left, right)
    order = np.argsort(found.places)
    return Needs(found.places[order], np.maximum(before, after)[order] + 1,
                 np.where(partner < 0, -1, found.places[partner])[order])


def horizon(trajectories: Sequence[Trajectory], vocabulary: Vocabulary, own: Sequence[bool] | None = None) -> Horizon:
    """Horizon of a set of trajectories: the largest of its decisions' `needs`.

    own: which trajectories' predicted tokens are asked for, held against the contexts of all; None: all
    """
    every = needs(trajectories, vocabulary)
    starts = np.concatenate([[0], np.cumsum([len(t.tokens) for t in trajectories])])
    owners = np.searchsorted(starts, every.places, side="right") - 1
    asked = np.ones(len(owners), bool) if own is None else np.asarray(own)[owners]
    places, need, partners = (part[asked] for part in (every.places, every.needs, every.partners))

    def phase(place: int) -> str:
        owner = int(np.searchsorted(starts, place, side="right")) - 1
        return trajectories[owner].phase_at(place - int(starts[owner]))

    by_phase: dict[str, tuple[int, int]] = {}
    for name, numbers in _by_phase(trajectories, starts, places, need).items():
        by_phase[name] = len(numbers), int(numbers.max())
    reached = int(need.max(initial=0))
    if not reached:
        return Horizon(0, None, {}, by_phase)
    worst = places[need == reached]
    pair = int(worst[0]), int(partners[need == reached][0])
    contexts, following = [], []
    for place in pair:
        owner = int(np.searchsorted(starts, place, side="right")) - 1
        said, at = trajectories[owner].tokens, place - int(starts[owner])
        contexts.append(tuple(said[max(0, at - reached) : at]))
        following.append(said[at])
    clash = Clash((contexts[0], contexts[1]), (following[0], following[1]), (phase(pair[0]), phase(pair[1])))
    return Horizon(reached, clash, dict(Counter(phase(int(place)) for place in worst).most_common()), by_phase)


def _by_phase(trajectories: Sequence[Trajectory], starts: np.ndarray, places: np.ndarray,
              need: np.ndarray) -> dict[str, np.ndarray]:
    """The needs of the decisions at growing places, by phase."""
    found: dict[str, list[np.ndarray]] = {}
    for trajectory, start, end in zip(trajectories, starts, starts[1:], strict=False):
        marks = [int(start) + position for position, _ in trajectory.phases]
        cuts = np.searchsorted(places, [int(start), *marks, int(end)])
        for name, low, high in zip(("", *(name for _, name in trajectory.phases)), cuts, cuts[1:], strict=False):
            if high > low:
                found.setdefault(name, []).append(need[low:high])
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _other(shared: np.ndarray, following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each decision in a row of them the last one before it that is another: how much the two share, and its place
    in the row; -1 where there is none.

    shared: int64 [P - 1], of each and the next, which is less the further apart they are
    """
    change = following[1:] != following[:-1]
    run = np.concatenate([[0], np.cumsum(change)])
    high = int(shared.max(initial=0)) + 1
    lift = (run[-1] - run[1:]) * high  # each run's are all below those of the runs before it
    least = np.minimum.accumulate(shared + lift) - lift
    first = np.concatenate([[0], np.flatnonzero(change) + 1])  # of each run
    none = run == 0
    return (np.where(none, -1, np.concatenate([[-1], least])), np.where(none, -1, first[run] - 1))


def kind_shares(trajectories: Sequence[Trajectory]) -> dict[str, float]:
    """Share of each kind among all tokens."""
    counts = Counter()
    for trajectory in trajectories:
        counts.update(trajectory.kinds)
    total = sum(counts.values())
    return {Kind(kind).name.lower(): counts[kind] / total for kind in sorted(counts)}


def verdict(lengths: Sequence[int], horizons: Sequence[int]) -> str:
    """`bounded` if the horizon is the same at the last three lengths, else how it grows over them.

    `nearly bounded`: slower than any power of n that three lengths could tell. So grows a decision whose cue is random,
    with a longest gap like log n; and so looks a bound that only rare problems reach.
    """
    far = list(zip(lengths, horizons, strict=True))[-3:]
    if len(far) < 3:
        return "not known: give at least three lengths"
    (n, h), (end, last) = far[0], far[-1]
    if all(value == last for _, value in far):
        return f"bounded: {last} tokens"
    slope, exponent = (last - h) / (end - n), math.log(last / max(h, 1)) / math.log(end / n)
    if exponent < 0.2:  # like a logarithm, or still filling up a bound
        return f"nearly bounded: {last} tokens at {end}, {h} at {n}"
    # Linear but for a constant, which short lengths still show; else a power of n.
    if all(abs(h + slope * (m - n) - value) <= 0.1 * last for m, value in far) and exponent > 0.5:
        return f"growing like n: {last} tokens at {end}, {slope:.1f} more for each unit of length"
    return f"growing like n^{exponent:.1f}: {last} tokens at {end}"
