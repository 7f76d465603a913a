"""Drafts: what a row will probably say, of which a model checks many tokens in one pass instead of a step each.

What is taken is what steps would have taken: a pass decides only where the model prefers the drafted token by more than
its passes and steps differ (`certain`); all else, what differs from the draft first of all, is left to a step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from torch import Tensor

from length_gen.datamodules.rollout import Rollout
from length_gen.lightning_modules.decoding.agreement import EXACT

FIRST, MOST = 256, 4096
"""Tokens that a row asks for at once, at first and at most."""

WORTH = 32
"""Tokens that steps take in about the time of a pass that goes wrong, and is then taken again up to there."""


@dataclass(slots=True)
class Draft:
    """What one row is likely to say.

    tokens: all of it, its prompt included
    size:   of these, how many are asked for at once: the more the longer all are right
    begin:  the row's length from which on they are asked for: the later the more often nearly all were wrong
    """

    tokens: Sequence[str]
    size: int = FIRST
    begin: int = 0
    _wait: int = 1

    def ahead(self, said: Sequence[str]) -> int:
        """How many tokens to ask for after those that the row has; 0 while it says something else."""
        place = len(said)
        if self.begin <= place < len(self.tokens) and said[-1] == self.tokens[place - 1]:
            return min(self.size, len(self.tokens) - place)
        return 0

    def learn(self, asked: int, right: int, place: int) -> None:
        """Take in that of so many tokens that were asked for so many were right, up to the row's length `place`."""
        if right == asked:
            self.size, self._wait = min(2 * self.size, MOST), 1
        else:
            self._wait = 1 if right >= WORTH else 2 * self._wait
            self.size, self.begin = FIRST, place + self._wait


@dataclass(slots=True)
class DraftedRollout(Rollout):
    """A row of which some tokens are known before the model says them: those that are forced, and perhaps a draft.

    draft: None: nobody knows what it will say
    """

    draft: Draft | None = None

    @property
    def known(self) -> int:
        """How many tokens can be taken in one pass: those that are forced, or drafted."""
        return max(self.forced, self._drafted())

    def _drafted(self) -> int:
        if not (self.draft and self.tokens and self.goes_on):
            return 0
        drafted = self.draft.ahead(self.tokens)
        other = drafted and self._given and self._given[0] != self.draft.tokens[len(self.tokens)]
        return 0 if other else drafted

    def ahead(self, count: int) -> Sequence[str]:
        """The next so many of the `known` tokens."""
        if self.forced >= count:
            return list(islice(self._given, count))
        return self.draft.tokens[len(self.tokens) : len(self.tokens) + count]

    def take(self, likely: Sequence[str], agreed: Sequence[bool]) -> int:
        """Take tokens as `advance` does, while they are the likely ones; how many that were.

        agreed: of each, whether the model holds it for the next token, which only counts where it is not forced. The
        last one taken may be an observation that is another. A tool that has not answered yet is not waited for.
        """
        before, drafted = len(self.tokens), self.forced < len(likely)
        for token, same in zip(likely, agreed, strict=True):
            if not (same or self._given) or self.advance(token) != token or not self.goes_on:
                break
        taken = len(self.tokens) - before
        if drafted:
            self.draft.learn(len(likely), taken, len(self.tokens))
        return taken


def certain(logits: Tensor, drafted: Tensor) -> Tensor:
    """Where steps too would take the drafted token: bool [k, T], of logits [k, T, V] before each of them, int64 [k, T].

    Two ways through a model may differ by EXACT of its largest logit from a third (`check_agreement`), so by twice that
    from each other, and its margin by four times. Infinite logits, as of what is never said, do not count as largest;
    where one is no number nothing is certain.
    """
    chosen = logits.gather(-1, drafted[..., None])
    largest = logits.abs().masked_fill(logits.isinf(), 0).amax()
    others = logits.scatter(-1, drafted[..., None], -float("inf")).amax(-1)
    return chosen[..., 0] - others > 4 * EXACT * largest
