"""What is kept of boxes holds them; how much is kept and computed at a time goes by the room that there is."""

import pytest
import torch

from length_gen.datamodules.automaton.windows import of_trajectories
from length_gen.lightning_modules.certification import mamba
from length_gen.lightning_modules.certification.bounds import Box
from length_gen.lightning_modules.certification.fixpoint import KEPT, inside, short_windows, single
from length_gen.lightning_modules.certification.graph import Graph
from tests.exact import task, trajectories


@pytest.mark.parametrize("bits", [0, 12])
def test_what_is_kept_holds_the_box_and_is_not_much_wider(bits):
    torch.manual_seed(0)
    ends = torch.randn(2, 10000, dtype=torch.float64) * 10 ** torch.empty(10000, dtype=torch.float64).uniform_(-12, 6)
    box = Box(ends.amin(0), ends.amax(0))
    kept = single(box, bits)
    assert inside(box, kept)
    for end, old in zip(kept, box, strict=True):
        assert bool((end.float().view(torch.int32) % 2**bits == 0).all())
        assert bool(((end - old).abs() <= 2.0 ** (bits - 23) * old.abs()).all())
    assert inside(single(kept, bits), kept)


def test_short_windows_are_as_long_as_there_is_room():
    graph = Graph.of(of_trajectories(trajectories(100), task().vocabulary(), 3))
    nodes = [graph.shorter(length)[0].nodes for length in (1, 2)]
    lengths = [short_windows(graph, states)[0].windows.shape[1] for states in (1, KEPT // 8 // nodes[1],
                                                                               KEPT // 8 // nodes[1] + 1, KEPT)]
    assert lengths == [2, 2, 1, 1]


def test_what_pytorch_holds_of_a_gpu_is_free(monkeypatch):
    memory = {"mem_get_info": (10**9, 80 * 10**9), "memory_reserved": 70 * 10**9, "memory_allocated": 11 * 10**9}
    for name, value in memory.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert mamba.cells(torch.device("cuda")) == 60 * 10**9 // mamba.CELL_BYTES
