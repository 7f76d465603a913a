"""A causal convolution and silu of it over all paths of a graph, and what is linear in them, edge by edge."""

import torch
from torch import Tensor

from length_gen.lightning_modules.certification.bounds import TINY, Box, Rounding
from length_gen.lightning_modules.certification.graph import Graph
from length_gen.lightning_modules.certification.stream import Normalized

ALIKE = 2
"""Edges to windows whose last tokens, so many, are the same share the slope of a line beside silu."""


class Convolution:
    """u = silu(a) [edges, D] for a = bias + sum_j taps[:, -1 - j] i_j with i_j = matrix @ norm(x_j), where x_0 is the
    stream at an edge and x_j that at an edge j tokens before it, on any path; before the root i_j is 0.

    sums, outputs: boxes of a and u
    """

    def __init__(self, graph: Graph, rounding: Rounding, normed: Normalized, matrix: Tensor, inputs: Box, taps: Tensor,
                 bias: Tensor) -> None:
        """matrix: [D, d]; inputs: box of i_0 [edges, D]; taps: [D, width], the last for i_0; bias: [D]"""
        self.graph, self.rounding, self.normed, self.matrix = graph, rounding, normed, matrix
        self.taps, self.bias = [taps[:, i] for i in reversed(range(taps.shape[1]))], bias
        # By what a computed a may differ from the sum of the computed i_j.
        sizes = bias.abs() + sum(tap.abs() for tap in self.taps) * inputs.size.amax(0)
        self.off = rounding.gamma(2 * len(self.taps) + 8) * sizes + TINY
        self.sums = self._sums(inputs)
        self.outputs = rounding.silu(self.sums)

    def _sums(self, inputs: Box) -> Box:
        """The box of a: from the oldest tap on, at each edge that of the sum so far, over all paths to it."""
        middle, radius = inputs.centred()
        total = None
        for tap in reversed(self.taps):
            centre, spread = middle * tap, radius * tap.abs()
            here = Box(centre - spread, centre + spread)
            if total is None:
                total = here
            else:
                earlier = self.graph.hull(total)[self.graph.source]
                total = Box(earlier.lo + here.lo, earlier.hi + here.hi)
        return Box(total.lo + self.bias - self.off, total.hi + self.bias + self.off)

    def through(self, matrix: Tensor, bias: Tensor, sizes: Tensor, inner: int) -> Box:
        """matrix @ u + bias [edges, m]; `sizes` and `inner` as of `Rounding.linear`.

        From the box of u alone, and once more composed with the stream, which that box forgets: for any slopes s,

            matrix @ u = matrix @ (u - s (a - bias)) + sum_j [matrix @ diag(s taps_j) @ self.matrix] @ norm(x_j)

        The first term is bounded from the box of a, where u - s a is small since silu is nearly a line on a narrow one;
        it holds whatever the slopes are. The matrices in brackets are one matrix each, through which `Normalized` takes
        what the layers before have put out. Both boxes hold the value, so that their intersection does. The slopes are
        those of edges that end alike, so that few matrices are composed.
        """
        rounding = self.rounding
        box = rounding.linear(self.outputs, matrix, bias, sizes, inner)
        if not self.normed.stream.matrices:  # at every edge the stream is a point
            return box
        # What the model's own products and sums are off by.
        error = rounding.gamma(matrix.shape[1] + inner + 8)
        for rows in self.graph.ending_alike(min(ALIKE, self.graph.windows.shape[1])):
            exact = self._composed(rows, matrix, sizes, inner)
            slack = error * (self.outputs[rows].size @ sizes.mT + exact.size + bias.abs()) + TINY * matrix.shape[1]
            box.lo[rows] = torch.maximum(box.lo[rows], exact.lo + bias - slack)
            box.hi[rows] = torch.minimum(box.hi[rows], exact.hi + bias + slack)
        return box

    def _composed(self, rows: Tensor, matrix: Tensor, sizes: Tensor, inner: int) -> Box:
        """matrix @ u of these edges, composed with the stream."""
        rounding, sums = self.rounding, self.sums[rows]
        ends = [end * torch.sigmoid(end) for end in sums]
        slope = ((ends[1] - ends[0]).sum(0) / (sums.hi - sums.lo).sum(0).clamp(min=TINY)).clamp(-0.1, 1.1)
        shift, off = slope * self.bias, slope.abs() * self.off
        rest = rounding.silu_beside(sums, slope)
        rest = rounding.add(rest, Box(shift - off, shift + off))
        taps = []
        for tap in self.taps:
            product = (matrix * (slope * tap)) @ self.matrix
            taps.append((product, self.normed.compose(product), (sizes * (slope * tap).abs()) @ self.matrix.abs()))
        return rounding.add(rounding.linear(rest, matrix, None, sizes, inner),
                            self._past(rows, taps, matrix.shape[1] + inner + 8))

    def _past(self, rows: Tensor, taps: list[tuple[Tensor, list[Tensor], Tensor]], inner: int) -> Box:
        """The sum over taps of their matrix @ norm(x_j) at these edges, as in `_sums`."""
        (product, composed, sizes), *older = taps
        box = self.normed.project(rows, product, composed, sizes, inner)
        if not older:
            return box
        before, hull = self.graph.before(rows)
        return self.rounding.add(box, hull(self._past(before, older, inner)))
