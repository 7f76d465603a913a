"""The windows of the last K tokens of all trajectories of all lengths, as tensors on a device."""

from collections.abc import Callable

import torch
from torch import Tensor

from length_gen.datamodules.automaton.windows import Automaton
from length_gen.lightning_modules.certification.bounds import Box


class Graph:
    """Nodes are windows, edges append a token; every trajectory is a path that begins at the root.

    windows: int64 [nodes, K], -1 before the first token that the model reads
    source, token, target: int64 [edges], sorted by target
    wanted:  int64 [nodes], the token that the model has to predict there; -1 where it predicts none
    root:    the node before the first token; no edge leads to it

    Raises ValueError if a node but the root has no edge to it, or the root has one.
    """

    def __init__(self, windows: Tensor, source: Tensor, token: Tensor, target: Tensor, wanted: Tensor,
                 root: int) -> None:
        self.windows, self.source, self.token, self.target = windows, source, token, target
        self.wanted, self.root = wanted, root
        self.nodes, self.edges = len(windows), len(source)
        self.degrees = torch.bincount(target, minlength=self.nodes)
        if bool((target[1:] < target[:-1]).any()):
            raise ValueError("edges are not sorted by their target")
        orphans = torch.nonzero(self.degrees == 0)[:, 0].tolist()
        if orphans != [root]:
            raise ValueError(f"nodes without an edge to them are {orphans[:5]}, and only the root {root} may be one")
        self.starts = torch.cat([self.degrees.new_zeros(1), self.degrees.cumsum(0)])

    @classmethod
    def of(cls, automaton: Automaton, device: torch.device | str = "cpu") -> "Graph":
        """The graph of an automaton, on a device."""
        windows, source, target, wanted = (torch.as_tensor(part, dtype=torch.long, device=device) for part in (
            automaton.windows, automaton.source, automaton.target, automaton.wanted))
        return cls(windows, source, windows[target, -1], target, wanted, 0)

    def hull(self, edges: Box) -> Box:
        """The least boxes of nodes [nodes, ...] that hold those of all edges to them [edges, ...]; 0 at the root, where
        all states begin."""
        lo, hi = (reduce(end, self.degrees, kind) for end, kind in zip(edges, ("min", "max"), strict=True))
        lo[self.root], hi[self.root] = 0, 0
        return Box(lo, hi)

    def before(self, edges: Tensor) -> tuple[Tensor, Callable[[Box], Box]]:
        """The edges that lead to where these begin, and what makes hulls at these [edges, ...] of boxes there; 0 where
        they begin at the root."""
        nodes, place = torch.unique(self.source[edges], return_inverse=True)
        degrees = self.degrees[nodes]
        shift = self.starts[nodes] - (degrees.cumsum(0) - degrees)
        earlier = torch.repeat_interleave(shift, degrees)
        earlier += torch.arange(len(earlier), device=earlier.device)
        first = nodes == self.root

        def hull(box: Box) -> Box:
            lo, hi = (reduce(end, degrees, kind) for end, kind in zip(box, ("min", "max"), strict=True))
            lo[first], hi[first] = 0, 0
            return Box(lo[place], hi[place])

        return earlier, hull

    def ending_alike(self, length: int) -> list[Tensor]:
        """The edges in groups: those that lead to windows with the same last `length` tokens."""
        windows = self.windows[self.target][:, self.windows.shape[1] - length:]
        _, group = torch.unique(windows, dim=0, return_inverse=True)
        return list(torch.split(torch.argsort(group, stable=True), torch.bincount(group).tolist()))

    def shorter(self, length: int) -> tuple["Graph", Tensor, Tensor]:
        """The graph of the windows' last `length` tokens, the node in it of every node, and its edge of every edge."""
        windows, node = torch.unique(self.windows[:, self.windows.shape[1] - length:], dim=0, return_inverse=True)
        # The root's window is its alone: that of -1 throughout.
        ends = torch.stack([node[self.target], node[self.source], self.token], 1)
        unique, edge = torch.unique(ends, dim=0, return_inverse=True)
        target, source, token = unique.T.contiguous()
        wanted = torch.full((len(windows),), -1, dtype=torch.long, device=windows.device)
        graph = Graph(windows, source, token, target, wanted, int(node[self.root]))
        return graph, node, edge


def reduce(values: Tensor, lengths: Tensor, kind: str) -> Tensor:
    """`min` or `max` over runs of rows of [rows, ...], so many rows each."""
    return torch.segment_reduce(values.contiguous(), kind, lengths=lengths, axis=0, unsafe=True)
