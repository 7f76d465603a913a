"""Which problems each of several processes evaluates: as much work for all, so that none waits long for the others."""

import heapq
from collections.abc import Callable, Sequence

import torch.distributed as dist

from length_gen.datamodules.tasks import Problem
from length_gen.datamodules.trajectory import Trajectory

WORTH = 0.05
"""Share of the time that some rank must wait less for problems to be dealt out anew: those that move are recorded
again."""


def dealt(sizes: Sequence[int], world: int) -> list[list[int]]:
    """Places in `sizes` of each rank's share, rising: the largest first, each to whom has least so far (LPT).

    Of equal sizes every rank gets each `world`-th. No rank has more than the mean and one item of the largest size.
    """
    shares: list[list[int]] = [[] for _ in range(world)]
    loads = [(0, rank) for rank in range(world)]
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        load, rank = loads[0]
        heapq.heapreplace(loads, (load + sizes[place], rank))
        shares[rank].append(place)
    return [sorted(share) for share in shares]


def waiting(sizes: Sequence[int], shares: Sequence[Sequence[int]]) -> float:
    """The largest share of the time that a rank waits for the last one, where time goes by with `sizes`."""
    loads = [sum(sizes[place] for place in share) for share in shares]
    return 1 - min(loads) / max(loads) if any(loads) else 0.0


def shared(problems: Callable[[Sequence[int]], Sequence[Problem]], count: int,
           record: Callable[[Sequence[Problem]], Sequence[Trajectory]], rank: int,
           world: int) -> dict[int, tuple[Problem, Trajectory]]:
    """This rank's share of `count` problems, with their reference trajectories, by their numbers, which rise.

    Each rank records every `world`-th reference, so that nobody records all, and tells the others how long they are.
    Where that leaves a rank waiting, problems are dealt out anew by the tokens of their references. With a `world` of
    more than one, all ranks must call it.

    problems: those of some numbers; record: their reference trajectories
    """
    def make(numbers: Sequence[int]) -> dict[int, tuple[Problem, Trajectory]]:
        made = list(problems(numbers))
        return dict(zip(numbers, zip(made, record(made), strict=True), strict=True))

    plain = [range(r, count, world) for r in range(world)]
    own = make(plain[rank])
    if world == 1:
        return own
    told: list[dict[int, int]] = [{} for _ in range(world)]
    dist.all_gather_object(told, {number: len(reference.tokens) for number, (_, reference) in own.items()})
    known = {number: size for part in told for number, size in part.items()}
    sizes = [known[number] for number in range(count)]
    shares = dealt(sizes, world)
    if waiting(sizes, plain) - waiting(sizes, shares) < WORTH:
        return own
    own |= make([number for number in shares[rank] if number not in own])
    return {number: own[number] for number in shares[rank]}
