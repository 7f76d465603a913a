"""The string-matching learner of Theorem 2.2 as a backbone: it remembers which token followed which suffix."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from length_gen.lightning_modules.backbones.base import Backbone, State, check_sizes

END = 0
"""Id of the end token: the first of every vocabulary."""


class Suffix(Backbone):
    """Predicts the token that always followed the shortest suffix that was always followed by one token in training.

    If no suffix of up to `window` tokens is known so, it predicts the end token, as the paper's learner does on a pair
    that it has not seen. It sees nothing before an end token or before the start. What it can learn is bounded by the
    horizon of the trajectories (`run.py analyze`) and by coverage: every suffix must have come up in training.

    Suffixes are kept as sums of random 64-bit numbers, one for each token and distance, so that two of them are taken
    for the same with a chance of about 2^-64.

    Args:
        vocab_size: number of tokens
        window: longest suffix, in tokens
        min_count: how often a suffix must have been seen to be believed
    """

    def __init__(self, vocab_size: int, window: int = 12, min_count: int = 4) -> None:
        super().__init__(vocab_size)
        check_sizes("Suffix", window=window, min_count=min_count)
        self.window, self.min_count = window, min_count
        self.confidence = nn.Parameter(torch.tensor(10.0))  # the logit of the prediction; the others are 0
        random = torch.Generator().manual_seed(0)
        numbers = torch.randint(-(2**63), 2**63 - 1, (window, vocab_size + 1), generator=random)
        self.register_buffer("numbers", numbers, persistent=False)
        self._table = torch.zeros(4, 0, dtype=torch.long)  # key, lowest and highest next token, count; sorted by key
        self._new: list[Tensor] = []

    @property
    def description(self) -> str:
        return f"suffix {self.window}"

    def initial_state(self, batch_size: int) -> State:
        """The last `window` - 1 tokens plus 1; 0 before the start."""
        return torch.zeros(batch_size, self.window - 1, dtype=torch.long, device=self.numbers.device)

    def forward(self, tokens: Tensor, state: State | None = None, return_state: bool = True) -> tuple[Tensor, State]:
        self._merge()
        if state is None:
            state = self.initial_state(len(tokens))
        else:
            self.check_state(state, len(tokens))
        seen = torch.cat([state, tokens + 1], 1)
        keys, low, high, count = self._table.to(tokens.device)
        predicted = torch.full_like(tokens, END)
        if len(keys):
            found = self._keys(seen)
            place = torch.searchsorted(keys, found).clamp(max=len(keys) - 1)
            sure = (keys[place] == found) & (low == high)[place] & (count >= self.min_count)[place]
            first = sure.to(torch.int8).argmax(0, keepdim=True)  # the shortest: argmax takes the first of equals
            predicted = torch.where(sure.any(0), low[place.gather(0, first)[0]], predicted)
        logits = nn.functional.one_hot(predicted, self.vocab_size) * self.confidence
        return logits, seen[:, seen.shape[1] - self.window + 1 :].clone() if return_state else None

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        logits, state = self(tokens[:, None], state)
        return logits[:, 0], state

    @torch.no_grad()
    def learn(self, tokens: Tensor, targets: Tensor) -> None:
        """Remember what follows in the training rows of all ranks, so that they have one table; see
        `Backbone.learn`."""
        batches = [(tokens, targets)]
        if dist.is_available() and dist.is_initialized():
            batches = [None] * dist.get_world_size()
            dist.all_gather_object(batches, (tokens.cpu(), targets.cpu()))  # of different widths, where rows are padded
        for some, following in batches:
            self._take(some.to(tokens.device), following.to(tokens.device))

    def _take(self, tokens: Tensor, targets: Tensor) -> None:
        seen = torch.cat([self.initial_state(len(tokens)), tokens + 1], 1)
        wanted = targets >= 0
        keys = self._keys(seen)[:, wanted].flatten()
        following = targets[wanted].repeat(self.window)
        self._new.append(torch.stack([keys, following, following, torch.ones_like(keys)]).cpu())
        if len(self._new) >= 32:
            self._merge()

    def _keys(self, seen: Tensor) -> Tensor:
        """Keys of the suffixes of 1 to `window` tokens, int64 [window, B, T], that end at each but the first tokens."""
        length = seen.shape[1] - self.window + 1
        total, keys = torch.zeros_like(seen[:, :length]), []
        alive = torch.ones_like(total, dtype=torch.bool)
        for back in range(self.window):
            first = self.window - 1 - back
            token = seen[:, first : first + length]
            alive = alive & (token != END + 1)
            total = total + self.numbers[back][token * alive]
            keys.append(total)
        return torch.stack(keys)

    def _merge(self) -> None:
        if not self._new:
            return
        keys, low, high, count = torch.cat([self._table, *self._new], 1)
        self._new = []
        keys, owner = keys.unique(return_inverse=True)
        empty = torch.zeros_like(keys)
        self._table = torch.stack([keys, empty.scatter_reduce(0, owner, low, "amin", include_self=False),
                                   empty.scatter_reduce(0, owner, high, "amax", include_self=False),
                                   empty.scatter_add(0, owner, count)])

    def get_extra_state(self) -> Tensor:
        self._merge()
        return self._table

    def set_extra_state(self, state: Tensor) -> None:
        self._table, self._new = state.cpu(), []
