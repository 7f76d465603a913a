"""What the layers of a Mamba can put out, edge by edge, with the boxes of their recurrent state."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from length_gen.lightning_modules.backbones.layered import Block
from length_gen.lightning_modules.backbones.mamba import Mamba
from length_gen.lightning_modules.certification.bounds import FUNCTION, Box, Rounding, corners, point
from length_gen.lightning_modules.certification.convolution import Convolution
from length_gen.lightning_modules.certification.fixpoint import fixpoint, short_windows
from length_gen.lightning_modules.certification.graph import Graph
from length_gen.lightning_modules.certification.model_bounds import LayeredBounds
from length_gen.lightning_modules.certification.stream import Normalized, Stream, blocks, joined

CELLS = 4_000_000
"""Elements of the largest arrays on a CPU, whose caches like them small: states of as many channels at once as fit."""

CELL_BYTES = 600
"""What an element of the largest arrays costs on a GPU at most, with all of the arrays that are there beside it."""


class MambaBounds(LayeredBounds):
    """Bounds of a Mamba with any number of blocks."""

    def __init__(self, backbone: Mamba, graph: Graph, rounding: Rounding) -> None:
        super().__init__(backbone, graph, rounding)
        layers = backbone.parts[1]
        self.short = short_windows(graph, sum(block.mixer.A_log.numel() for block in layers))

    def layer(self, block: Block, stream: Stream, progress: Callable[[float], None]) -> tuple[Box, Tensor]:
        return MambaLayer(block, self.graph, self.rounding, self.short, self.keep).bounds(stream, progress), \
            self.weight(block.mixer.out_proj.weight)

    def settings(self) -> dict[str, Any]:
        blocks = self.backbone.parts[1]
        return {"floors": [block.mixer.dt_floor for block in blocks], "taps": [block.mixer.taps for block in blocks],
                "epsilons": [*(block.norm.eps for block in blocks), self.backbone.parts[2].eps]}


class MambaLayer:
    """Bounds of one block: norm, input projection, convolution, selection, scan, gate.

    keep: called with a name and a box of nodes: `convolution` (the last input), `state` and `short` (channels)
    """

    def __init__(self, block: Block, graph: Graph, rounding: Rounding, short: tuple, keep: Callable) -> None:
        self.graph, self.rounding, self.short, self.keep = graph, rounding, short, keep
        mixer, device = block.mixer, graph.source.device

        def weight(parameter: Tensor) -> Tensor:
            return parameter.detach().to(device, torch.float64)

        self.norm, self.eps = weight(block.norm.weight), block.norm.eps
        self.inwards, self.taps = weight(mixer.in_proj.weight), weight(mixer.filter)
        self.bias, self.selection = weight(mixer.conv1d.bias), weight(mixer.x_proj.weight)
        self.step, self.step_bias = weight(mixer.dt_proj.weight), weight(mixer.dt_proj.bias)
        self.floor, self.skip = mixer.dt_floor, weight(mixer.D)
        rates = -torch.exp(weight(mixer.A_log))
        self.rates = rounding.widened(Box(rates, rates), FUNCTION + 2 * math.ceil(float(mixer.A_log.abs().max())))
        self.channels, self.states = rates.shape

    def bounds(self, stream: Stream, progress: Callable[[float], None]) -> Box:
        """y silu(z) [edges, D], what the output projection takes.

        progress: called with the part of the work that is done

        Raises NotFadingError where a state is not proved to fade.
        """
        normed = Normalized(stream, self.norm, self.eps)
        u, *selected = self._selected(normed)
        y = self._scanned(u, *selected, progress)
        del selected  # of what is [edges, D] only what is still needed stays: at 24 x 768 one takes 0.5 GB
        y = self.rounding.add(y, self.rounding.multiply(point(self.skip), u))
        del u
        return self.rounding.multiply(y, self.rounding.silu(self._read(normed, self.inwards[self.channels :])))

    def _read(self, normed: Normalized, matrix: Tensor) -> Box:
        """matrix @ norm(x) [edges, D] for the stream x."""
        composed = normed.compose(matrix)
        return joined([normed.project(rows, matrix, composed) for rows in blocks(self.graph.edges)])

    def _selected(self, normed: Normalized) -> tuple[Box, Box, Box, Box]:
        """The convolution's outputs u and step sizes [edges, D], input and output matrices [edges, N]."""
        matrix = self.inwards[: self.channels]
        inputs = self._read(normed, matrix)
        self.keep("convolution", self.graph.hull(inputs))
        convolution = Convolution(self.graph, self.rounding, normed, matrix, inputs, self.taps, self.bias)
        del inputs
        rank, states = self.step.shape[1], self.states
        low, others = self.selection[:rank], self.selection[rank:]
        # Composed: a step size is softplus of what is linear in the convolution's outputs.
        box = convolution.through(torch.cat([self.step @ low, others]),
                                  torch.cat([self.step_bias, self.step_bias.new_zeros(2 * states)]),
                                  torch.cat([self.step.abs() @ low.abs(), others.abs()]), rank + 8)
        steps = self.rounding.softplus(box[:, : self.channels])
        steps = self.rounding.add(steps, Box(*(torch.full_like(end, self.floor) for end in steps)))
        inputs, outputs = (Box(part.lo.clone(), part.hi.clone()) for part in (  # not views of all
            box[:, self.channels : self.channels + states], box[:, self.channels + states :]))
        return convolution.outputs, steps, inputs, outputs

    def _scanned(self, u: Box, steps: Box, inputs: Box, outputs: Box, progress: Callable[[float], None]) -> Box:
        """C h [edges, D] of the state h after an edge's token, over all paths to it."""
        rounding, parts = self.rounding, []
        moved = rounding.multiply(steps, u)
        size = max(1, cells(moved.lo.device) // (self.graph.edges * self.states))
        error = rounding.gamma(2 * self.states)
        for chosen in blocks(self.channels, size):
            decay = rounding.decay(steps[:, chosen, None], self.rates[chosen])
            drive = rounding.widened(corners(moved[:, chosen, None], inputs[:, None]), 3)
            nodes, edges, short = fixpoint(self.graph, self.short, decay, drive, rounding)
            self.keep("state", nodes)
            self.keep("short", short)
            terms = corners(edges, outputs[:, None])
            slack = error * terms.size.sum(-1)
            parts.append(rounding.widened(Box(terms.lo.sum(-1) - slack, terms.hi.sum(-1) + slack), 2))
            progress((chosen.stop - chosen.start) / self.channels)
        return joined(parts, 1)


def cells(device: torch.device) -> int:
    """Elements that the largest arrays may have: many on a GPU, where each piece costs thousands of launches."""
    if device.type != "cuda":
        return CELLS
    free = torch.cuda.mem_get_info(device)[0]  # without what PyTorch holds for what comes next, which is free as well
    return (free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)) // CELL_BYTES
