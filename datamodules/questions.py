"""All questions of a task, as a finite automaton that reads them token by token."""

from collections.abc import Sequence

FIRST, LAST = "start", "end"

Questions = tuple[tuple[str, Sequence[str], str], ...]
"""(place, tokens, place): from the first place to the second with any of the tokens (letters of a text are one each).
Every way from `start` to `end` is a question. Numbers without leading zeros before a '=', say::

    (("start", "0", "last"), ("start", "123456789", "more"), ("more", "0123456789", "more"),
     ("last", "=", "end"), ("more", "=", "end"))
"""


def accepts(questions: Questions, prompt: Sequence[str]) -> bool:
    """Whether a prompt is one of the questions."""
    leaving: dict[str, list[tuple[Sequence[str], str]]] = {}
    for before, tokens, after in questions:
        leaving.setdefault(before, []).append((tokens, after))
    places = {FIRST}
    for token in prompt:
        places = {after for place in places for tokens, after in leaving.get(place, ()) if token in tokens}
    return LAST in places


def standing_in(questions: Questions, names: Sequence[str], few: Sequence[str]) -> Questions:
    """Questions in which `few` names stand for all. Raises ValueError where one name leads where another does not."""
    found = []
    for before, tokens, after in questions:
        others = tuple(token for token in tokens if token not in names)
        if len(others) < len(tokens) and not all(name in tokens for name in names):
            raise ValueError(f"from {before} to {after} it matters which name it is")
        found.append((before, (*others, *(few if len(others) < len(tokens) else ())), after))
    return tuple(found)


def number(first: str, following: str, last: str, name: str) -> Questions:
    """A number without leading zeros, from one place on, and the token that follows it, which leads to the last place.

    name: of the places inside
    """
    digits, zero = "0123456789", f"{name} 0"
    return ((first, "0", zero), (first, digits[1:], name), (name, digits, name), (name, following, last),
            (zero, following, last))
