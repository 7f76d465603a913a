"""A graph of the windows of sampled trajectories: no proof of anything, for tests of what is done with one."""

import numpy as np
import torch

from length_gen.datamodules.tokens import PREDICTED, Kind
from length_gen.lightning_modules.certification.graph import Graph


def shown(task, trajectory):
    """Ids of what a model reads that reads the last token of the question only, and which of them it predicts."""
    first = sum(kind == Kind.PROMPT for kind in trajectory.kinds) - 1
    ids = task.vocabulary().encode(trajectory.tokens)[first:].astype(np.int64)
    return ids, np.isin(np.frombuffer(bytes(trajectory.kinds), np.uint8)[first:], list(PREDICTED))


def sampled_graph(rows, K):
    """rows: (ids, predicted) each; the graph of their windows of K tokens."""
    nodes, edges, wanted = {(-1,) * K: 0}, {}, [-1]
    for ids, predicted in rows:
        window = (-1,) * K
        for token, told in zip(ids.tolist(), predicted.tolist(), strict=True):
            if told:
                assert wanted[nodes[window]] in (-1, token), "K is too small"
                wanted[nodes[window]] = token
            after = (*window[1:], token)
            if after not in nodes:
                nodes[after] = len(nodes)
                wanted.append(-1)
            edges[nodes[window], token] = nodes[after]
            window = after
    table = torch.tensor(sorted((target, source, token) for (source, token), target in edges.items()))
    return Graph(torch.tensor(list(nodes)), *table[:, [1, 2, 0]].T.contiguous(), torch.tensor(wanted), 0)


def path(graph, ids):
    """The edges that a trajectory takes."""
    found = {(int(s), int(t)): i for i, (s, t) in enumerate(zip(graph.source, graph.token, strict=True))}
    node, edges = graph.root, []
    for token in ids.tolist():
        edges.append(found[node, token])
        node = int(graph.target[edges[-1]])
    return edges
