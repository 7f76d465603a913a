"""The horizon of trajectories: how far back one must look to know every token that the model has to predict.

It needs no training, and it bounds what training can give: where the horizon grows with the length of the problem, a
decision depends on ever older tokens; where it is bounded, a fixed window is enough at any length.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from length_gen.datamodules.tokens import PREDICTED, Kind
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
    """

    horizon: int
    clash: Clash | None
    phases: dict[str, int]


def horizon(trajectories: Sequence[Trajectory], vocabulary: Vocabulary, own: Sequence[bool] | None = None) -> Horizon:
    """Horizon of a set of trajectories. A context ends at the start of its trajectory, which is seen as such.

    own: which trajectories' predicted tokens are asked for, held against the contexts of all; None: all

    Contexts of 1, 2, 4, ... tokens get numbers by pairing those of half the length, exactly (no hashing), and the
    largest ambiguous length is found bit by bit: O(N log N log L) for N tokens in trajectories of at most L.
    """
    tokens = np.concatenate([vocabulary.encode(t.tokens) for t in trajectories]) + 1
    lengths = [len(t.tokens) for t in trajectories]
    position = np.concatenate([np.arange(n) for n in lengths])
    kinds = np.concatenate([np.frombuffer(t.kinds, dtype=np.uint8) for t in trajectories])
    # Every predicted token but a trajectory's first; what stands before place i ends at `last[i]`.
    predicted = np.flatnonzero(np.isin(kinds, list(PREDICTED)) & (position > 0))
    last, following = predicted - 1, tokens[predicted]
    asked = np.repeat(np.ones(len(lengths), bool) if own is None else np.asarray(own), lengths)[predicted]

    if not asked.any():
        return Horizon(0, None, {})

    def undetermined(contexts: np.ndarray) -> np.ndarray:
        """Which predicted tokens that are asked for are not determined by the contexts before them."""
        return _ambiguous(contexts[last], following) & asked

    def back(numbers: np.ndarray, steps: int) -> np.ndarray:
        """Number of the context that ends `steps` before each place; 0 beyond the start of its trajectory."""
        result = np.zeros_like(numbers)
        result[steps:] = numbers[: len(numbers) - steps]
        result[position < steps] = 0
        return result

    doubled = [tokens]
    while 2 ** len(doubled) <= max(lengths):
        doubled.append(_pair(doubled[-1], back(doubled[-1], 2 ** (len(doubled) - 1))))
    if not undetermined(np.zeros_like(tokens)).any():
        return Horizon(0, None, {})
    known = 0  # the largest number of tokens that is known to be ambiguous, and the contexts of that length
    contexts = np.zeros_like(tokens)
    for exponent in reversed(range(len(doubled))):
        longer = _pair(contexts, back(doubled[exponent], known))
        if undetermined(longer).any():
            known, contexts = known + 2**exponent, longer
    wrong = undetermined(contexts)
    starts = np.concatenate([[0], np.cumsum(lengths)])

    def phase(place: int) -> str:
        owner = int(np.searchsorted(starts, place, side="right")) - 1
        return trajectories[owner].phase_at(place - int(starts[owner]))

    def before(place: int) -> tuple[str, ...]:
        first = max(place - known - 1, place - int(position[place]))
        return tuple(vocabulary.decode(tokens[first:place] - 1))

    places = predicted[wrong]
    clashing = predicted[contexts[last] == contexts[places[0] - 1]]
    pair = int(places[0]), int(clashing[tokens[clashing] != tokens[places[0]]][0])
    clash = Clash(tuple(map(before, pair)), tuple(vocabulary.decode(tokens[list(pair)] - 1)), tuple(map(phase, pair)))
    return Horizon(known + 1, clash, dict(Counter(phase(int(place)) for place in places).most_common()))


def _pair(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Equal numbers for equal pairs, from 1 on."""
    return np.unique(a * (int(b.max()) + 1) + b, return_inverse=True)[1].astype(np.int64) + 1


def _ambiguous(contexts: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Which places, bool [n], share their context with a place that another token follows."""
    count = int(contexts.max()) + 1
    low, high = np.full(count, np.iinfo(np.int64).max), np.zeros(count, dtype=np.int64)
    np.minimum.at(low, contexts, following)
    np.maximum.at(high, contexts, following)
    return (low < high)[contexts]


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
