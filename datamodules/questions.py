"""All questions of a task, as a finite automaton that reads them token by token."""

from collections.abc import Container, Iterator, Sequence

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


def among(questions: Questions, tokens: Container[str]) -> Questions:
    """Those that are made of these tokens alone; what no longer leads to the end is left out."""
    kept = [(before, tuple(filter(tokens.__contains__, said)), after) for before, said, after in questions]
    ends, size = {LAST}, 0
    while size < len(ends):
        size = len(ends)
        ends |= {before for before, said, after in kept if said and after in ends}
    return tuple((before, said, after) for before, said, after in kept if said and after in ends)


def count(questions: Questions) -> int | None:
    """How many ways lead from `start` to `end`, at least as many as there are questions; None: without end."""
    leaving: dict[str, list[tuple[int, str]]] = {}
    for before, tokens, after in questions:
        leaving.setdefault(before, []).append((len(tokens), after))
    ways: dict[str, int | None] = {}  # from each place to the end; None while that is being found

    def found(place: str) -> int:
        if place not in ways:
            ways[place] = None
            ways[place] = (place == LAST) + sum(number * found(after) for number, after in leaving.get(place, ()))
        if ways[place] is None:
            raise RecursionError(f"round and round at {place}")
        return ways[place]

    try:
        return found(FIRST)
    except RecursionError:
        return None


def every(questions: Questions) -> Iterator[tuple[str, ...]]:
    """All questions, some perhaps twice; there must be finitely many, see `count`."""
    todo: list[tuple[str, tuple[str, ...]]] = [(FIRST, ())]
    while todo:
        place, prompt = todo.pop()
        if place == LAST:
            yield prompt
        todo += [(after, (*prompt, token)) for before, tokens, after in questions if before == place
                 for token in tokens]


def number(first: str, following: str, last: str, name: str) -> Questions:
    """A number without leading zeros, from one place on, and the token that follows it, which leads to the last place.

    name: of the places inside
    """
    digits, zero = "0123456789", f"{name} 0"
    return ((first, "0", zero), (first, digits[1:], name), (name, digits, name), (name, following, last),
            (zero, following, last))
