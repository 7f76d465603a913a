"""Any causal language model of transformers that keeps a cache, behind the suite's interface."""

import contextlib
import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from length_gen.lightning_modules.backbones.base import Backbone, State, check_sizes, reset_rows, select_rows
from length_gen.lightning_modules.backbones.decoder import Decoder
from length_gen.lightning_modules.backbones.low_rank import add_low_rank
from length_gen.lightning_modules.backbones.pretrained_files import find_folder, required
from length_gen.tools import UserError

LAYERS = {"num_hidden_layers", "num_layers", "n_layer", "n_layers"}
"""What transformers' configurations call the number of layers."""

PROBE = 8
"""Tokens on which a model must show that it goes on from its cache."""


class HuggingFace(Backbone):
    """A causal language model of transformers, by its configuration or with pretrained weights.

    State: (position [B], seen [B, S], layers), where a layer has its keys and values, both [B, H, S, D], or its
    convolution and recurrent states, or both. Slots of the cache are aligned at their end: a row that began later sees
    only its own, and counts its positions from its own start, so that rows can be reset and exchanged one by one. When
    a state is first asked for, the model is tried on a few tokens: one that does not go on from its cache exactly, or
    whose rows are not apart, is refused; one that can only go on a token at a time does so.

    Args:
        vocab_size: number of tokens
        config: settings of transformers' configuration, with `model_type` and without the size of the vocabulary, such
            as {model_type: llama, hidden_size: 64, num_hidden_layers: 2}
        name: folder or name on the hub with pretrained weights, in place of `config`
        resize: whether an embedding of another size may be cut or filled up to the vocabulary, as in `Pretrained`
        lora_rank, lora_alpha, lora_targets: low-rank updates in place of full training, as in `Pretrained`
    """

    capturable = False

    def __init__(self, vocab_size: int, config: dict[str, Any] | None = None, name: str | None = None,
                 resize: bool = False, lora_rank: int | None = None, lora_alpha: float = 32.0,
                 lora_targets: list[str] | None = None) -> None:
        super().__init__(vocab_size)
        if (config is None) == (name is None):
            raise UserError("HuggingFace needs either a config, such as {model_type: llama, num_hidden_layers: 2}, or "
                            "the name of a folder or of a model on the hub")
        self.model = _from_config(config, vocab_size) if name is None else _from_name(name, vocab_size, resize)
        self.kind = self.model.config.model_type
        self.lora_rank = lora_rank
        if lora_rank is not None:
            add_low_rank(self.model, lora_rank, lora_alpha, lora_targets)
            if resize:
                self.model.get_input_embeddings().requires_grad_(True)
                self.model.get_output_embeddings().requires_grad_(True)
        names = inspect.signature(self.model.forward).parameters
        self._cache_name = next((n for n in ("cache", "past_key_values", "cache_params") if n in names), None)
        self._positions = "position_ids" in names
        self._initial: State | None = None
        self._keyed: list[bool] = []  # which layers keep keys
        self._windows: list[int | None] = []  # how many tokens each of those sees; None: all
        self._chunks = True  # whether several tokens can go on from a state at once

    @property
    def description(self) -> str:
        config = self.model.config
        lora = "" if self.lora_rank is None else f", lora {self.lora_rank}"
        return f"{self.kind} {config.num_hidden_layers}x{config.hidden_size} of transformers{lora}"

    def initial_state(self, batch_size: int) -> State:
        if self._initial is None:
            self._probe()
        position, seen, layers = self._initial
        new = [[leaf.new_zeros(batch_size, *leaf.shape[1:]) for leaf in layer] for layer in layers]
        device = self.model.get_input_embeddings().weight.device
        return (position.new_zeros(batch_size).to(device), seen.new_zeros(batch_size, 1).to(device),
                [[leaf.to(device) for leaf in layer] for layer in new])

    def forward(self, tokens: Tensor, state: State | None = None, return_state: bool = True) -> tuple[Tensor, State]:
        if state is None and not return_state:
            return self.model(tokens, use_cache=False).logits, None
        if state is None:
            state = self.initial_state(len(tokens))
        else:
            self.check_state(state, len(tokens))
        logits, state = self._advance(tokens, state)
        return logits, state if return_state else None

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        logits, state = self.forward(tokens[:, None], state)
        return logits[:, 0], state

    def decoder(self, rows: int, length: int, weights: torch.dtype = torch.float32,
                states: torch.dtype = torch.float32) -> Decoder:
        if next(self.parameters()).dtype == weights:
            return GrowingDecoder(self, rows)
        other = copy.deepcopy(self).to(weights)
        other._initial = None
        return GrowingDecoder(other, rows)

    def state_size(self, length: int) -> int:
        """Keys and values of the tokens that are kept (one slot more than there are), and what does not grow."""
        position, _, layers = self.initial_state(1)
        limits = iter(self._windows)
        total = position.element_size() + self._kept(length + 1)
        for layer, grows in zip(layers, self._keyed, strict=True):
            limit = next(limits) if grows else None
            for i, leaf in enumerate(layer):
                slots = (length + 1 if limit is None else min(length + 1, limit - 1)) if grows and i < 2 else 1
                total += leaf.numel() * leaf.element_size() * slots
        return total

    def _advance(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        if tokens.shape[1] == 1 or self._chunks:
            return self._run(tokens, state)
        if not state[0].any():  # nothing to go on from
            return self._run(tokens, state, fresh=True)
        parts = []
        for token in tokens.split(1, 1):
            logits, state = self._run(token, state)
            parts.append(logits)
        return torch.cat(parts, 1), state

    def _run(self, tokens: Tensor, state: State, fresh: bool = False) -> tuple[Tensor, State]:
        """The model on `tokens` from `state`; fresh: the state is known to be the initial one."""
        position, seen, layers = state
        cache = required("transformers").DynamicCache(config=self.model.config)
        more: dict[str, Any] = {}
        new = seen.new_ones(tokens.shape)
        if fresh:
            seen = seen[:, :0]
        else:
            for layer, kept in zip(cache.layers, layers, strict=True):
                _fill(layer, kept, seen.shape[1])
            if self._windows:
                more["attention_mask"] = torch.cat([seen, new], 1).long()
            if self._positions:
                more["position_ids"] = position[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
        output = self.model(tokens, use_cache=True, **{self._cache_name: cache}, **more)
        seen = torch.cat([seen, new], 1)
        seen = seen[:, seen.shape[1] - self._kept(seen.shape[1]) :]
        return output.logits, (position + tokens.shape[1], seen, [_content(layer) for layer in cache.layers])

    def trimmed(self, state: State) -> State:
        """The same state without the first slots that no row sees."""
        position, seen, layers = state
        slots = max(1, int(position.max()))
        return position, seen[:, -slots:], [
            [leaf[:, :, -slots:] if keyed and i < 2 else leaf for i, leaf in enumerate(layer)]
            for layer, keyed in zip(layers, self._keyed, strict=True)]

    def _kept(self, slots: int) -> int:
        """How many of the last slots some layer still keeps."""
        if None in self._windows or not self._windows:
            return slots if self._windows else 1
        return min(slots, max(self._windows) - 1)

    @torch.no_grad()
    def _probe(self) -> None:
        """Find the shapes of the cache, and hold the model to what a backbone promises."""
        transformers = required("transformers")
        device = self.model.get_input_embeddings().weight.device
        training = self.training
        self.eval()
        try:
            with torch.autocast(device.type, enabled=False):
                cache = transformers.DynamicCache(config=self.model.config)
                tokens = torch.arange(2 * PROBE, device=device).view(2, PROBE).flip(1) % self.vocab_size
                self._try(lambda: self.model(tokens[:1, :1], use_cache=True, **{self._cache_name or "cache": cache}))
                self._keyed = [getattr(layer, "keys", None) is not None for layer in cache.layers]
                self._windows = [getattr(layer, "sliding_window", None)
                                 for layer, keyed in zip(cache.layers, self._keyed, strict=True) if keyed]
                contents = [_content(layer) for layer in cache.layers]
                if not tree_leaves(contents):
                    raise self._refusal("keeps no cache that can be carried on")
                first = torch.zeros(1, dtype=torch.long, device=device)
                self._initial = first, torch.zeros(1, 1, dtype=torch.bool, device=device), contents
                self._check(tokens)
        except UserError:
            self._initial = None
            raise
        finally:
            self.train(training)

    def _check(self, tokens: Tensor) -> None:
        whole = self._try(lambda: self.model(tokens, use_cache=False).logits)

        def rows_apart(first: Tensor) -> Tensor:
            """Largest difference where the second row is reset on the way, to what it says from its own start."""
            _, state = self._advance(first, self.initial_state(2))
            state = reset_rows(state, torch.tensor([False, True], device=tokens.device), self.initial_state(2))
            size = first.shape[1]
            rest = torch.stack([tokens[0, size:], tokens[1, : PROBE - size]])
            logits, _ = self._advance(rest, state)
            expected = torch.stack([whole[0, size:], whole[1, : PROBE - size]])
            return (logits - expected).abs().max()

        tolerance = (1e-3 if whole.dtype == torch.float32 else 5e-2) * whole.abs().max().clamp(min=1.0)
        for self._chunks in (True, False):
            with contextlib.suppress(UserError):
                if self._try(lambda: rows_apart(tokens[:, :3])) <= tolerance:
                    return
        raise self._refusal("does not go on from its cache where the rows have different lengths")

    def _try(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except UserError:
            raise
        except Exception as error:  # whatever a model raises that knows no such cache or mask
            text = " ".join(str(error).split())[:120]
            raise self._refusal(f"cannot be run with a cache ({type(error).__name__}: {text})") from error

    def _refusal(self, why: str) -> UserError:
        return UserError(f"transformers' {self.kind} {why}, which training could do without but a rollout cannot: take "
                         f"another model_type")


def _from_config(config: dict[str, Any], vocab_size: int) -> Any:
    transformers = required("transformers")
    settings = {"bos_token_id": None, "eos_token_id": 0, "pad_token_id": None, **config, "vocab_size": vocab_size}
    kind = settings.pop("model_type", None)
    for key in LAYERS & settings.keys():
        if isinstance(settings[key], int):
            check_sizes("HuggingFace", n_layer=settings[key])
    try:
        return transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(kind, **settings),
                                                             trust_remote_code=False)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"transformers cannot make a causal language model of {config} ({text})") from error


def _from_name(name: str, vocab_size: int, resize: bool) -> Any:
    transformers = required("transformers")
    folder = find_folder(name)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False,
                                                                  weights_only=True)
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"transformers cannot load {name} ({text})") from error
    rows = model.get_input_embeddings().weight.shape[0]
    if rows != vocab_size:
        if not resize:
            raise UserError(f"the vocabulary of {vocab_size} tokens is not that of {name}, whose embedding has {rows} "
                            f"rows: give --model.backbone.init_args.resize true to fit it, or another model")
        model.resize_token_embeddings(vocab_size)
    return model


def _content(layer: Any) -> list[Tensor]:
    """Tensors of one layer of transformers' cache, batch first."""
    found = []
    if getattr(layer, "keys", None) is not None:
        found += [layer.keys, layer.values]
    for states in (getattr(layer, "conv_states", None), getattr(layer, "recurrent_states", None)):
        found += [states[i] for i in sorted(states) if states[i] is not None] if states else []
    return found


def _fill(layer: Any, content: list[Tensor], slots: int) -> None:
    """Give a new layer of transformers' cache what `_content` took from one; `slots` were filled so far."""
    rest = list(content)
    if hasattr(layer, "keys"):
        layer.lazy_initialization(rest[0], rest[1])
        layer.keys, layer.values = rest.pop(0), rest.pop(0)
        if hasattr(layer, "cumulative_length"):
            layer.cumulative_length = slots
    if hasattr(layer, "conv_states"):
        # Copies, since these are updated in place.
        for states, marks in ((layer.conv_states, layer.is_conv_states_initialized),
                              (layer.recurrent_states, layer.is_recurrent_states_initialized)):
            for i in sorted(states):
                if rest:
                    states[i], marks[i] = rest.pop(0).clone(), True
        for i in layer.conv_states:
            layer.has_previous_state[i] = True
            layer.conv_kernel_size[i] = layer.conv_states[i].shape[-1]
        layer.device, layer.dtype = layer.conv_states[0].device, layer.conv_states[0].dtype


class GrowingDecoder(Decoder):
    """Steps of a HuggingFace backbone, whose state may change its shape, so that no CUDA graph can hold one."""

    def __init__(self, backbone: HuggingFace, rows: int) -> None:
        super().__init__(backbone)
        self.state = backbone.initial_state(rows)
        self.prefills = backbone._chunks

    def step(self, tokens: Tensor) -> Tensor:
        logits, self.state = self.backbone.step(tokens, self.state)
        return logits

    def reset(self, rows: Tensor) -> None:
        chosen = torch.zeros(len(self.state[0]), dtype=torch.bool, device=rows.device).index_fill_(0, rows, True)
        self.state = reset_rows(self.state, chosen, self.backbone.initial_state(1))

    def state_of(self, rows: Tensor) -> State:
        return select_rows(self.state, rows)

    def set_state(self, rows: Tensor, state: State) -> None:
        # Slots are aligned at their end: those that one has before the other's first are seen by nobody there.
        old, new = (tree_map(_padded, *pair) for pair in ((self.state, state), (state, self.state)))
        self.state = self.backbone.trimmed(tree_map(lambda leaf, taken: leaf.index_copy(0, rows, taken), old, new))


def _padded(leaf: Tensor, other: Tensor) -> Tensor:
    """A leaf with zeros before it wherever `other` is larger, but for the rows."""
    missing = [max(0, b - a) for a, b in zip(leaf.shape[1:], other.shape[1:], strict=True)]
    return F.pad(leaf, [side for size in reversed(missing) for side in (size, 0)])
