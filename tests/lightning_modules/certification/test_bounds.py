"""Boxes hold what is computed from the points in them, exactly and with errors of up to u."""

import hypothesis
import hypothesis.strategies as st
import mpmath
import numpy as np
import pytest
import torch

from length_gen.lightning_modules.backbones import scan_cpu
from length_gen.lightning_modules.certification import bounds
from length_gen.lightning_modules.certification.bounds import Box, Rounding

mpmath.mp.prec = 200
UNITS = [0.0, 2.0**-53, 2.0**-24]


def boxes(rng, *shape):
    """Boxes of all widths, points among them."""
    ends = np.sort(rng.normal(scale=10 ** rng.uniform(-6, 1.3, shape), size=(2, *shape)), 0)
    ends[1] = np.where(rng.random(shape) < 0.3, ends[0], ends[1])
    return Box(*(torch.from_numpy(end) for end in ends))


def inner(rng, box):
    """A point of each box, its ends more often than not."""
    lo, hi = box.lo.numpy(), box.hi.numpy()
    place = rng.choice([0.0, 1.0, rng.random()], lo.shape)
    return np.clip(lo + place * (hi - lo), lo, hi)


def holds(box, values, index=...):
    """Whether mpmath's values lie in a box, compared without rounding."""
    lo, hi = box.lo[index].ravel().tolist(), box.hi[index].ravel().tolist()
    return all(mpmath.mpf(a) <= v <= mpmath.mpf(b) for a, v, b in zip(lo, values, hi, strict=True))


FUNCTIONS = {
    "silu": (lambda r, x: r.silu(x), lambda x: x / (1 + mpmath.exp(-x)), bounds.FUNCTION),
    "softplus": (lambda r, x: r.softplus(x), lambda x: mpmath.log1p(mpmath.exp(x)), bounds.FUNCTION),
    "torch's softplus": (lambda r, x: r.softplus(x), lambda x: x if x > 20 else mpmath.log1p(mpmath.exp(x)), 16),
    "square": (lambda r, x: r.widened(bounds.squares(x), 1), lambda x: x * x, 1)}


@pytest.mark.parametrize("u", UNITS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, u):
    ours, exact, most = FUNCTIONS[name]
    rng = np.random.default_rng(len(name))
    for scale in (0.1, 1, 30):
        x = boxes(rng, 200)
        x = Box(x.lo * scale, x.hi * scale)
        found = ours(Rounding(u), x)
        for place in range(3):
            values = [exact(mpmath.mpf(v)) for v in inner(rng, x).tolist()]
            assert holds(found, values)
            below = [2 * max(0.0, -v) if most == bounds.FUNCTION else 0 for v in x.lo.tolist()]
            assert holds(found, [v * (1 + (-1) ** place * (most + more) * u)
                                 for v, more in zip(values, below, strict=True)])


@hypothesis.given(st.floats(-40, 40), st.floats(0, 1) | st.floats(0, 30), st.floats(-0.1, 1.1), st.floats(0, 1),
                  st.sampled_from(UNITS), st.sampled_from([-1, 1]))
def test_silu_beside_a_line(low, width, slope, place, u, sign):
    high = low + width
    box = Box(*torch.tensor([[low], [high]], dtype=torch.float64))
    found = Rounding(u).silu_beside(box, torch.tensor([slope], dtype=torch.float64))
    x = mpmath.mpf(min(high, max(low, low + place * width)))
    error = sign * (16 + 2 * max(0, -x)) * u
    assert holds(found, [FUNCTIONS["silu"][1](x) * (1 + error) - mpmath.mpf(slope) * x])
    # It is not wider than what a line of the slope that differs most can leave, with the bend of four parts.
    assert float(found.hi - found.lo) < 1.2 * width + width**2 / 64 + 200 * (u + 1e-15) * (1 + abs(high) + abs(low))


def test_silu_bends_by_a_half_at_most():
    def second(x):
        return mpmath.diff(FUNCTIONS["silu"][1], x, 2)

    assert abs(second(0) - mpmath.mpf(1) / 2) < 1e-20
    assert all(-0.5 < second(x / 100) < 0.5 for x in range(-3000, 3000, 37) if x)


@pytest.mark.parametrize("u", UNITS)
def test_decay(u):
    rng = np.random.default_rng(0)
    step = Box(*(end.abs() for end in boxes(rng, 200)))
    step = Box(torch.minimum(*step), torch.maximum(*step))
    rate = Box(*(-torch.from_numpy(rng.uniform(*ends, 200)) for ends in ((1.1, 16), (0.1, 1.1))))
    found = Rounding(u).decay(step, rate)
    for a, b in ((inner(rng, step), inner(rng, rate)) for _ in range(4)):
        values = [mpmath.exp(mpmath.mpf(x) * mpmath.mpf(y) * (1 + u)) * (1 + (-16 + 2 * x * y) * u)
                  for x, y in zip(a.tolist(), b.tolist(), strict=True)]
        assert holds(found, values)
    assert bool((found.hi <= 1 + 1e-4).all())


def test_float32_functions_err_no_more_than_is_assumed():
    x = np.concatenate([-np.geomspace(1e-6, 80, 4001), np.linspace(-80, 80, 3001), np.geomspace(1e-6, 80, 4001)])
    x = x.astype(np.float32)
    below, one = np.minimum(x, 0), np.ones((1, len(x)), np.float32)
    zero, line = np.zeros((1, 1), np.float32), np.ones((len(x), 1), np.float32)
    gated, state = np.empty_like(one), line[None].copy()
    scan_cpu.step(one, -below[None], -line, zero, zero, one[0], x[None].copy(), state, gated)
    tensor = torch.from_numpy(x)
    found = {"scan's exp": (state[0, :, 0], np.exp(below.astype(float)), below), "scan's silu": (gated[0], silu(x), x),
             "exp": (torch.exp(torch.from_numpy(below)), np.exp(below.astype(float)), below),
             "silu": (torch.nn.functional.silu(tensor), silu(x), x),
             "softplus": (torch.nn.functional.softplus(tensor), np.logaddexp(0, x.astype(float)), x)}
    for name, (value, exact, at) in found.items():
        most = (bounds.FUNCTION + 2 * np.maximum(0, -at.astype(float))) * 2.0**-24 * np.abs(exact) + bounds.TINY
        assert (np.abs(np.asarray(value, dtype=float) - exact) <= most).all(), name
    # Without the part of the argument the scan's exp would not be in it.
    assert (np.abs(state[0, :, 0] - np.exp(below.astype(float))) > 16 * 2.0**-24 * np.exp(below.astype(float))).any()


def silu(x):
    x = x.astype(float)
    return x / (1 + np.exp(-x))


def test_silu_is_least_where_it_says():
    at = mpmath.findroot(lambda x: 1 + mpmath.exp(-x) * (1 + x), -1.28)
    assert abs(at - bounds.SILU_AT) < 1e-15
    assert bounds.SILU_LEAST <= at / (1 + mpmath.exp(-at)) < bounds.SILU_LEAST + 1e-15


@pytest.mark.parametrize("u", UNITS)
def test_products(u):
    rng, rounding = np.random.default_rng(1), Rounding(u)
    a, b = boxes(rng, 300), boxes(rng, 300)
    found = rounding.multiply(a, b), rounding.add(a, b)
    for sign in (-1, 1):
        ends = inner(rng, a).tolist(), inner(rng, b).tolist()
        pairs = [(mpmath.mpf(x), mpmath.mpf(y)) for x, y in zip(*ends, strict=True)]
        assert holds(found[0], [x * y * (1 + sign * u) for x, y in pairs])
        assert holds(found[1], [(x + y) * (1 + sign * u) for x, y in pairs])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("composed", [False, True])
def test_linear_holds_what_is_computed_and_what_is_exact(dtype, composed):
    rng = np.random.default_rng(2)
    x = boxes(rng, 6, 40)
    x = Box(x.lo.float().double(), x.hi.float().double())  # ends that float32 has too
    first, second = (torch.from_numpy(rng.normal(size=shape)).float().double() for shape in ((9, 40), (30, 9)))
    bias = torch.from_numpy(rng.normal(size=30)).float().double()
    rounding = Rounding(2.0**-24 if dtype is torch.float32 else 2.0**-53)
    if composed:
        found = rounding.linear(x, second @ first, bias, second.abs() @ first.abs(), 9 + 8)
    else:
        matrix = (second @ first).float().double()
        found = rounding.linear(x, matrix, bias)
    exact = [[mpmath.mpf(v) for v in row] for row in (second if composed else matrix).tolist()]
    for place in range(3):
        values = x.lo if place == 0 else x.hi if place == 1 else torch.where(torch.rand(6, 40) < 0.5, x.lo, x.hi)
        v = values.to(dtype)
        inner_ = v @ first.to(dtype).mT if composed else v
        computed = inner_ @ (second if composed else matrix).to(dtype).mT + bias.to(dtype)
        assert bool(((computed >= found.lo) & (computed <= found.hi)).all())
        row = [mpmath.mpf(e) for e in values[0].tolist()]
        if composed:
            row = [mpmath.fdot([mpmath.mpf(e) for e in line], row) for line in first.tolist()]
        assert holds(found, [mpmath.fdot(line, row) + b for line, b in zip(exact, bias.tolist(), strict=True)], 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_norm(dtype):
    rng, width = np.random.default_rng(3), 24
    x = boxes(rng, 8, width)
    x = Box(x.lo.float().double(), x.hi.float().double())
    norm = torch.nn.RMSNorm(width, 1e-5).to(dtype)
    torch.nn.init.normal_(norm.weight)
    rounding = Rounding(2.0**-24 if dtype is torch.float32 else 2.0**-53)
    weight = norm.weight.detach().double()
    found = rounding.normalized(x, weight, 1e-5)
    for place in range(4):
        values = torch.from_numpy(inner(rng, x)) if dtype is torch.float64 else x.lo.float() if place else x.hi.float()
        computed = norm(values).detach()
        assert bool(((computed >= found.lo) & (computed <= found.hi)).all())
        line = [mpmath.mpf(v) for v in values[0].tolist()]
        scale = mpmath.sqrt(mpmath.fdot(line, line) / width + mpmath.mpf(1e-5))
        assert holds(found, [v / scale * mpmath.mpf(w) for v, w in zip(line, weight.tolist(), strict=True)], 0)


def test_a_box_that_is_one_unit_too_narrow_is_noticed():
    """What the tests above can see: without the widening they fail."""
    rng = np.random.default_rng(4)
    x = boxes(rng, 200)
    bare = Box(x.lo * torch.sigmoid(x.lo), x.hi * torch.sigmoid(x.hi))
    values = [mpmath.mpf(v) / (1 + mpmath.exp(-mpmath.mpf(v))) for v in x.lo.tolist()]
    assert not holds(bare, values)
