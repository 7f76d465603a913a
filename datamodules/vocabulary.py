"""The vocabulary of a task: token <-> id."""

from collections.abc import Iterable, Sequence

import numpy as np

from length_gen.tools.errors import UserError


class Vocabulary:
    """An ordered set of tokens; a token's id is its place in it.

    Raises UserError if a token is given twice.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.tokens = tuple(tokens)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        self._names = np.array(self.tokens, dtype=object)  # several times as fast to decode from
        if len(self._ids) < len(self.tokens):
            twice = sorted({t for t in self.tokens if self.tokens.count(t) > 1})
            raise UserError(f"tokens given twice in one vocabulary: {' '.join(twice)}")

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.tokens == other.tokens

    def __hash__(self) -> int:
        return hash(self.tokens)

    def id(self, token: str) -> int:
        """Id of one token; raises UserError if it is unknown."""
        try:
            return self._ids[token]
        except KeyError:
            raise self._unknown(token) from None

    def encode(self, tokens: Sequence[str]) -> np.ndarray:
        """Ids of `tokens`, int64 [len(tokens)]; raises UserError that names the first unknown token."""
        try:
            return np.fromiter(map(self._ids.__getitem__, tokens), dtype=np.int64, count=len(tokens))
        except KeyError as error:
            raise self._unknown(error.args[0]) from None

    def decode(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Tokens of ids [n]; raises IndexError for one that is too large."""
        return self._names[np.asarray(ids, dtype=np.intp)].tolist()

    def difference(self, other: "Vocabulary") -> str:
        """One phrase that says how this vocabulary differs from `other`, for error messages."""
        missing = [t for t in other.tokens if t not in self]
        extra = [t for t in self.tokens if t not in other]
        if not missing and not extra:
            return "the same tokens in another order"
        parts = [f"{len(tokens)} tokens only in {where} ({' '.join(tokens[:4])}{' ...' if len(tokens) > 4 else ''})"
                 for tokens, where in ((extra, "the first"), (missing, "the second")) if tokens]
        return ", ".join(parts)

    def _unknown(self, token: str) -> UserError:
        known = " ".join(self.tokens[:40]) + (" ..." if len(self.tokens) > 40 else "")
        return UserError(f"unknown token {token!r}: the task's {len(self.tokens)} tokens are {known}")
