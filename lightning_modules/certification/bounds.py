"""Interval arithmetic in float64 whose every operation rounds outwards, for a model that rounds too.

The model is taken to compute each operation as `(exact result) (1 + d) + t` with |d| <= u and |t| <= `TINY`: sums and
products in any order, fused or not; a root's inverse with |d| <= `FUNCTION` u; exp(x), silu(x) and softplus(x) with
|d| <= (`FUNCTION` + 2 a) u, where a is how far x lies below 0 (of exp(A_log), |A_log|). u = 0 is real arithmetic,
2^-53 float64, 2^-24 float32; a bound for one u holds for every smaller one. The bounds themselves are computed in
float64, with the same kind of error at 2^-53. So each operation's box is widened by a number of units u + 2^-53,
counted from the operation: elementwise ones relative to the result's ends, a sum of n products by n units of the sum
of absolute values (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
"""

from typing import NamedTuple

import torch
from torch import Tensor

UNIT = 2.0**-53
"""Half the distance from 1 to the next float64: the rounding of the bounds themselves."""

TINY = 1e-30
"""Absolute error of one operation, which covers underflow in float32 (1.2e-38) in sums of any length here."""

FUNCTION = 16
"""Units that an elementary function may be off: libraries promise 1 to 4 (PyTorch's SLEEF 1, NumPy's SVML 4). Fast ones
take exp(-a) as a power of 2, whose exponent rounds: by a u more (scan_cpu.py; CUDA's __expf: 1.2 a u)."""

SILU_AT, SILU_LEAST = -1.2784645427610738, -0.27846454276107385
"""Where silu is least, to 1e-15, and a lower bound of its value there (-0.278464542761073796...)."""

THRESHOLD = 20.0
"""From here on torch's softplus(x) is x, which is less than log(1 + exp(x)) by a relative 1.04e-10 at most."""


class Box(NamedTuple):
    """An interval for every element: all values v with lo <= v <= hi. Tensors of one shape, float64."""

    lo: Tensor
    hi: Tensor

    def __getitem__(self, index):  # of both ends; a tuple's own would be one of them
        return Box(self.lo[index], self.hi[index])

    @property
    def size(self) -> Tensor:
        """The largest absolute value, element by element; exact."""
        return torch.maximum(self.lo.abs(), self.hi.abs())

    def centred(self) -> tuple[Tensor, Tensor]:
        """A centre and a radius that reaches both ends."""
        centre = (self.lo + self.hi) / 2
        radius = torch.maximum(self.hi - centre, centre - self.lo)
        return centre, radius * (1 + 4 * UNIT)  # the difference rounds

    def narrower(self, other: "Box") -> "Box":
        """The intersection: of two boxes that hold the same values."""
        return Box(torch.maximum(self.lo, other.lo), torch.minimum(self.hi, other.hi))


def point(values: Tensor) -> Box:
    """The box of these values alone."""
    return Box(values, values)


class Rounding:
    """Operations on boxes for a model whose operations are off by at most u, relatively.

    Every method returns a box that holds what the model computes from any values in the boxes given, and what real
    arithmetic does.

    unit: u plus the bounds' own 2^-53
    """

    def __init__(self, u: float = 0.0) -> None:
        self.u = u
        self.unit = (u + UNIT) * (1 + 2.0**-20)

    def gamma(self, operations: int) -> float:
        """Bound on the relative error of that many operations in a row (of 8 more, which the bound itself takes)."""
        error = (operations + 8) * self.unit
        if error > 0.1:
            raise ValueError(f"{operations} operations of unit {self.unit} leave no digit")
        return error / (1 - error)

    def widened(self, box: Box, operations: int, argument: Box | None = None) -> Box:
        """A box around one whose ends carry so many roundings of their own size, and 2 a more where they are a function
        of an `argument` -a < 0 by way of its exp."""
        error = self.gamma(operations)
        if argument is not None:
            error = error + 2.02 * self.unit * -argument.lo.clamp(max=0)
        return Box(box.lo - (error * box.lo.abs() + TINY), box.hi + (error * box.hi.abs() + TINY))

    def around(self, centre: Tensor, radius: Tensor) -> Box:
        """centre -+ radius; both are exact."""
        return self.widened(Box(centre - radius, centre + radius), 1)

    def linear(self, box: Box, matrix: Tensor, bias: Tensor | None = None, sizes: Tensor | None = None,
               inner: int = 0) -> Box:
        """matrix @ x + bias for x in `box` [..., n]: [..., m].

        matrix: [m, n]. Where it stands for a product of matrices that the model multiplies by one after another,
                `sizes` [m, n] is the product of their absolute values and `inner` the length of its sums.
        """
        centre, radius = box.centred()
        error = self.gamma(matrix.shape[-1] + inner + 2)
        most = centre.abs() + radius
        if sizes is None:
            spread = (radius + error * most) @ matrix.abs().mT
        else:
            spread = radius @ matrix.abs().mT + error * (most @ sizes.mT)
        value = centre @ matrix.mT
        if bias is not None:
            value, spread = value + bias, spread + error * bias.abs()
        spread = spread * (1 + error) + TINY * matrix.shape[-1]
        return Box(value - spread, value + spread)

    def add(self, a: Box, b: Box) -> Box:
        """a + b."""
        return self.widened(Box(a.lo + b.lo, a.hi + b.hi), 1)

    def multiply(self, a: Box, b: Box) -> Box:
        """a b, by the four corners."""
        return self.widened(corners(a, b), 1)

    def silu(self, x: Box) -> Box:
        """x / (1 + exp(-x)), which falls up to `SILU_AT` and rises from there."""
        a, b = x.lo * torch.sigmoid(x.lo), x.hi * torch.sigmoid(x.hi)
        least = torch.where((x.lo < SILU_AT + 1e-6) & (x.hi > SILU_AT - 1e-6), SILU_LEAST, torch.minimum(a, b))
        return self.widened(Box(least, torch.maximum(a, b)), FUNCTION, x)

    def silu_beside(self, x: Box, slope: Tensor, pieces: int = 4) -> Box:
        """silu(x) - slope x for any slope: what is left of silu beside a line.

        Between two points it is off the straight line through them by a 16th of their squared distance at most, since
        |silu''| <= 1/2. So its range is that at the ends of `pieces` parts, and this much more.
        """
        width = x.hi - x.lo
        points = [x.lo + width * (i / pieces) for i in range(pieces)] + [x.hi]
        lo = hi = None
        for point in points:
            value = point * torch.sigmoid(point) - slope * point
            lo, hi = (value, value) if lo is None else (torch.minimum(lo, value), torch.maximum(hi, value))
        bend = (width / pieces) ** 2 / 16 * (1 + 64 * UNIT)
        # The points, which round, are off by a few units of their size, and so is the line; silu by 16 of its own, and
        # below 0 by 2 |x| |silu(x)| <= 1.1 more.
        size = x.hi.clamp(min=-SILU_LEAST) + (1 + slope.abs()) * x.size
        slack = bend + self.gamma(FUNCTION + 8) * size + TINY
        return self.widened(Box(lo - slack, hi + slack), 1)

    def softplus(self, x: Box) -> Box:
        """log(1 + exp(x)), with torch's threshold or without."""
        lo, hi = (end.clamp(min=0) + torch.log1p(torch.exp(-end.abs())) for end in x)
        lo = torch.where(x.lo > THRESHOLD - 1, lo * (1 - 2e-10), lo)
        return self.widened(Box(lo, hi), FUNCTION, x)

    def decay(self, step: Box, rate: Box) -> Box:
        """exp(step rate) for steps > 0 and rates < 0."""
        lo, hi = step.hi * rate.lo, step.lo * rate.hi
        # An error d of the exponent, of which the product and exp itself have 3 units, is a factor between 1 - 2d and
        # 1 + 2d of the result, for d < 1.2; where it is larger the exponent is below -1e5, and the result below TINY.
        less, more = (2 * self.gamma(4) * -end + self.gamma(FUNCTION) for end in (lo, hi))
        return Box((torch.exp(lo) * (1 - less) - TINY).clamp(min=0), torch.exp(hi) * (1 + more) + TINY)

    def inverse_rms(self, squares: Box, width: int, eps: float) -> Box:
        """1 / sqrt(squares / width + eps) [...] for sums of `width` squares that lie in `squares`, without rounding."""
        lo, hi = (1 / torch.sqrt(end.clamp(min=0) / width + eps) for end in (squares.hi, squares.lo))
        return self.widened(Box(lo, hi), width + FUNCTION)

    def normalized(self, x: Box, weight: Tensor, eps: float) -> Box:
        """weight x / sqrt(mean(x^2) + eps) over the last dimension: monotone in each coordinate and in the rest."""
        width = x.lo.shape[-1]
        least, most = squares(x)
        # What the others add: the sum less one's own, widened by what cancellation may lose.
        slack = self.gamma(width) * most.sum(-1, keepdim=True)
        low = (least.sum(-1, keepdim=True) - least - slack).clamp(min=0) / width + eps
        high = (most.sum(-1, keepdim=True) - most + slack) / width + eps

        def value(v: Tensor, rest: Tensor) -> Tensor:
            return v / torch.sqrt(v * v / width + rest)

        lo = torch.minimum(value(x.lo, low), value(x.lo, high))
        hi = torch.maximum(value(x.hi, low), value(x.hi, high))
        lo, hi = torch.where(weight > 0, lo, hi) * weight, torch.where(weight > 0, hi, lo) * weight
        return self.widened(Box(lo, hi), width + FUNCTION)


def corners(a: Box, b: Box) -> Box:
    """The least and the greatest product of the ends, each rounded to the nearest float64."""
    ends = a.lo * b.lo, a.lo * b.hi, a.hi * b.lo, a.hi * b.hi
    return Box(torch.minimum(torch.minimum(ends[0], ends[1]), torch.minimum(ends[2], ends[3])),
               torch.maximum(torch.maximum(ends[0], ends[1]), torch.maximum(ends[2], ends[3])))


def squares(x: Box) -> Box:
    """x^2, each end rounded to the nearest float64."""
    least = torch.where((x.lo <= 0) & (x.hi >= 0), 0.0, torch.minimum(x.lo * x.lo, x.hi * x.hi))
    return Box(least, torch.maximum(x.lo * x.lo, x.hi * x.hi))
