"""What the layers of a Mamba can put out, edge by edge, with the boxes of their recurrent state."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from length_gen.lightning_modules.backbones.layered import Block
from length_gen.lightning_modules.backbones.mamba import Mamba
from length_gen.lightning_modules.certification.bounds import FUNCTION, Box, Rounding, corners
from length_gen.lightning_modules.certification.fixpoint import fixpoint, short_windows
from length_gen.lightning_modules.certification.graph import Graph
from length_gen.lightning_modules.certification.model_bounds import LayeredBounds
from length_gen.lightning_modules.certification.stream import Stream, blocks

CELLS = 4_000_000
"""Elements of the largest arrays on a CPU, whose caches like them small: states of as many channels at once as fit."""

CELL_BYTES = 600
"""What an element of the largest arrays costs on a GPU at most, with all of the arrays that are there beside it."""


class MambaBounds(LayeredBounds):
    """Bounds of a Mamba with any number of blocks."""

    def __init__(self, backbone: Mamba, graph: Graph, rounding: Rounding) -> None:
        super().__init__(backbone, graph, rounding)
        self.short = short_windows(graph)

    def layer(self, block: Block, stream: Stream, progress: Callable[[float], None]) -> tuple[Box, Tensor]:
        return MambaLayer(block, self.graph, self.rounding, self.short, self.keep).bounds(stream, progress), \
            self.weight(block.mixer.out_proj.weight)

    def settings(self) -> dict[str, Any]:
        blocks = self.backbone.parts[1]
        return {"floors": [block.mixer.dt_floor for block in blocks], "taps": [block.mixer.taps for block in blocks],
                "epsilons": [*(block.norm.eps for block in blocks), self.backbone.parts[2].eps]}


class MambaLayer:
    """Bounds of one block: norm, input projection, convolution, selection, scan, gate.

    keep: called with a name and a box of nodes: `convolution` (each of the last inputs), `state` and `short` (channels)
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
        self.rates = rounding.widened(Box(rates, rates), FUNCTION)
        self.channels, self.states = rates.shape

    def bounds(self, stream: Stream, progress: Callable[[float], None]) -> Box:
        """y silu(z) [edges, D], what the output projection takes.

        progress: called with the part of the work that is done

        Raises NotFadingError where a state is not proved to fade.
        """
        inputs, gate = self._inwards(stream)
        u = self.rounding.silu(self._convolved(inputs))
        steps, inputs, outputs = self._selected(u)
        y = self._scanned(u, steps, inputs, outputs, progress)
        y = self.rounding.add(y, self.rounding.multiply(Box(self.skip, self.skip), u))
        return self.rounding.multiply(y, self.rounding.silu(gate))

    def _inwards(self, stream: Stream) -> tuple[Box, Box]:
        """Inputs of convolution and gate [edges, D] each."""
        composed = stream.compose(self.inwards * self.norm)
        parts = [stream.project(rows, self.inwards, self.norm, self.eps, composed)
                 for rows in blocks(self.graph.edges)]
        box = Box(torch.cat([part.lo for part in parts]), torch.cat([part.hi for part in parts]))
        return box[:, : self.channels], box[:, self.channels :]

    def _convolved(self, inputs: Box) -> Box:
        """The convolution [edges, D] of the inputs of an edge and of what its node kept of those before."""
        box, width = inputs, self.taps.shape[1]
        centre, spread = self.bias, self.rounding.gamma(width + 2) * self.bias.abs()
        for back in range(width):
            if back:
                kept = self.graph.hull(box)
                self.keep("convolution", kept)
                box = kept[self.graph.source]
            tap = self.taps[:, width - 1 - back]
            middle, radius = box.centred()
            centre = centre + middle * tap
            spread = spread + (radius + self.rounding.gamma(width + 4) * (middle.abs() + radius)) * tap.abs()
        return self.rounding.around(centre, spread * (1 + self.rounding.gamma(width)))

    def _selected(self, u: Box) -> tuple[Box, Box, Box]:
        """Step sizes [edges, D], input and output matrices [edges, N], for the convolution's outputs u."""
        rank, rounding = self.step.shape[1], self.rounding
        low, others = self.selection[:rank], self.selection[rank:]
        # Composed: a step size is linear in u.
        steps = rounding.linear(u, self.step @ low, self.step_bias, self.step.abs() @ low.abs(), rank + 8)
        steps = rounding.softplus(steps)
        steps = rounding.add(steps, Box(*(torch.full_like(end, self.floor) for end in steps)))
        both = rounding.linear(u, others)
        return steps, both[:, : self.states], both[:, self.states :]

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
        return Box(torch.cat([part.lo for part in parts], 1), torch.cat([part.hi for part in parts], 1))


def cells(device: torch.device) -> int:
    """Elements that the largest arrays may have: many on a GPU, where each piece costs thousands of launches."""
    return torch.cuda.mem_get_info(device)[0] // CELL_BYTES if device.type == "cuda" else CELLS
