"""The least margin of every decision of a model over all that may have come before.

A family of models is certified by a subclass of `LayeredBounds`, which says what a layer can put out.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from length_gen.lightning_modules.backbones.layered import LayeredBackbone
from length_gen.lightning_modules.certification.bounds import Box, Rounding
from length_gen.lightning_modules.certification.graph import Graph
from length_gen.lightning_modules.certification.stream import Stream, blocks


class LayeredBounds(ABC):
    """Bounds of an embedding, residual layers, an RMS norm and a head without bias, layer by layer.

    keep:   called with what a layer finds, a name and a box of nodes; it does nothing unless it is replaced
    number: of the layer that is at work
    """

    def __init__(self, backbone: LayeredBackbone, graph: Graph, rounding: Rounding) -> None:
        self.backbone, self.graph, self.rounding = backbone, graph, rounding
        self.keep: Callable[[str, Box], Any] = lambda name, box: None
        self.number = 0

    @abstractmethod
    def layer(self, block: nn.Module, stream: Stream, progress: Callable[[float], None]) -> tuple[Box, Tensor]:
        """What a layer adds to the stream: matrix [d, D] @ g for g in a box [edges, D]; box and matrix.

        Raises NotFadingError where nothing can be said.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the weights do not say, for a certificate."""

    def weight(self, parameter: Tensor) -> Tensor:
        """A parameter in float64, exactly, on the graph's device."""
        return parameter.detach().to(self.graph.source.device, torch.float64)

    def margins(self, progress: Callable[[float], None] = lambda part: None) -> Tensor:
        """By how many logits the wanted token's exceeds every other's, at least, at every node [nodes]; infinite where
        none is wanted. Where it is positive, the model's choice is proved.

        progress: called with the part of a layer that is done
        """
        embedding, layers, norm, head = self.backbone.parts
        stream = Stream(self.weight(embedding.weight), self.graph.token, self.rounding)
        for self.number, block in enumerate(layers):
            stream.add(*self.layer(block, stream, progress))
        return self._judged(stream, self.weight(norm.weight), norm.eps, self.weight(head.weight))

    def _judged(self, stream: Stream, weight: Tensor, eps: float, head: Tensor) -> Tensor:
        """The least margins at the nodes; judged before the norm's positive scale, which does not change a sign."""
        graph, rounding = self.graph, self.rounding
        wanted = graph.wanted[graph.target]
        least = torch.full((graph.edges,), torch.inf, dtype=torch.float64, device=wanted.device)
        for token in torch.unique(wanted[wanted >= 0]).tolist():
            others = torch.arange(len(head), device=wanted.device) != token
            matrix = (head[token] - head[others]) * weight
            sizes = (head[token].abs() + head[others].abs()) * weight.abs()
            composed = stream.compose(matrix)
            edges = torch.nonzero(wanted == token)[:, 0]
            for block in blocks(len(edges)):
                rows = edges[block]
                ahead = stream.functional(rows, matrix, composed)
                # Of two logits each is off by the roundings of its own sum, before they are compared.
                most = stream.centre[rows].abs() + stream.radius[rows]
                slack = rounding.gamma(4 * matrix.shape[1]) * (most @ sizes.mT)
                scale = stream.inverse_rms(rows, eps)
                low = ahead.lo - slack
                least[rows] = torch.where(low > 0, low * scale.lo, low * scale.hi).amin(1)
        least = torch.nan_to_num(least, nan=-torch.inf, posinf=torch.inf)
        nodes = torch.full((graph.nodes,), torch.inf, dtype=torch.float64, device=least.device)
        return nodes.scatter_reduce(0, graph.target, least, "amin")
