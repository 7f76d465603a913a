"""Boxes of a fading recurrence h' = decay h + drive over all paths of a graph, and the check that they are inductive.

If a box at every node holds the start's state at the root, and the image of each node's box under every edge from it
lies in the box of the node that the edge leads to, then by induction over the tokens the state after any path lies in
its node's box. How boxes are found does not matter: they are proved by one more step at the end.
"""

import torch
from torch import Tensor

from length_gen.lightning_modules.certification.bounds import TINY, UNIT, Box, Rounding
from length_gen.lightning_modules.certification.graph import Graph, reduce

SHORT = 2
"""Tokens of the windows whose boxes are found first, and are kept for a certificate."""

KEPT = 2**28
"""Bytes that they may take, uncompressed; else windows are those of one token."""

BITS = 12
"""Bits of the kept boxes' ends that are left off by rounding outwards, 0.05% at most: a file takes less space."""

SWEEPS = 40
"""Most steps over the whole graph; each tightens the boxes by the decay, and they may end at any."""

SETTLED = 1e-4
"""Boxes that move by less, relative to the largest state, are taken."""


SPARE = 0.05
"""What the boxes of short windows have to spare, relative to the largest state: a checker, whose boxes of what a layer
reads are others, must find them inductive. Steps over the whole graph forget it."""


class NotFadingError(Exception):
    """The decay of a state is not proved to be below 1, or boxes are not inductive."""


def short_windows(graph: Graph, states: int) -> tuple[Graph, Tensor, Tensor, Tensor]:
    """`graph.shorter`, for windows as long as there is room for boxes of so many states, and the order that sorts
    edges by their edge in it."""
    for length in range(min(SHORT, graph.windows.shape[1]), 0, -1):
        short, node, edge = graph.shorter(length)
        if 8 * short.nodes * states <= KEPT:
            break
    return short, node, edge, torch.argsort(edge, stable=True)


def invariant(decay: Box, drive: Box) -> Tensor:
    """The least bound on |h| [...] that holds for ever: max|drive| / (1 - max decay) over the edges [edges, ...]."""
    factor = decay.hi.amax(0)
    if not bool((factor < 1).all()):  # NaN too
        raise NotFadingError(f"a state decays by a factor of up to {float(factor.max()):.6g} a token: not below 1")
    return drive.size.amax(0) / (1 - factor) * (1 + 16 * UNIT) + TINY


def fixpoint(graph: Graph, short: tuple[Graph, Tensor, Tensor, Tensor], decay: Box, drive: Box,
             rounding: Rounding) -> tuple[Box, Box, Box]:
    """Boxes of h at the nodes [nodes, ...], at the edges [edges, ...] (the state that an edge leads to), and at the
    nodes of the short windows; all of them proved.

    decay, drive: of every edge [edges, ...], 0 <= decay; short: `short_windows(graph)`

    Raises NotFadingError where none are found.
    """
    top = invariant(decay, drive)
    few, node, edge, order = short
    counts = torch.bincount(edge, minlength=few.edges)

    def gathered(box: Box) -> Box:
        return Box(reduce(box.lo[order], counts, "min"), reduce(box.hi[order], counts, "max"))

    few_decay, few_drive = gathered(decay), gathered(drive)
    everything = top.expand(few.nodes, *top.shape)
    start = iterate(few, few_decay, few_drive, Box(-everything, everything), top, 10 * SWEEPS)
    boxes = iterate(graph, decay, drive, start[node], top, SWEEPS)
    kept = settle(few, few_decay, few_drive, start, top, rounding, SPARE, BITS)[0]
    return *settle(graph, decay, drive, boxes, top, rounding, 0.02 * SETTLED), kept


def step(graph: Graph, decay: Box, drive: Box, nodes: Box) -> Box:
    """decay h + drive at the edges, for h in the boxes of the nodes they come from; not rounded outwards."""
    lo, hi = nodes.lo[graph.source], nodes.hi[graph.source]
    return Box(torch.where(lo < 0, decay.hi, decay.lo).mul_(lo).add_(drive.lo),
               torch.where(hi > 0, decay.hi, decay.lo).mul_(hi).add_(drive.hi))


def iterate(graph: Graph, decay: Box, drive: Box, nodes: Box, top: Tensor, sweeps: int) -> Box:
    """Steps in float32 from the boxes given, until they have settled; nothing is proved by them."""
    decay, drive, nodes = (Box(*(end.float() for end in box)) for box in (decay, drive, nodes))
    scale = top.float() * SETTLED
    for _ in range(sweeps):
        new = graph.hull(step(graph, decay, drive, nodes))
        moved = torch.maximum((new.lo - nodes.lo).abs().amax(0), (new.hi - nodes.hi).abs().amax(0))
        nodes = new
        if bool((moved <= scale).all()):
            break
    return Box(nodes.lo.double(), nodes.hi.double())


def settle(graph: Graph, decay: Box, drive: Box, nodes: Box, top: Tensor, rounding: Rounding,
           spare: float, bits: int = 0) -> tuple[Box, Box]:
    """Inductive boxes around those given, and their images at the edges, rounded outwards.

    top:   a bound of |h|, where the widening takes its size from
    spare: what they are widened by, relative to it
    bits:  of float32's 24 that their ends do not need
    """
    margin = (spare + 128 * rounding.unit) * top / (1 - decay.hi.amax(0))
    for _ in range(8):
        grown = single(Box(nodes.lo - margin, nodes.hi + margin), bits)
        image = image_of(graph, decay, drive, grown, rounding)
        reached = graph.hull(image)
        if inside(reached, grown):  # in other words: they are inductive
            return grown, image
        nodes = Box(torch.minimum(grown.lo, reached.lo), torch.maximum(grown.hi, reached.hi))
    raise NotFadingError("no inductive boxes were found")


def image_of(graph: Graph, decay: Box, drive: Box, nodes: Box, rounding: Rounding) -> Box:
    """The boxes that a step leads to at the edges, rounded outwards: decay in [0, 1), two roundings each."""
    sizes = nodes.size.amax(0) + drive.size.amax(0)
    slack = rounding.gamma(4) * sizes + TINY
    return step(graph, decay, Box(drive.lo - slack, drive.hi + slack), nodes)


def single(box: Box, bits: int = 0) -> Box:
    """A box around it whose ends float32 has, their last `bits` bits 0: a certificate keeps it in less space."""
    lo, hi = box.lo.float(), box.hi.float()
    infinity = torch.tensor(torch.inf, dtype=torch.float32, device=lo.device)
    lo = torch.where(lo > box.lo, torch.nextafter(lo, -infinity), lo)
    hi = torch.where(hi < box.hi, torch.nextafter(hi, infinity), hi)
    return Box(shortened(lo, lo < 0, bits).double(), shortened(hi, hi > 0, bits).double())


def shortened(values: Tensor, away: Tensor, bits: int) -> Tensor:
    """float32 values with their last `bits` bits 0: rounded away from 0 where it is said, else towards it."""
    mask = (1 << bits) - 1  # a number's bits are those of its size, and a sign before them
    whole = values.contiguous().view(torch.int32)
    return (torch.where(away, whole + mask, whole) & ~mask).view(torch.float32)


def inside(inner: Box, outer: Box) -> bool:
    """Whether every box lies in its other."""
    return bool((inner.lo >= outer.lo).all()) and bool((inner.hi <= outer.hi).all())
