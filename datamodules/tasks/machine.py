"""Turing machines as small YAML tables."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from jsonargparse.typing import PositiveInt

from length_gen.datamodules.questions import FIRST, LAST, Questions
from length_gen.datamodules.tasks.random_machine import random_machine
from length_gen.datamodules.typed import QUOTES, typed
from length_gen.tools import UserError
from length_gen.tools.files import read_yaml
from length_gen.tools.tape import BLANK

FOLDER = Path(__file__).parent / "machines"
MOVES = {"L": "left", "R": "right", "S": ""}
SAME, ELSE = "same", "else"


@dataclass(frozen=True, slots=True)
class Table:
    """What a machine's file says; types alone."""

    symbols: str
    start: str
    halt: list[str]
    inputs: list[list[str | dict]]
    transitions: dict[str, dict[str, list[str]]]


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an input that is no text, see `Machine.sample`: one of the first four; a length with the first two."""

    symbols: str = ""
    balanced: str = ""
    mirror: bool = False
    change: Literal[0, 1] = 0
    length: PositiveInt | Literal["", "n", "up to n"] = ""


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
    inputs: tuple[tuple[str | Part, ...], ...]

    @property
    def states(self) -> tuple[str, ...]:
        """All states, those that halt last."""
        return (*dict.fromkeys(state for state, _ in self.transitions), *sorted(self.halt))

    @property
    def varies(self) -> bool:
        """Whether some part of an input may be shorter than n."""
        return any(isinstance(part, Part) and part.length == "up to n" for kind in self.inputs for part in kind)

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
            elif part.symbols:
                tape += rng.choices(part.symbols, k=_length(part, rng, length, exact))
            elif part.balanced:
                tape += _balanced(rng, *part.balanced, _length(part, rng, length, exact))
            elif part.mirror:
                tape += tape[::-1]
            else:
                tape[rng.randrange(len(tape))] = rng.choice(sorted(set(tape)))
        return tuple(tape)

    def questions(self) -> Questions:
        """All inputs that `sample` may give, and more: in what is balanced, mirrored or changed any of its symbols may
        stand anywhere."""
        found: list[tuple[str, Sequence[str], str]] = []
        for number, kind in enumerate(self.inputs):
            parts = [_loose(kind)] if any(isinstance(part, Part) and (part.mirror or part.change) for part in kind) \
                else [part if isinstance(part, str) else (part.symbols or part.balanced, part.length) for part in kind]
            row = []  # of symbols, and whether they may go on for ever
            for part in parts:
                if isinstance(part, str):
                    row += [(symbol, False) for symbol in part]
                else:
                    symbols, length = part
                    row += [(symbols, False)] * length if isinstance(length, int) else [(symbols, True)]
            places = [FIRST, *(f"{number} {i}" for i in range(1, len(row)))]
            for i, (symbols, more) in enumerate(row):
                after = places[i + 1] if i + 1 < len(row) else LAST
                found.append((places[i], symbols, after))
                if more:  # what begins inside must not lead back to where other kinds begin
                    again = f"{number} {i} more"
                    found += [(places[i], symbols, again), (again, symbols, again), (again, symbols, after)]
        return tuple(found)

    def steps(self, tape: tuple[str, ...]) -> range:
        """As many steps as the machine may take; who uses them up raises `endless`."""
        return range(1000 + 100 * (len(tape) + 1) ** 2)

    def endless(self, tape: tuple[str, ...]) -> UserError:
        """The error to raise where the machine does not halt on an input."""
        return UserError(f"machine {self.name} does not halt on {''.join(tape)[:40]!r} (within the 1000 + 100 "
                         f"(n + 1)^2 steps that it may take): mend its table")

    def run(self, tape: tuple[str, ...]) -> tuple[str, ...]:
        """What stands around the head when the machine halts, from blank to blank; by plain simulation.

        That is what follows the nearest blank that is not right of the head, up to the next one: under a head that
        halts on a blank, all that starts right of it.
        """
        cells, head, state = dict(enumerate(tape)), 0, self.start
        for _ in self.steps(tape):
            if state in self.halt:
                break
            cells[head], move, state = self.transitions[state, cells.get(head, BLANK)]
            head += (move == "right") - (move == "left")
        else:
            raise self.endless(tape)
        first = head
        while cells.get(first, BLANK) != BLANK:
            first -= 1
        first += 1
        last = first
        while cells.get(last, BLANK) != BLANK:
            last += 1
        return tuple(cells[i] for i in range(first, last))


def load_machine(name: str) -> Machine:
    """A machine of the suite by its name, or your own by the path of its YAML file; UserError says what is wrong.

    `random_Q4_S3_seed7` is a random one with 4 states and 3 symbols, blank included (`random_machine`).
    """
    if found := re.fullmatch(r"random_Q([1-9]\d{0,8})_S([1-9]\d{0,8})_seed(0|[1-9]\d{0,8})", name, re.ASCII):
        return _machine(name, Table(**random_machine(*map(int, found.groups()))[0]))
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("*.yaml")))
        raise UserError(f"there is no machine {name}: the suite has {known}, and random ones such as "
                        f"random_Q4_S3_seed7; or give the path of your own .yaml file")
    try:
        content = read_yaml(path)
    except (OSError, ValueError) as error:
        raise UserError(f"machine {path} is not YAML: {' '.join(str(error).split())}") from error
    return _machine(path.stem, typed(Table, content, partial(_wrong, path.stem)))


def _wrong(name: str, what: str) -> UserError:
    return UserError(f"machine {name}: {what}")


def _machine(name: str, table: Table) -> Machine:
    wrong = partial(_wrong, name)
    if missing := [key for key in Table.__slots__ if not getattr(table, key)]:
        raise wrong(f"{missing[0]} is empty; a machine has {', '.join(Table.__slots__)}")
    symbols, halt, rows = tuple(table.symbols), frozenset(table.halt), table.transitions
    known, transitions = {*rows, *halt}, {}
    if numbers := [key for keys in (rows, *rows.values()) for key in keys if not isinstance(key, str)]:
        raise wrong(f"transitions: {numbers[0]} is no text{QUOTES}")
    if twice := [symbol for symbol in symbols if symbols.count(symbol) > 1]:
        raise wrong(f"symbol {twice[0]!r} is given twice")
    if BLANK in symbols:
        raise wrong(f"{BLANK} is the blank and not to be given in symbols")
    if table.start not in rows:
        raise wrong(f"the start state {table.start} has no transitions")
    if both := halt & rows.keys():
        raise wrong(f"the halting state {min(both)} has transitions")
    for state, row in rows.items():
        if unknown := [s for s in row if s not in (*symbols, BLANK, ELSE)]:
            raise wrong(f"state {state} reads the unknown symbol {unknown[0]!r}; the symbols are "
                        f"{' '.join(symbols)}, {BLANK} and {ELSE}")
        for symbol in (*symbols, BLANK):
            entry = row.get(symbol, row.get(ELSE))
            if entry is None:
                raise wrong(f"state {state} has no transition for {symbol!r}: add one, or an {ELSE}")
            if len(entry) != 3:
                raise wrong(f"state {state}, symbol {symbol!r}: {entry} is no transition; expected [symbol to write "
                            f"or {SAME}, {', '.join(MOVES)}, next state]")
            written, move, following = entry
            written = symbol if written == SAME else written
            if written not in (*symbols, BLANK):
                raise wrong(f"state {state} writes the unknown symbol {written!r}")
            if move not in MOVES:
                raise wrong(f"state {state}, symbol {symbol!r}: unknown move {move!r}; expected {', '.join(MOVES)}")
            if following not in known:
                raise wrong(f"state {state} goes on to {following!r}, which is neither in transitions nor in halt")
            transitions[state, symbol] = written, MOVES[move], following
    reached, todo = set(), [table.start]
    while todo:
        if (state := todo.pop()) not in reached:
            reached.add(state)
            todo += [transitions[state, symbol][2] for symbol in (*symbols, BLANK) if state not in halt]
    if not reached & halt:
        raise wrong(f"no halting state ({', '.join(sorted(halt))}) can be reached from {table.start}")
    inputs = tuple(_input(kind, symbols, wrong) for kind in table.inputs)
    return Machine(name, symbols, table.start, halt, transitions, inputs)


def _input(kind: list[str | dict], symbols: tuple[str, ...], wrong) -> tuple[str | Part, ...]:
    """The parts of one kind of input, checked."""
    parts: list[str | Part] = []
    for given in kind:
        part = given
        if not isinstance(given, str):
            part = typed(Part, given, wrong)
            drawn = part.symbols or part.balanced
            if sum(map(bool, (part.symbols, part.balanced, part.mirror, part.change))) != 1:
                raise wrong(f"{given} is no part of an input: expected one of symbols, balanced, mirror and change")
            if bool(drawn) != bool(part.length):
                raise wrong(f"{given}: a length (a number from 1 on, n, or up to n) goes with symbols and balanced")
            if part.balanced and len(part.balanced) != 2:
                raise wrong(f"{given}: balanced takes an opening and a closing symbol")
            if not drawn and not any(parts):
                raise wrong(f"{given} needs something before it in the input")
        if unknown := [s for s in (part if isinstance(part, str) else part.symbols or part.balanced)
                       if s not in symbols]:
            raise wrong(f"an input has the unknown symbol {unknown[0]!r}")
        parts.append(part)
    if not any(parts):
        raise wrong("an input is empty")
    return tuple(parts)


def _loose(kind: tuple[str | Part, ...]) -> tuple[str, str]:
    """All symbols of a kind of input, as a part of any length."""
    symbols = (part if isinstance(part, str) else part.symbols or part.balanced for part in kind)
    return "".join(dict.fromkeys("".join(symbols))), "n"


def _length(part: Part, rng: random.Random, n: int, exact: bool) -> int:
    if part.length == "up to n":
        return n if exact else rng.randint(1, n)
    return n if part.length == "n" else part.length


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
