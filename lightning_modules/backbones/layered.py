"""What models of stacked layers have in common: embedding, layers that keep a state each, norm, head.

On CUDA blocks of norm and mixer take another way through the same formulas: the residual addition and the next norm are
one kernel (`add_blocks`), unless a part was changed (`unchanged`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from length_gen.lightning_modules.backbones.base import Backbone, State, state_bytes
from length_gen.lightning_modules.backbones.library_kernels import norm_kernel


class Layer(nn.Module, ABC):
    """One layer of a residual stream, the residual connection included, or a mixer inside one.

    forwards: methods beside `forward` that a training step calls, for which a sharded layer gathers its parameters
    """

    forwards: tuple[str, ...] = ()

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """State before the first token, for `batch_size` rows."""

    @abstractmethod
    def forward(self, hidden: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        """The layer on hidden [B, T, d_model] from `state`, which is not modified; None: from the first token, leaving
        no state."""

    @abstractmethod
    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        """The same for one token a row, hidden [B, d_model]; `state` may be updated in place."""

    def reserve(self, state: State, length: int) -> State:
        """The state with room for `length` tokens in all."""
        return state

    def state_size(self, length: int) -> int:
        """Bytes of one row's state after `length` tokens."""
        return state_bytes(self.initial_state(1))


class LayeredBackbone(Backbone):
    """Embedding, layers, norm, head. State: a list with that of each layer.

    The parts are where mamba-ssm's checkpoints have them; other families say where theirs are.
    """

    def stack(self, d_model: int, mixers: Iterable[Layer], norm_eps: float, deviation: float, tied: bool) -> None:
        """Make the parts, with a block around each mixer, as mamba-ssm starts what surrounds the mixers.

        deviation: of the embedding
        tied:      whether the head shares the embedding's weights
        """
        self.backbone = nn.ModuleDict({
            "embedding": nn.Embedding(self.vocab_size, d_model),
            "layers": nn.ModuleList(Block(d_model, mixer, norm_eps) for mixer in mixers),
            "norm_f": nn.RMSNorm(d_model, norm_eps)})
        self.lm_head = nn.Linear(d_model, self.vocab_size, bias=False)
        embedding, blocks, _, head = self.parts
        nn.init.normal_(embedding.weight, std=deviation)
        if tied:
            head.weight = embedding.weight
        for block in blocks:
            # One residual branch a block: the sum over blocks keeps its variance.
            output = getattr(block.mixer, "out_proj", None) or block.mixer.o_proj
            nn.init.kaiming_uniform_(output.weight, a=math.sqrt(5))
            with torch.no_grad():
                output.weight /= math.sqrt(len(blocks))

    @property
    def parts(self) -> tuple[nn.Embedding, Sequence[Layer], nn.Module, nn.Linear]:
        """Embedding, layers, last norm, head: what all methods go by."""
        return self.backbone["embedding"], self.backbone["layers"], self.backbone["norm_f"], self.lm_head

    @property
    def description(self) -> str:
        embedding, layers, _, _ = self.parts
        return f"{type(self).__name__.lower()} {len(layers)}x{embedding.embedding_dim}"

    def initial_state(self, batch_size: int) -> State:
        return [layer.initial_state(batch_size) for layer in self.parts[1]]

    def reserve(self, state: State, length: int) -> State:
        return [layer.reserve(part, length) for layer, part in zip(self.parts[1], state, strict=True)]

    def state_size(self, length: int) -> int:
        return sum(layer.state_size(length) for layer in self.parts[1])

    def forward(self, tokens: Tensor, state: State | None = None, return_state: bool = True) -> tuple[Tensor, State]:
        hidden, state = self._features(tokens, state, return_state)
        return self.parts[3](hidden), state

    def logits_at(self, tokens: Tensor, chosen: Tensor) -> Tensor:
        if not unchanged(self, LayeredBackbone, "forward"):
            return super().logits_at(tokens, chosen)
        return self.parts[3](self._features(tokens, None, return_state=False)[0][chosen])

    def prefill(self, tokens: Tensor, state: State) -> State:
        if not unchanged(self, LayeredBackbone, "forward"):
            return super().prefill(tokens, state)
        return self._features(tokens, state, return_state=True)[1]

    def _features(self, tokens: Tensor, state: State | None, return_state: bool) -> tuple[Tensor, State | None]:
        """What the head takes, [B, T, d_model], and the new state."""
        embedding, layers, norm, _ = self.parts
        if state is not None:
            self.check_state(state, len(tokens))
        elif return_state:
            state = self.initial_state(len(tokens))
        if (tokens.is_cuda and all(unchanged(layer, Block, "forward", "add") for layer in layers)
                and all(type(part) is nn.RMSNorm for part in (norm, *(layer.norm for layer in layers)))
                and (add_norm := norm_kernel())):
            hidden, new = add_blocks(embedding(tokens), layers, norm, add_norm, state)
            return hidden, new if return_state else None
        hidden, new = embedding(tokens), []
        for i, layer in enumerate(layers):
            hidden, layer_state = layer(hidden, state and state[i])
            new.append(layer_state)
        return norm(hidden), new if return_state else None

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        embedding, layers, norm, head = self.parts
        self.check_state(state, len(tokens))
        hidden, new = embedding(tokens), []
        for layer, layer_state in zip(layers, state, strict=True):
            hidden, layer_state = layer.step(hidden, layer_state)
            new.append(layer_state)
        return head(norm(hidden)), new


def unchanged(module: nn.Module, base: type, *names: str) -> bool:
    """Whether a module has these methods from `base`, unchanged: only then may something faster take their place."""
    return all(getattr(type(module), name, None) is getattr(base, name) for name in names)


def add_blocks(hidden: Tensor, blocks: Iterable["Block"], last: nn.RMSNorm, add_norm: Callable,
               state: State | None = None) -> tuple[Tensor, State | None]:
    """Blocks on hidden [B, T, d_model], and the norm after the last: [B, T, d_model], and the new state.

    state:    None: from the first token, and without a new state
    add_norm: mamba-ssm's `layer_norm_fn`, residual addition and norm in one, with the residual stream in float32
    """
    residual, new = None, []
    for i, block in enumerate(blocks):
        hidden, residual, block_state = block.add(hidden, residual, add_norm, state and state[i])
        new.append(block_state)
    hidden = add_norm(hidden, last.weight, None, residual=residual, eps=last.eps, residual_in_fp32=True,
                      is_rms_norm=True)
    return hidden, None if state is None else new


class Block(Layer):
    """Residual connection around norm and mixer; its state is the mixer's."""

    forwards = ("add",)

    def __init__(self, d_model: int, mixer: Layer, norm_eps: float) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(d_model, norm_eps)
        self.mixer = mixer

    def initial_state(self, batch_size: int):
        return self.mixer.initial_state(batch_size)

    def reserve(self, state, length: int):
        return self.mixer.reserve(state, length)

    def state_size(self, length: int) -> int:
        return self.mixer.state_size(length)

    def forward(self, hidden: Tensor, state=None):
        update, state = self.mixer(self.norm(hidden), state)
        return hidden + update, state

    def add(self, hidden: Tensor, residual: Tensor | None, add_norm: Callable,
            state=None) -> tuple[Tensor, Tensor, State | None]:
        """Add `hidden` [B, T, d_model] to the residual stream and let the mixer take the normed sum; see `add_blocks`.

        residual: float32 [B, T, d_model]; None: 0. Returns the mixer's update, the sum, and the mixer's new state.
        """
        normed, residual = add_norm(hidden, self.norm.weight, None, residual=residual, eps=self.norm.eps, prenorm=True,
                                    residual_in_fp32=True, is_rms_norm=True)
        update, state = self.mixer(normed, state)
        return update, residual, state

    def step(self, hidden: Tensor, state):
        update, state = self.mixer.step(self.norm(hidden), state)
        return hidden + update, state
