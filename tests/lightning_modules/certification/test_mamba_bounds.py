"""The states and outputs of a model, on random trajectories, lie in what its bounds say."""

import numpy as np
import pytest
import torch

from length_gen.datamodules.automaton.windows import of_trajectories
from length_gen.lightning_modules.backbones import Mamba
from length_gen.lightning_modules.certification.bounds import Rounding
from length_gen.lightning_modules.certification.graph import Graph
from length_gen.lightning_modules.certification.mamba import MambaBounds
from tests.exact import task, trajectories

VOCABULARY = task().vocabulary()


@pytest.fixture(scope="module")
def graph():
    return Graph.of(of_trajectories(trajectories(1000), VOCABULARY, 8))


def model(layers=2, width=16, seed=0):
    torch.manual_seed(seed)
    made = Mamba(len(VOCABULARY), layers, width, d_state=4, dt_floor=0.5, taps=[4, 3], initializer_range=1.0,
                 tie_embeddings=False)
    for block in made.parts[1]:
        torch.nn.init.normal_(block.norm.weight, 1, 0.3)
        torch.nn.init.normal_(block.mixer.D)
    return made


def runs(made, graph, rows, dtype):
    """Token by token, all rows side by side: nodes reached [B], states, logits, and who has not ended."""
    made = made.to(dtype)
    ids = [torch.from_numpy(VOCABULARY.encode(row.tokens).astype(np.int64)) for row in rows]
    tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=-1)
    after = torch.full((graph.nodes, len(VOCABULARY)), -1)
    after[graph.source, graph.token] = graph.target
    state, nodes = made.initial_state(len(rows)), torch.full((len(rows),), graph.root)
    for column in tokens.T:
        going = column >= 0
        with torch.no_grad():
            logits, state = made.step(column.clamp(min=0), state)
        nodes = torch.where(going, after[nodes, column.clamp(min=0)], nodes)
        assert bool((nodes >= 0).all())
        yield nodes, state, logits.double(), going


def outside(values, box, nodes, going):
    """Whether a value of a row that goes on [B, ...] lies outside its node's box."""
    wrong = (values < box.lo[nodes]) | (values > box.hi[nodes])
    return bool(wrong[going].any())


@pytest.mark.parametrize(("dtype", "u", "count"), [(torch.float64, 2.0**-53, 1000), (torch.float32, 2.0**-24, 200)])
def test_real_runs_lie_within(graph, dtype, u, count):
    made, kept = model(), []
    bounds = MambaBounds(made, graph, Rounding(u))
    bounds.keep = lambda name, box: kept.append((name, box))
    with torch.no_grad():
        margins = bounds.margins()
    taps, states = ([box for name, box in kept if name == kind] for kind in ("convolution", "state"))
    assert len(taps) == 2 and len(states) == 2
    close, decisions = torch.inf, 0
    for nodes, state, logits, going in runs(made, graph, trajectories(1000)[:count], dtype):
        for layer, (recent, h) in enumerate(state):
            assert not outside(recent[:, -1], taps[layer], nodes, going)  # those before it were when it was their turn
            assert not outside(h, states[layer], nodes, going)
        wanted = graph.wanted[nodes]
        rows = torch.nonzero(going & (wanted >= 0))[:, 0]
        right = logits[rows, wanted[rows]]
        real = right - logits[rows].scatter(1, wanted[rows, None], -torch.inf).amax(1)
        assert bool((real >= margins[nodes[rows]]).all())
        decisions += len(rows)
        close = min(close, float((real - margins[nodes[rows]]).min())) if len(rows) else close
    assert decisions > 10 * count and close < 2  # and the bounds say something


def test_bounds_that_leave_the_rounding_out_are_left(graph):
    """What the test above can see: states in float32 leave boxes for real arithmetic."""
    made, kept = model(), []
    bounds = MambaBounds(made, graph, Rounding(0.0))
    bounds.keep = lambda name, box: kept.append(box) if name == "convolution" else None
    with torch.no_grad():
        bounds.margins()
    assert any(outside(state[0][0][:, -1], kept[0], nodes, going)
               for nodes, state, _, going in runs(made, graph, trajectories()[:20], torch.float32))


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
