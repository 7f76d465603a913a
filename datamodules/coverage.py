"""Whether training shows what longer problems ask: the decisions that trajectories like them leave open.

Needs no training. A decision is *unseen* if of the training trajectories those that share most of the last tokens
before it do not all go on as it does: what a learner by string matching would get wrong. Tokens that the algorithm does
the same with, such as digits, can be taken as alike; then what is done with the digits themselves is not asked.
"""

from collections.abc import Collection, Sequence

import numpy as np

from length_gen.datamodules.contexts import contexts, nearest
from length_gen.datamodules.trajectory import Trajectory
from length_gen.datamodules.vocabulary import Vocabulary


def unseen(training: Sequence[Trajectory], others: Sequence[Trajectory], vocabulary: Vocabulary,
           alike: Collection[str] = ()) -> list[list[int]]:
    """Of each of the others, the positions of its unseen decisions, in growing order.

    alike: tokens that are taken for one
    """
    ids = np.arange(len(vocabulary))
    same = [vocabulary.id(token) for token in alike]
    ids[same] = min(same, default=0)
    trajectories = [*training, *others]
    found = contexts([ids[vocabulary.encode(t.tokens)] for t in trajectories], [t.kinds for t in trajectories])
    starts = np.concatenate([[0], np.cumsum([len(t.tokens) for t in trajectories])])
    owner = np.searchsorted(starts, found.places, side="right") - 1
    trained = owner < len(training)
    agreeing, other = (np.full(len(owner), -1) for _ in range(2))
    for token in np.unique(found.following):
        own = found.following == token
        before, after = nearest(found.shared, own & trained), nearest(found.shared[::-1], (own & trained)[::-1])[::-1]
        most = np.maximum(before, after)
        agreeing[own] = most[own]
        other[~own] = np.maximum(other[~own], most[~own])
    result: list[list[int]] = [[] for _ in others]
    for k in np.flatnonzero(~trained & (agreeing <= other)):
        result[owner[k] - len(training)].append(int(found.places[k] - starts[owner[k]]))
    return [sorted(positions) for positions in result]
