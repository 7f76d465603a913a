"""Causal attention with rotary positions and a cache: what Pythia, Mistral and the hybrids share.

A cache is (position [B], keys [B, C, H, D], values [B, C, H, D]): the row's number of tokens, and those of its last C
tokens at slot (position mod C). Every row has a position of its own, so that rows can be reset or exchanged. Keys are
kept with their rotation. C starts at 1 and doubles when a row needs more, up to the window, where the cache is a ring
and grows no more. Within a CUDA graph nothing can grow: `Cache.reserve` makes the room before.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.bias import causal_lower_right

from length_gen.lightning_modules.backbones.layered import Layer
from length_gen.tools import UserError

State = tuple[Tensor, Tensor, Tensor]

BLOCK = 512
"""Queries that attend at a time wherever a mask is needed, so that masks stay small; fewer where the window is."""

SMALLEST = 64
"""Queries of a block at least."""


def rotate(x: Tensor, positions: Tensor, theta: float, width: int) -> Tensor:
    """Rotary position embedding (Su et al. 2021, arXiv 2104.09864, eq. 34) of the first `width` channels, in halves.

    x: [B, T, H, D]; positions: [B or 1, T]
    """
    frequencies = theta ** -(torch.arange(0, width, 2, device=x.device, dtype=torch.float32) / width)
    angles = positions[..., None].float() * frequencies
    cos, sin = (part[:, :, None].to(x.dtype) for part in (angles.cos(), angles.sin()))
    first, second, rest = x[..., : width // 2], x[..., width // 2 : width], x[..., width:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin, rest], -1)


@dataclass(frozen=True)
class Cache:
    """Attention over what came before, with the cache described above.

    heads:  of keys and values
    width:  of one head
    window: tokens that a token sees, itself included; None: all
    theta, rotary_width: of the rotary embedding; raises UserError unless theta is above 0
    """

    heads: int
    width: int
    window: int | None
    theta: float
    rotary_width: int

    def __post_init__(self) -> None:
        if not 0 < self.theta < math.inf:
            raise UserError(f"rope_theta {self.theta} is not allowed: expected a number above 0")

    def initial_state(self, batch_size: int, like: Tensor) -> State:
        """An empty cache of one slot a row, of the type and on the device of `like`."""
        empty = like.new_zeros(batch_size, 1, self.heads, self.width)
        return torch.zeros(batch_size, dtype=torch.long, device=like.device), empty, empty.clone()

    def capacity(self, length: int) -> int:
        """Slots that hold `length` tokens as far as they are seen."""
        return max(1, length if self.window is None else min(length, self.window))

    def reserve(self, state: State, length: int) -> State:
        """The same cache with at least `capacity(length)` slots; it must not have wrapped, or be full-sized already."""
        position, keys, values = state
        missing = self.capacity(length) - keys.shape[1]
        if missing <= 0:
            return state
        return position, *(F.pad(part, (0, 0, 0, 0, 0, missing)) for part in (keys, values))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """Attention of T new tokens [B, T, H, D] to themselves and the cache, which is not modified; [B, T, H, D] and
        the new cache. Without a cache T tokens from the first on, and None."""
        length = q.shape[1]
        if state is None:
            steps = torch.arange(length, device=q.device)[None]
            return self._blocks(self._rotate(q, steps), self._rotate(k, steps), v), None
        position, keys, values = self._grown(state, length)
        steps = position[:, None] + torch.arange(length, device=q.device)
        q, k = self._rotate(q, steps), self._rotate(k, steps)
        nearest, farthest = (int(x) for x in position.aminmax())
        # The cache in order of time, its newest token last, with the new tokens behind: "line" below.
        size, past = keys.shape[1], min(farthest, keys.shape[1])
        rows = torch.arange(len(position), device=q.device)[:, None]
        slots = (position[:, None] + torch.arange(-past, 0, device=q.device)) % size
        lines = [torch.cat([old[rows, slots].to(new.dtype), new], 1) for old, new in ((keys, k), (values, v))]
        missing = None if nearest >= past else (past - position).clamp(min=0)
        result = self._blocks(q, *lines, missing)
        return result, (position + length, *(self._refilled(*pair, steps) for pair in ((keys, k), (values, v))))

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: State) -> tuple[Tensor, State]:
        """The same for one token a row, [B, H, D]; the cache is updated in place."""
        if not torch.cuda.is_available() or not torch.cuda.is_current_stream_capturing():
            state = self._grown(state, 1)
        position, keys, values = state
        q, k = (self._rotate(x[:, None], position[:, None]) for x in (q, k))
        size, rows = keys.shape[1], torch.arange(len(position), device=q.device)
        keys[rows, position % size] = k[:, 0].to(keys.dtype)
        values[rows, position % size] = v.to(values.dtype)
        seen = torch.arange(size, device=q.device) <= position[:, None]
        position += 1
        return _sdpa(q, keys.to(q.dtype), values.to(q.dtype), seen[:, None, None])[:, 0], (position, keys, values)

    def size(self, length: int, like: Tensor) -> int:
        """Bytes of one row after `length` tokens, in the type of `like`."""
        return 8 + 2 * self.capacity(length) * self.heads * self.width * like.element_size()

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        return rotate(x, positions, self.theta, self.rotary_width)

    def _grown(self, state: State, length: int) -> State:
        size = state[1].shape[1]
        if size == self.window:
            return state
        needed = self.capacity(int(state[0].max()) + length)
        return state if needed <= size else self.reserve(state, max(needed, 2 * size))

    @staticmethod
    def _refilled(cache: Tensor, new: Tensor, steps: Tensor) -> Tensor:
        """A copy of the cache with the newest tokens at their slots."""
        size = cache.shape[1]
        rows = torch.arange(len(cache), device=cache.device)[:, None]
        return cache.index_put((rows, steps[:, -size:] % size), new[:, -size:].to(cache.dtype))

    def _blocks(self, q: Tensor, keys: Tensor, values: Tensor, missing: Tensor | None = None) -> Tensor:
        """Queries [B, T, H, D] that are the last T of a line of keys [B, S, H, D]; no mask is larger than BLOCK x S.

        missing: int64 [B], how many of the first keys are none of this row's
        """
        length, total = q.shape[1], keys.shape[1]
        if missing is None and (self.window is None or total <= self.window):
            if length == total:
                return _sdpa(q, keys, values, None, causal=True)
            if _needs_no_mask(q, keys):
                return _sdpa(q, keys, values, causal_lower_right(length, total))
        offset, window, parts = total - length, self.window or total, []
        size = min(BLOCK, max(SMALLEST, window))
        start = 0
        while start < length:
            # Where a whole window lies before them, blocks of queries are alike, and one call takes them all.
            alike = (length - start) // size if missing is None and offset + start >= window else 0
            if alike:
                stop = start + alike * size
                line = slice(offset + start - window, offset + stop)
                parts.append(_windows(q[:, start:stop], keys[:, line], values[:, line], size))
            else:
                stop = min(start + size, length)
                line = slice(max(0, offset + start - window + 1), offset + stop)
                place = torch.arange(offset + start, offset + stop, device=q.device)[:, None]
                key = torch.arange(line.start, line.stop, device=q.device)
                seen = ((key <= place) & (key > place - window))[None, None]
                if missing is not None:
                    seen = seen & (key >= missing[:, None])[:, None, None]
                parts.append(_sdpa(q[:, start:stop], keys[:, line], values[:, line], seen))
            start = stop
        return torch.cat(parts, 1)


def _windows(q: Tensor, keys: Tensor, values: Tensor, size: int) -> Tensor:
    """Queries [B, n * size, H, D], in n blocks, of a line of keys [B, window + n * size, H, D]: each sees the `window`
    keys that end at its own."""
    count = q.shape[1] // size
    window = keys.shape[1] - q.shape[1]
    # [B * n, window + size, H, D]: overlapping blocks, copied
    lines = (x.unfold(1, window + size, size).movedim(-1, 2).flatten(0, 1) for x in (keys, values))
    query, key = (torch.arange(n, device=q.device) for n in (size, window + size))
    seen = (key > query[:, None]) & (key <= query[:, None] + window)
    result = _sdpa(q.unflatten(1, (count, size)).flatten(0, 1), *lines, seen[None, None])
    return result.unflatten(0, (-1, count)).flatten(1, 2)


def _needs_no_mask(q: Tensor, keys: Tensor) -> bool:
    """Whether torch has a kernel for the end of a causal line; without one it makes a mask of all queries and keys."""
    flash = torch.backends.cuda.flash_sdp_enabled() and q.dtype in (torch.bfloat16, torch.float16)
    efficient = torch.backends.cuda.mem_efficient_sdp_enabled() and q.dtype == torch.float32
    plain = q.shape[2] == keys.shape[2] and q.shape[3] % 8 == 0 and q.shape[3] <= 128  # heads that both of them take
    return q.is_cuda and not torch.version.hip and plain and (flash or efficient)


def _sdpa(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None, causal: bool = False) -> Tensor:
    q, keys, values = (x.transpose(1, 2) for x in (q, keys, values))
    grouped = q.shape[1] != keys.shape[1]
    return F.scaled_dot_product_attention(q, keys, values, seen, is_causal=causal, enable_gqa=grouped).transpose(1, 2)


class AttentionLayer(Layer):
    """A layer whose state is a cache, the same around the attention of many tokens and of one."""

    def __init__(self, cache: Cache) -> None:
        super().__init__()
        self.cache = cache

    @abstractmethod
    def around(self, attend: Callable, hidden: Tensor, state: State | None) -> tuple[Tensor, State | None]:
        """The layer around `Cache.attend` or `Cache.step`: on hidden [B, T, d_model] or [B, d_model], from `state`."""

    def initial_state(self, batch_size: int) -> State:
        return self.cache.initial_state(batch_size, next(self.parameters()))

    def reserve(self, state: State, length: int) -> State:
        return self.cache.reserve(state, length)

    def state_size(self, length: int) -> int:
        return self.cache.size(length, next(self.parameters()))

    def forward(self, hidden: Tensor, state: State | None = None) -> tuple[Tensor, State | None]:
        return self.around(self.cache.attend, hidden, state)

    def step(self, hidden: Tensor, state: State) -> tuple[Tensor, State]:
        return self.around(self.cache.step, hidden, state)


def head_width(name: str, d_model: int, n_head: int, n_kv_head: int | None = None) -> int:
    """Channels of a head; raises UserError where the heads do not share the width out evenly."""
    n_kv_head = n_kv_head or n_head
    if d_model % (2 * n_head):
        raise UserError(f"{name} n_head {n_head} does not divide d_model {d_model} into heads of even width: give a "
                        f"d_model that is a multiple of {2 * n_head}, or another n_head")
    if n_head % n_kv_head:
        raise UserError(f"{name} n_kv_head {n_kv_head} does not divide n_head {n_head}: give a divisor of {n_head}")
    return d_model // n_head


def initialize(model: nn.Module, deviation: float) -> None:
    """Normal matrices of this standard deviation and zero biases, as transformers' GPT-NeoX and Mistral start."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=deviation)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)
