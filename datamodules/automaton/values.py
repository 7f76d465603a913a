"""What an explored algorithm's variables hold in place of Python's own: the unknown, names, handles, loops' places."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from length_gen.datamodules.automaton.program import Unsupported


class Looked(Exception):
    """What is unknown was asked for its value."""


class Unknown:
    """A value that depends on the question otherwise than through the tool: nothing is known of it.

    A call that takes one gives one, a condition on one is true and false, and a loop over one goes on and ends.
    """

    def __repr__(self) -> str:
        return "a value taken from the question"

    def _refuse(self, *_: Any) -> Any:
        raise Looked("an algorithm that looks at the question itself, not through its tool, cannot be explored")

    # Python's own functions, which get one inside a list, say, must not take it for a value.
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __iter__ = __len__ = __contains__ = __str__ = _refuse
    __hash__ = _refuse  # type: ignore[assignment]


UNKNOWN = Unknown()


class Name:
    """One of a task's `names`, which an algorithm may only copy: to look at it is refused, but for whether it is some
    token that is none of them, which it is not.

    among: all names
    """

    def __init__(self, token: str, among: frozenset[str]) -> None:
        self.token, self.among = token, among

    def _refuse(self, *_: Any) -> Any:
        raise Looked("an algorithm that looks at one of its task's `names`, and not only copies it, cannot be "
                     "explored; leave them out")

    def __eq__(self, other: object) -> bool:
        return self._refuse() if isinstance(other, Name) or other in self.among else False

    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __iter__ = __len__ = __contains__ = __str__ = __repr__ = _refuse
    __hash__ = _refuse  # type: ignore[assignment]


class Handle:
    """What an algorithm holds of the scribe: the scribe itself, or one of its pointers, by number.

    The methods in `own` are carried out by the explorer; all others are explored like the algorithm's own functions.
    """

    own: frozenset[str] = frozenset()

    def __init__(self, number: int = 0) -> None:
        self.number = number


@dataclass(slots=True, eq=False)
class Cursor:
    """Where a loop stands in what can be counted. A list is looked at anew each time, as Python does."""

    items: Any
    place: int = 0


@dataclass(slots=True, eq=False)
class Together:
    """What `zip`, `enumerate`, `reversed` and a dictionary's `items` and `values` give, item by item, as it then is.

    count: of `enumerate` the first number; of `reversed` the length; of `zip` whether it is strict
    """

    kind: str
    sources: tuple
    count: int = 0

    def __len__(self) -> int:
        lengths = {len(source) for source in self.sources}
        if self.kind == "zip" and self.count and len(lengths) > 1:
            raise ValueError("zip() has arguments of different lengths")
        return self.count if self.kind == "reversed" else min(lengths, default=0)

    def __getitem__(self, place: int) -> Any:
        if place >= len(self):
            raise IndexError(place)
        if self.kind in ("items", "values"):
            keys, values = self.sources
            return (keys[place], values[keys[place]]) if self.kind == "items" else values[keys[place]]
        if self.kind == "reversed":
            return self.sources[0][self.count - 1 - place]
        items = tuple(source[place] for source in self.sources)
        return (self.count + place, *items) if self.kind == "enumerate" else items


def _zip(*sources: Any, strict: bool = False) -> Together:
    return Together("zip", tuple(map(_whole, sources)), int(strict))


def _enumerate(source: Any, start: int = 0) -> Together:
    return Together("enumerate", (_whole(source),), start)


def _reversed(source: Any) -> Together:
    source = _whole(source)
    return Together("reversed", (source,), len(source))


OWN = {zip: _zip, enumerate: _enumerate, reversed: _reversed}
"""Python's functions that hide where they stand, and what is called instead."""


_WHOLE = (tuple, str, bytes, range, list, Together)
ITERATOR = type(iter([]))


def _whole(items: Any) -> Any:
    """Something like it of which item number i can be had at any time."""
    if isinstance(items, _WHOLE):
        return items
    if isinstance(items, dict | set | frozenset | type({}.keys())):
        return tuple(items)
    raise Unsupported(f"a loop over {type(items).__name__} cannot be explored; make it a list")


def begun(items: Any) -> Any:
    """Where a loop over something begins."""
    return UNKNOWN if items is UNKNOWN else Cursor(_whole(items))


def short(value: Any) -> str:
    """A value in a few words."""
    text = value.token if isinstance(value, Name) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def copied_only(values: Iterable) -> None:
    """Raises Looked if one of them is a name."""
    for value in values:
        if isinstance(value, Name):
            value._refuse()
