"""Pythia (Biderman et al. 2023, arXiv 2304.01373): GPT-NeoX with full attention, parameter names of its checkpoints."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from length_gen.lightning_modules.backbones.attention import AttentionLayer, Cache, State, head_width, initialize
from length_gen.lightning_modules.backbones.base import check_sizes
from length_gen.lightning_modules.backbones.layered import Layer, LayeredBackbone
from length_gen.tools import UserError


class Pythia(LayeredBackbone):
    """Layers of attention and MLP side by side on one residual. The state is a cache that grows with every token.

    Args:
        vocab_size: number of tokens
        n_layer: number of layers
        d_model: width of the residual stream
        d_inner: width of the MLPs; null: 4 d_model
        n_head: attention heads; d_model is a multiple of it
        rotary_share: share of a head's channels that are rotated
        rope_theta: base of the rotary wavelengths
        initializer_range: standard deviation of all matrices at the start
        norm_eps: of the layer norms
    """

    def __init__(self, vocab_size: int, n_layer: int = 2, d_model: int = 64, d_inner: int | None = None,
                 n_head: int = 4, rotary_share: float = 0.25, rope_theta: float = 10_000.0,
                 initializer_range: float = 0.02, norm_eps: float = 1e-5) -> None:
        super().__init__(vocab_size)
        d_inner = 4 * d_model if d_inner is None else d_inner
        check_sizes("Pythia", n_layer=n_layer, d_model=d_model, d_inner=d_inner, n_head=n_head)
        if not 0 <= rotary_share <= 1:
            raise UserError(f"Pythia rotary_share {rotary_share} is not allowed: expected a share from 0 to 1")
        width = head_width("Pythia", d_model, n_head)
        cache = Cache(n_head, width, None, rope_theta, int(width * rotary_share) // 2 * 2)
        self.gpt_neox = nn.ModuleDict({
            "embed_in": nn.Embedding(vocab_size, d_model),
            "layers": nn.ModuleList(NeoXLayer(d_model, d_inner, cache, norm_eps)
                                    for _ in range(n_layer)),
            "final_layer_norm": nn.LayerNorm(d_model, norm_eps)})
        self.embed_out = nn.Linear(d_model, vocab_size, bias=False)
        initialize(self, initializer_range)

    @property
    def parts(self) -> tuple[nn.Embedding, Sequence[Layer], nn.Module, nn.Linear]:
        body = self.gpt_neox
        return body["embed_in"], body["layers"], body["final_layer_norm"], self.embed_out


class NeoXLayer(AttentionLayer):
    """Attention and MLP in parallel (Black et al. 2022, arXiv 2204.06745, section 2.1.2). State: a cache."""

    def __init__(self, d_model: int, d_inner: int, cache: Cache, norm_eps: float) -> None:
        super().__init__(cache)
        self.input_layernorm = nn.LayerNorm(d_model, norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(d_model, norm_eps)
        self.attention = nn.ModuleDict({"query_key_value": nn.Linear(d_model, 3 * d_model),
                                        "dense": nn.Linear(d_model, d_model)})
        self.mlp = nn.ModuleDict({"dense_h_to_4h": nn.Linear(d_model, d_inner),
                                  "dense_4h_to_h": nn.Linear(d_inner, d_model)})

    def around(self, attend, hidden: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        qkv = self.attention["query_key_value"](self.input_layernorm(hidden))
        # Head by head: its query, key and value.
        q, k, v = qkv.unflatten(-1, (self.cache.heads, 3 * self.cache.width)).chunk(3, -1)
        attended, state = attend(q, k, v, state)
        mlp = self.mlp["dense_4h_to_h"](F.gelu(self.mlp["dense_h_to_4h"](self.post_attention_layernorm(hidden))))
        return hidden + self.attention["dense"](attended.flatten(-2)) + mlp, state

