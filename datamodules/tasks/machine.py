"""Turing machines as small YAML tables."""

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tools import UserError
from tools.tape import BLANK

FOLDER = Path(__file__).parent / "machines"
MOVES = {"L": "left", "R": "right", "S": ""}
SAME, ELSE = "same", "else"


@dataclass(frozen=True, slots=True)
class Machine:
    """A deterministic Turing machine, and how its inputs are drawn.

    symbols:     of the tape, without the blank
    transitions: (state, symbol) -> (symbol to write, `left`, `right` or "", next state)
    inputs:      kinds of input, each a list of parts; see `sample`
    """

    name: str
    symbols: tuple[str, ...]
    start: str
    halt: frozenset[str]
    transitions: dict[tuple[str, str], tuple[str, str, str]]
    inputs: tuple[list[Any], ...]

    @property
    def states(self) -> tuple[str, ...]:
        return (*dict.fromkeys(state for state, _ in self.transitions), *sorted(self.halt))

    def sample(self, rng: random.Random, length: int, exact: bool) -> tuple[str, ...]:
        """A random input of length n.

        Parts: a text stands for itself; {symbols: ab, length: n} is n random symbols; {balanced: "()", length: n} is n
        matched pairs; {mirror: true} is all before it in reverse; {change: 1} replaces one symbol of all before it by a
        random one. A length is a number, `n`, or `up to n` (any from 1 to n; n itself if `exact`).
        """
        tape: list[str] = []
        for part in rng.choice(self.inputs):
            if isinstance(part, str):
                tape += part
            elif "symbols" in part:
                tape += rng.choices(part["symbols"], k=_length(part, rng, length, exact))
            elif "balanced" in part:
                tape += _balanced(rng, *part["balanced"], _length(part, rng, length, exact))
            elif "mirror" in part:
                tape += tape[::-1]
            elif tape:
                tape[rng.randrange(len(tape))] = rng.choice(sorted(set(tape)))
        return tuple(tape)

    def run(self, tape: tuple[str, ...]) -> tuple[str, ...]:
        """What stands around the head when the machine halts, from blank to blank; by plain simulation."""
        cells, head, state = dict(enumerate(tape)), 0, self.start
        limit = 1000 + 100 * (len(tape) + 1) ** 2
        while state not in self.halt:
            cells[head], move, state = self.transitions[state, cells.get(head, BLANK)]
            head += (move == "right") - (move == "left")
            limit -= 1
            if limit < 0:
                raise UserError(f"machine {self.name} does not halt on {''.join(tape)[:40]!r} (within the 1000 + 100 "
                                f"(n + 1)^2 steps that it may take): mend its table")
        first = head
        while cells.get(first - 1, BLANK) != BLANK and cells.get(first, BLANK) != BLANK:
            first -= 1
        last = first
        while cells.get(last, BLANK) != BLANK:
            last += 1
        return tuple(cells[i] for i in range(first, last))


def load_machine(name: str) -> Machine:
    """A machine of the suite by its name, or your own by the path of its YAML file; UserError says what is wrong."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise UserError(f"there is no machine {name}: the suite has {known}; or give the path of your own .yaml file")
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UserError(f"machine {path} is not YAML: {' '.join(str(error).split())}") from error
    return _machine(path.stem, table if isinstance(table, dict) else {})


def _machine(name: str, table: dict[str, Any]) -> Machine:
    def wrong(what: str) -> UserError:
        return UserError(f"machine {name}: {what}")

    if missing := [key for key in ("symbols", "start", "halt", "inputs", "transitions") if not table.get(key)]:
        raise wrong(f"{missing[0]} is missing; a machine has symbols, start, halt, inputs and transitions")
    symbols, halt = tuple(str(table["symbols"])), frozenset(map(str, table["halt"]))
    rows: dict[str, dict] = {str(state): row for state, row in table["transitions"].items()}
    known, transitions = {*rows, *halt}, {}
    if BLANK in symbols:
        raise wrong(f"{BLANK} is the blank and not to be given in symbols")
    if str(table["start"]) not in rows:
        raise wrong(f"the start state {table['start']} has no transitions")
    if both := halt & rows.keys():
        raise wrong(f"the halting state {min(both)} has transitions")
    for state, row in rows.items():
        row = {str(symbol): entry for symbol, entry in row.items()}
        if unknown := [s for s in row if s not in (*symbols, BLANK, ELSE)]:
            raise wrong(f"state {state} reads the unknown symbol {unknown[0]!r}; the symbols are "
                        f"{' '.join(symbols)}, {BLANK} and {ELSE}")
        for symbol in (*symbols, BLANK):
            entry = row.get(symbol, row.get(ELSE))
            if entry is None:
                raise wrong(f"state {state} has no transition for {symbol!r}: add one, or an {ELSE}")
            if not isinstance(entry, list) or len(entry) != 3:
                raise wrong(f"state {state}, symbol {symbol!r}: {entry} is no transition; expected [symbol to write "
                            f"or {SAME}, {', '.join(MOVES)}, next state]")
            written, move, following = map(str, entry)
            written = symbol if written == SAME else written
            if written not in (*symbols, BLANK):
                raise wrong(f"state {state} writes the unknown symbol {written!r}")
            if move not in MOVES:
                raise wrong(f"state {state}, symbol {symbol!r}: unknown move {move!r}; expected {', '.join(MOVES)}")
            if following not in known:
                raise wrong(f"state {state} goes on to {following!r}, which is neither in transitions nor in halt")
            transitions[state, symbol] = written, MOVES[move], following
    reached, todo = set(), [str(table["start"])]
    while todo:
        if (state := todo.pop()) not in reached:
            reached.add(state)
            todo += [transitions[state, symbol][2] for symbol in (*symbols, BLANK) if state not in halt]
    if not reached & halt:
        raise wrong(f"no halting state ({', '.join(sorted(halt))}) can be reached from {table['start']}")
    for kind in table["inputs"]:
        for part in kind:
            _check_part(part, symbols, wrong)
    return Machine(name, symbols, str(table["start"]), halt, transitions, tuple(table["inputs"]))


def _check_part(part: Any, symbols: tuple[str, ...], wrong) -> None:
    text = part if isinstance(part, str) else part.get("symbols", part.get("balanced", "")) \
        if isinstance(part, dict) else None
    if text is None or (isinstance(part, dict) and not part.keys() & {"symbols", "balanced", "mirror", "change"}):
        raise wrong(f"{part} is no part of an input: expected a text, or symbols or balanced with a length, mirror, "
                    f"or change")
    if unknown := [s for s in text if s not in symbols]:
        raise wrong(f"an input has the unknown symbol {unknown[0]!r}")
    if isinstance(part, dict) and part.keys() & {"symbols", "balanced"}:
        length = part.get("length")
        if not (isinstance(length, int) and length > 0) and length not in ("n", "up to n"):
            raise wrong(f"length {length} of an input is not possible: expected a number from 1 on, n, or up to n")


def _length(part: dict[str, Any], rng: random.Random, n: int, exact: bool) -> int:
    length = part["length"]
    if length == "up to n":
        return n if exact else rng.randint(1, n)
    return n if length == "n" else length


def _balanced(rng: random.Random, opening: str, closing: str, pairs: int) -> list[str]:
    result, depth, left = [], 0, pairs
    while left or depth:
        if left and (not depth or rng.random() < 0.5):
            result.append(opening)
            depth, left = depth + 1, left - 1
        else:
            result.append(closing)
            depth -= 1
    return result
