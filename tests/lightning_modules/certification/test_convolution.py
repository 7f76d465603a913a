"""Whatever a stream is within its bounds, on whatever path, the convolution and what is linear in it lie in boxes."""

import pytest
import torch

from length_gen.datamodules.automaton.windows import of_trajectories
from length_gen.lightning_modules.certification import convolution
from length_gen.lightning_modules.certification.bounds import Box, Rounding
from length_gen.lightning_modules.certification.convolution import Convolution
from length_gen.lightning_modules.certification.graph import Graph
from length_gen.lightning_modules.certification.stream import Normalized, Stream
from tests.exact import task, trajectories

WIDTH, CHANNELS, OUTPUTS, EPS = 12, 20, 7, 1e-5


class Setup:
    """A stream of two layers with random boxes, and a convolution of random weights."""

    def __init__(self, spread, taps):
        torch.manual_seed(0)
        vocabulary = task().vocabulary()
        self.graph = Graph.of(of_trajectories(trajectories(100), vocabulary, 3))
        self.rounding = Rounding(2.0**-53)
        made = [torch.randn(*shape, dtype=torch.float64) for shape in (
            (len(vocabulary), WIDTH), (WIDTH, CHANNELS), (WIDTH, CHANNELS), (CHANNELS, WIDTH), (CHANNELS, taps),
            (CHANNELS,), (WIDTH,), (OUTPUTS, CHANNELS), (OUTPUTS,))]
        embedding, *self.updates, self.inwards, self.taps, self.bias, self.norm, self.matrix, self.shift = made
        self.embedding = embedding
        self.stream = Stream(embedding, self.graph.token, self.rounding)
        self.boxes = []
        for update in self.updates:
            centre = torch.randn(len(vocabulary), CHANNELS, dtype=torch.float64)[self.graph.token]
            radius = spread * torch.rand(self.graph.edges, CHANNELS, dtype=torch.float64)
            self.boxes.append(Box(centre - radius, centre + radius))
            self.stream.add(self.boxes[-1], update)
        normed = Normalized(self.stream, self.norm, EPS)
        self.inputs = normed.project(slice(0, self.graph.edges), self.inwards, normed.compose(self.inwards))
        self.convolution = Convolution(self.graph, self.rounding, normed, self.inwards, self.inputs, self.taps,
                                       self.bias)
        self.found = self.convolution.through(self.matrix, self.shift, self.matrix.abs(), 0)

    def paths(self, count, length):
        """Edges [count, length] of random paths from the root; they begin again there where they end."""
        leaving = [torch.nonzero(self.graph.source == node)[:, 0] for node in range(self.graph.nodes)]
        for _ in range(count):
            node, path = self.graph.root, []
            while len(path) < length and len(leaving[node]):
                path.append(int(leaving[node][torch.randint(len(leaving[node]), ())]))
                node = int(self.graph.target[path[-1]])
            yield torch.tensor(path)

    def values(self, path):
        """Sums and outputs of the convolution, and what is linear in them, along a path, by way of points in the boxes:
        ends more often than not."""
        x = self.embedding[self.graph.token[path]]
        for box, update in zip(self.boxes, self.updates, strict=True):
            place = torch.rand(len(path), CHANNELS, dtype=torch.float64)
            place = torch.where(torch.rand_like(place) < 0.7, place.round(), place)
            x = x + (box.lo[path] + place * (box.hi - box.lo)[path]) @ update.mT
        inputs = torch.nn.functional.rms_norm(x, (WIDTH,), self.norm, EPS) @ self.inwards.mT
        before = torch.nn.functional.pad(inputs, (0, 0, self.taps.shape[1] - 1, 0))
        sums = self.bias + sum(before[i : i + len(path)] * self.taps[:, i] for i in range(self.taps.shape[1]))
        return sums, torch.nn.functional.silu(sums), torch.nn.functional.silu(sums) @ self.matrix.mT + self.shift


@pytest.mark.parametrize("taps", [1, 4])
@pytest.mark.parametrize("spread", [1e-9, 1e-3, 0.1, 3.0])
def test_all_values_lie_within(spread, taps):
    setup = Setup(spread, taps)
    boxes = setup.convolution.sums, setup.convolution.outputs, setup.found
    for path in setup.paths(60, 40):
        for values, box in zip(setup.values(path), boxes, strict=True):
            assert bool(((values >= box.lo[path]) & (values <= box.hi[path])).all())


@pytest.mark.parametrize("taps", [1, 4])
def test_what_is_composed_is_never_wider_and_mostly_narrower(taps):
    setup = Setup(0.01, taps)
    plain = setup.rounding.linear(setup.convolution.outputs, setup.matrix, setup.shift, setup.matrix.abs(), 0)
    found = setup.found
    assert bool(((found.lo >= plain.lo) & (found.hi <= plain.hi) & (found.lo <= found.hi)).all())
    assert float((found.hi - found.lo).sum()) < 0.7 * float((plain.hi - plain.lo).sum())


def test_values_leave_boxes_that_forget_a_tap(monkeypatch):
    """What the test above can see: the oldest tap left out of what is composed."""
    whole = Convolution._past
    monkeypatch.setattr(convolution.Convolution, "_past", lambda self, rows, taps, inner: whole(
        self, rows, taps[:3], inner))
    setup = Setup(0.01, 4)
    assert any(bool(((values < setup.found.lo[path]) | (values > setup.found.hi[path])).any())
               for path in setup.paths(60, 40) for values in setup.values(path)[2:])
