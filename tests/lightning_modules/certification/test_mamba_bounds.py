"""The states and outputs of a model, on random trajectories, lie in what its bounds say."""

import numpy as np
import pytest
import torch

from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.certification.bounds import Rounding
from length_gen.lightning_modules.certification.graph import Graph
from length_gen.lightning_modules.certification.mamba import MambaBounds
from tests.exact import automaton, task, trajectories

VOCABULARY = task().vocabulary()


@pytest.fixture(scope="module")
def graph():
    return Graph.of(automaton(8))


def model(layers=2, width=16, seed=0):
    torch.manual_seed(seed)
    made = Mamba(len(VOCABULARY), layers, width, d_state=4, dt_floor=0.5, taps=[4, 3], initializer_range=1.0,
                 tie_embeddings=False)
    for block in made.parts[1]:
        torch.nn.init.normal_(block.norm.weight, 1, 0.3)
        torch.nn.init.normal_(block.mixer.D)
    return made


def runs(made, graph, rows, dtype):
    """Of every token of the rows: its edge, the state after it, the logits after it."""
    made = made.to(dtype)
    found = {ends: i for i, ends in enumerate(zip(graph.source.tolist(), graph.token.tolist(), strict=True))}
    for row in rows:
        state, node = made.initial_state(1), graph.root
        for token in VOCABULARY.encode(row.tokens).astype(np.int64).tolist():
            edge = found[node, token]
            node = int(graph.target[edge])
            with torch.no_grad():
                logits, state = made.step(torch.tensor([token]), state)
            yield edge, state, logits[0]


@pytest.mark.parametrize(("dtype", "u"), [(torch.float64, 2.0**-53), (torch.float32, 2.0**-24)])
def test_real_runs_lie_within(graph, dtype, u):
    made, kept = model(), []
    bounds = MambaBounds(made, graph, Rounding(u))
    bounds.keep = lambda name, box: kept.append((name, box))
    with torch.no_grad():
        margins = bounds.margins()
    taps, states = ([box for name, box in kept if name == kind] for kind in ("convolution", "state"))
    assert len(taps) == 2 * 3 and len(states) == 2
    close = torch.zeros(graph.nodes)
    for edge, state, logits in runs(made, graph, trajectories()[:6], dtype):
        node = int(graph.target[edge])
        for layer, (recent, h) in enumerate(state):
            for back in range(3):
                box = taps[3 * layer + back]
                assert bool(((recent[0, 2 - back] >= box.lo[node]) & (recent[0, 2 - back] <= box.hi[node])).all())
            assert bool(((h[0] >= states[layer].lo[node]) & (h[0] <= states[layer].hi[node])).all())
        if (wanted := int(graph.wanted[node])) >= 0:
            others = torch.cat([logits[:wanted], logits[wanted + 1 :]])
            real = float(logits[wanted] - others.max())
            assert real >= margins[node]
            close[node] = real - margins[node]
    assert float(close.max()) < 20  # and the bounds say something


def test_bounds_that_leave_the_rounding_out_are_left(graph):
    """What the test above can see: states in float32 leave boxes for real arithmetic."""
    made, kept = model(), []
    bounds = MambaBounds(made, graph, Rounding(0.0))
    bounds.keep = lambda name, box: kept.append(box) if name == "convolution" else None
    with torch.no_grad():
        bounds.margins()
    outside = 0
    for edge, state, _ in runs(made, graph, trajectories()[:2], torch.float32):
        recent, box = state[0][0][0, 2], kept[0]
        node = int(graph.target[edge])
        outside += int(((recent < box.lo[node]) | (recent > box.hi[node])).sum())
    assert outside > 0


def test_margins_do_not_depend_on_how_many_channels_go_at_a_time(graph, monkeypatch):
    made = model()
    with torch.no_grad():
        whole = MambaBounds(made, graph, Rounding()).margins()
        monkeypatch.setattr("length_gen.lightning_modules.certification.mamba.CELLS", 5 * 4 * graph.edges)
        parts = MambaBounds(made, graph, Rounding()).margins()
    finite = whole < torch.inf
    assert torch.allclose(whole[finite], parts[finite], atol=1e-3) and bool((parts[~finite] == torch.inf).all())


def test_a_tightened_model_is_still_held(graph):
    """A model whose choice cannot be told from its bounds has no margin, not a wrong one: all logits equal."""
    made = model()
    made.lm_head.weight.data.zero_()
    with torch.no_grad():
        margins = MambaBounds(made, graph, Rounding()).margins()
    assert float(margins.max()) == torch.inf and float(margins[graph.wanted >= 0].max()) <= 0
