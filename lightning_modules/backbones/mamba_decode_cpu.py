"""One decoding step of a small Mamba on the CPU: a compiled function a layer, where PyTorch would need twenty calls."""

import torch
from torch import Tensor

from length_gen.lightning_modules.backbones import scan_cpu
from length_gen.lightning_modules.backbones.decoder import StepDecoder

MOST_PARAMETERS = 2**19
"""Weights that fit into a core's cache; the products of larger ones are for a library."""


def can_decode(backbone) -> bool:
    """Whether the compiled step is for a Mamba of this size and type."""
    return backbone.num_parameters <= MOST_PARAMETERS and backbone.lm_head.weight.dtype == torch.float32


class CompiledDecoder(StepDecoder):
    """Steps of a Mamba on the CPU in float32, by its weights as they are when this is made."""

    def __init__(self, backbone, rows: int, length: int) -> None:
        super().__init__(backbone, rows, length)
        embedding, blocks, norm, head = backbone.parts
        self.embedding, self.layers = embedding.weight.detach(), [_weights(block) for block in blocks]
        self.head = _array(norm.weight), norm.eps, _array(head.weight.t())

    def step(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding[tokens]
        logits = hidden.new_empty(len(tokens), self.backbone.vocab_size)
        values = hidden.numpy()
        for weights, state in zip(self.layers, self.state, strict=True):
            scan_cpu.block_step(values, *weights, *(part.numpy() for part in state))
        scan_cpu.score(values, *self.head, logits.numpy())
        return logits


def _weights(block) -> tuple:
    """What `scan_cpu.block_step` takes of a block."""
    mixer = block.mixer
    return (_array(block.norm.weight), block.norm.eps, _array(mixer.in_proj.weight.t()), _array(mixer.filter.t()),
            _array(mixer.conv1d.bias), _array(mixer.x_proj.weight.t()), _array(mixer.dt_proj.weight.t()),
            _array(mixer.dt_proj.bias), float(mixer.dt_floor), _array(-torch.exp(mixer.A_log)), _array(mixer.D),
            _array(mixer.out_proj.weight.t()))


def _array(weight: Tensor):
    return weight.detach().contiguous().numpy()
