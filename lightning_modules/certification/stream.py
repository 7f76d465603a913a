"""The residual stream over all that may have come before, edge by edge.

It is kept as embedding + sum_k W_k g_k + rounding, with boxes only on the layers' outputs g_k. What is linear in it is
composed with the W_k before intervals are taken, which would forget how the stream's coordinates move together.
"""

import torch
from torch import Tensor

from length_gen.lightning_modules.certification.bounds import FUNCTION, Box, Rounding, squares


class Stream:
    """The stream [edges, d] at the token of each edge: `centre` + sum_k W_k (at most `radii[k]`) + at most `error`.

    matrices: W_k [d, D_k]; radii: [edges, D_k] each
    radius:   [edges, d], what all of that can move a coordinate
    """

    def __init__(self, embedding: Tensor, token: Tensor, rounding: Rounding) -> None:
        self.rounding = rounding
        self.centre = embedding[token]
        self.error = torch.zeros_like(self.centre)
        self.radius = torch.zeros_like(self.centre)
        self.radii: list[Tensor] = []
        self.matrices: list[Tensor] = []

    def add(self, update: Box, matrix: Tensor) -> None:
        """Add matrix @ g for g in `update` [edges, D]: a residual connection."""
        error = self.rounding.gamma(matrix.shape[1] + 4)
        for rows in blocks(len(self.centre)):
            centre, radius = update[rows].centred()
            before = self.centre[rows].abs() + self.radius[rows]
            rounded = error * (before + (centre.abs() + radius) @ matrix.abs().mT)
            self.centre[rows] += centre @ matrix.mT
            self.error[rows] = (self.error[rows] + rounded) * (1 + error)
            self.radius[rows] = (self.radius[rows] + radius @ matrix.abs().mT + rounded) * (1 + error)
        self.radii.append(update.centred()[1])
        self.matrices.append(matrix)

    def functional(self, rows: slice | Tensor, matrix: Tensor, composed: list[Tensor], sizes: Tensor | None = None,
                   inner: int = 0) -> Box:
        """matrix @ x [rows, m] for the stream x, each coordinate off by as many units as a norm and a product take.

        matrix: [m, d]; composed: |matrix @ W_k| [m, D_k]; sizes, inner: as of `Rounding.linear`, where the matrix is
        a product
        """
        centre = self.centre[rows]
        width = max([matrix.shape[1], *(part.shape[1] for part in composed)])
        error = self.rounding.gamma(2 * width + FUNCTION + inner + 8)
        most = centre.abs() + self.radius[rows]
        spread = (self.error[rows] + error * most) @ (matrix.abs() if sizes is None else sizes).mT
        for radius, part in zip(self.radii, composed, strict=True):
            spread = spread + radius[rows] @ part.mT
        return self.rounding.around(centre @ matrix.mT, spread * (1 + error))

    def compose(self, matrix: Tensor) -> list[Tensor]:
        """|matrix @ W_k| for every layer so far; what their rounding adds `functional` takes into account."""
        return [(matrix @ update).abs() for update in self.matrices]

    def coordinates(self, rows: slice | Tensor) -> Box:
        """Every coordinate of the stream."""
        return self.rounding.around(self.centre[rows], self.radius[rows])

    def inverse_rms(self, rows: slice | Tensor, eps: float) -> Box:
        """1 / sqrt(mean(x^2) + eps) [rows, 1] of the stream x."""
        rounding, centre, width = self.rounding, self.centre[rows], self.centre.shape[1]
        each = squares(self.coordinates(rows))
        error = rounding.gamma(2 * width + 8)
        apart = Box(each.lo.sum(-1) * (1 - error), each.hi.sum(-1) * (1 + error))
        # |c + d|^2 = |c|^2 + 2 c d + |d|^2, with c d composed.
        sizes, own = centre.abs(), (centre * centre).sum(-1)
        moved = (sizes * self.error[rows]).sum(-1)
        for radius, matrix in zip(self.radii, self.matrices, strict=True):
            composed = (centre @ matrix).abs() + error * (sizes @ matrix.abs())
            moved = moved + (composed * radius[rows]).sum(-1)
        error = rounding.gamma(2 * max([width, *(part.shape[1] for part in self.matrices)]) + 8)
        moved = 2 * moved * (1 + error)
        far = (self.radius[rows] ** 2).sum(-1) * (1 + error)
        together = Box(own * (1 - error) - moved * (1 + error), (own + moved + far) * (1 + error))
        return rounding.inverse_rms(apart.narrower(together)[..., None], width, eps)


class Normalized:
    """An RMS norm [edges, d] of a stream as it is now, and what is linear in it."""

    def __init__(self, stream: Stream, weight: Tensor, eps: float) -> None:
        self.stream, self.weight, self.eps = stream, weight, eps
        rows = blocks(len(stream.centre))
        self.scale = joined([stream.inverse_rms(part, eps) for part in rows])
        self.apart = joined([stream.rounding.normalized(stream.coordinates(part), weight, eps) for part in rows])

    def compose(self, matrix: Tensor) -> list[Tensor]:
        """|matrix @ diag(weight) @ W_k| for every layer so far."""
        return self.stream.compose(matrix * self.weight)

    def project(self, rows: slice | Tensor, matrix: Tensor, composed: list[Tensor], sizes: Tensor | None = None,
                inner: int = 0) -> Box:
        """matrix @ norm(x) [rows, m] of the stream x.

        matrix: [m, d]; composed: `compose(matrix)`; sizes, inner: as of `Rounding.linear`, where it is a product
        """
        rounding = self.stream.rounding
        apart = rounding.linear(self.apart[rows], matrix, None, sizes, inner)
        together = self.stream.functional(rows, matrix * self.weight, composed,
                                          None if sizes is None else sizes * self.weight.abs(), inner)
        return apart.narrower(rounding.multiply(self.scale[rows], together))


def blocks(count: int, size: int = 4096) -> list[slice]:
    """Slices of at most `size` that make up `count` rows."""
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]


def joined(parts: list[Box], dimension: int = 0) -> Box:
    """Boxes end to end."""
    return Box(torch.cat([part.lo for part in parts], dimension), torch.cat([part.hi for part in parts], dimension))
