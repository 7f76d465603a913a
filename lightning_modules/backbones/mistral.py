"""Mistral style (Jiang et al. 2023, arXiv 2310.06825): sliding-window attention, with transformers' parameter names."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from length_gen.lightning_modules.backbones.attention import AttentionLayer, Cache, State, head_width, initialize
from length_gen.lightning_modules.backbones.base import check_sizes
from length_gen.lightning_modules.backbones.layered import Layer, LayeredBackbone


class Mistral(LayeredBackbone):
    """Attention to the last `window` tokens, then a gated MLP. The state is a cache that stops growing at the window.

    Args:
        vocab_size: number of tokens
        n_layer: number of layers
        d_model: width of the residual stream
        d_inner: width of the MLPs; null: 4 d_model
        n_head: query heads; d_model is a multiple of it
        n_kv_head: key and value heads; null: n_head, which is a multiple of it
        window: tokens that a token sees in each layer, itself included
        tie_embeddings: whether the head shares the embedding's weights
        rope_theta: base of the rotary wavelengths
        initializer_range: standard deviation of all matrices at the start
        norm_eps: of the RMS norms
    """

    def __init__(self, vocab_size: int, n_layer: int = 2, d_model: int = 64, d_inner: int | None = None,
                 n_head: int = 4, n_kv_head: int | None = None, window: int = 64, tie_embeddings: bool = False,
                 rope_theta: float = 10_000.0, initializer_range: float = 0.02, norm_eps: float = 1e-6) -> None:
        super().__init__(vocab_size)
        n_kv_head = n_head if n_kv_head is None else n_kv_head
        d_inner = 4 * d_model if d_inner is None else d_inner
        check_sizes("Mistral", n_layer=n_layer, d_model=d_model, d_inner=d_inner, n_head=n_head, n_kv_head=n_kv_head,
                    window=window)
        width = head_width("Mistral", d_model, n_head, n_kv_head)
        cache = Cache(n_kv_head, width, window, rope_theta, width)
        self.model = nn.ModuleDict({
            "embed_tokens": nn.Embedding(vocab_size, d_model),
            "layers": nn.ModuleList(MistralLayer(d_model, d_inner, cache, norm_eps)
                                    for _ in range(n_layer)),
            "norm": nn.RMSNorm(d_model, norm_eps)})
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        if tie_embeddings:
            self.lm_head.weight = self.model["embed_tokens"].weight
        initialize(self, initializer_range)

    @property
    def parts(self) -> tuple[nn.Embedding, Sequence[Layer], nn.Module, nn.Linear]:
        return self.model["embed_tokens"], self.model["layers"], self.model["norm"], self.lm_head


class MistralLayer(AttentionLayer):
    """Attention, then a gated MLP, each behind a norm and added to the residual. State: the attention's cache."""

    def __init__(self, d_model: int, d_inner: int, cache: Cache, norm_eps: float) -> None:
        super().__init__(cache)
        self.input_layernorm = nn.RMSNorm(d_model, norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(d_model, norm_eps)
        self.self_attn = SelfAttention(d_model, cache)
        self.mlp = nn.ModuleDict({"gate_proj": nn.Linear(d_model, d_inner, bias=False),
                                  "up_proj": nn.Linear(d_model, d_inner, bias=False),
                                  "down_proj": nn.Linear(d_inner, d_model, bias=False)})

    def around(self, attend, hidden: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        update, state = self.self_attn.around(attend, self.input_layernorm(hidden), state)
        hidden = hidden + update
        normed = self.post_attention_layernorm(hidden)
        gated = F.silu(self.mlp["gate_proj"](normed)) * self.mlp["up_proj"](normed)
        return hidden + self.mlp["down_proj"](gated), state


class SelfAttention(AttentionLayer):
    """Attention alone, [B, T, d_model] to its update of the residual; also the attention of hybrids."""

    def __init__(self, d_model: int, cache: Cache) -> None:
        super().__init__(cache)
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, cache.heads * cache.width, bias=False)
        self.v_proj = nn.Linear(d_model, cache.heads * cache.width, bias=False)
        self.o_proj = nn.Linear(d_model, d_model, bias=False)

    def around(self, attend, hidden: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        q, k, v = (project(hidden).unflatten(-1, (-1, self.cache.width))
                   for project in (self.q_proj, self.k_proj, self.v_proj))
        attended, state = attend(q, k, v, state)
        return self.o_proj(attended.flatten(-2)), state
