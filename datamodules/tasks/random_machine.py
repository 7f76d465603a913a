"""Random Turing machines that halt on every input, by size and seed: `random_Q4_S3_seed7`."""

import random
from collections.abc import Sequence
from functools import lru_cache
from itertools import count
from string import ascii_letters
from typing import Any

from length_gen.tools import UserError
from length_gen.tools.tape import BLANK

RANKS, STAGES = 3, 4
"""Most ranks of symbols and stages of states, see `random_machine`."""

MOST = 400
"""Largest |Q||S|."""

SIZES = ((1, 4), (2, 3), (2, 5), (4, 4), (5, 5), (10, 5), (10, 10), (20, 10), (20, 20), (40, 10))
"""(|Q|, |S|) of the benchmark set: |Q||S| of 4, 6, 10, 16, 25, 50, 100, 200, 400 and 400."""

BENCHMARK = tuple(f"random_Q{states}_S{symbols}_seed{seed}" for states, symbols in SIZES for seed in range(5))
"""The benchmark set, by the names that `--data.task.machine` takes."""

INPUTS, LENGTH = 200, 20
"""On so many inputs of that length a table is tried that may be discarded."""

Table = dict[str, Any]
"""A machine's table as a file in machines/ has it."""


@lru_cache(256)
def random_machine(states: int, symbols: int, seed: int) -> tuple[Table, int]:
    """A machine with so many states that do not halt, and symbols, blank included (|Q| and |S|); and how many tables
    were drawn before its and discarded.

    *It halts on every input.* A state goes in one direction, and is of one stage; a symbol has a rank. On a symbol the
    machine writes one of the same rank and goes on in its direction, in any state of its stage and direction; or it
    writes one of a lower rank and turns, into a state of its stage that goes the other way. On the blank right of the
    input it turns into the next stage, and halts where there is none. On the blank left of the input it turns within
    its stage, and halts where no state there goes right. Blanks stay, and no other is written, so that there are no
    others between these two. Of n symbols each can lose a rank `RANKS` - 1 times, and there are `STAGES` stages;
    between two turns on the left is one of these turns. So `most_steps(n)` is a bound, which grows as n^2; without
    ranks, as n.

    *It is not trivial.* A table is discarded, and the next one drawn, where on 200 random inputs of 20 symbols a state
    is never entered, or all outputs are the same, or on more than half of them the output is the input, or the head
    does not come to the blank on the right.

    All choices come from `random.Random.random`, whose numbers Python keeps from version to version: what a name stands
    for stays. Raises UserError for sizes that are not possible.
    """
    if states < 1 or not 3 <= symbols <= len(ascii_letters) + 1 or states * symbols > MOST:
        raise UserError(f"there is no random machine of {states} states and {symbols} symbols: expected a state or "
                        f"more, 3 to {len(ascii_letters) + 1} symbols, blank included, and a product of at most {MOST}")
    for attempt in count():
        rng = random.Random(f"{states} {symbols} {seed} {attempt}")
        table = _drawn(rng, states, symbols)
        if table and _is_busy(rng, table):
            return table, attempt
    raise AssertionError("count ended")


def most_steps(length: int) -> int:
    """A bound of the steps of every such machine on every input of so many symbols."""
    return (2 * ((RANKS - 1) * length + STAGES) + 1) * (length + 1)


def _one(rng: random.Random, among: Sequence[Any]) -> Any:
    return among[int(rng.random() * len(among))]


def _drawn(rng: random.Random, count: int, symbols: int) -> Table | None:
    """A table as `random_machine` says; None where some state cannot be reached from the first."""
    letters, states = ascii_letters[: symbols - 1], [f"q{i}" for i in range(count)]
    ranks, stages = (1 + int(rng.random() * min(most, n)) for most, n in ((RANKS, len(letters)), (STAGES, count)))
    turning = rng.random() / 2
    rank = {letter: i * ranks // len(letters) for i, letter in enumerate(letters)}
    stage = {state: i * stages // count for i, state in enumerate(states)}
    entered = {stage[state]: state for state in reversed(states)}  # the first of each stage
    way = {state: _one(rng, "LR") if state != entered[stage[state]] else "L" if stage[state] else "R"
           for state in states}
    chosen: dict[tuple[str, str], tuple[str, str, list[str]]] = {}  # symbol to write, move, states of which one follows
    for state in states:
        back = "LR".replace(way[state], "")
        there, here = ([other for other in states if stage[other] == stage[state] and way[other] == direction]
                       for direction in (back, way[state]))
        for letter in letters:
            lower = [other for other in letters if rank[other] < rank[letter]]
            if lower and there and rng.random() < turning:
                chosen[state, letter] = _one(rng, lower), back, there
            else:
                same = [other for other in letters if rank[other] == rank[letter]]
                chosen[state, letter] = _one(rng, same), way[state], here
        after = there if way[state] == "L" else [s for s in states if stage[s] == stage[state] + 1 and way[s] == "L"]
        chosen[state, BLANK] = BLANK, back, after or ["halt"]
    following, left = {}, set(states[1:])
    while left:  # each state after one from which it can be reached
        ways = [(key, state) for key, (_, _, after) in chosen.items() if key not in following and key[0] not in left
                for state in after if state in left]
        if not ways:
            return None
        key, state = _one(rng, ways)
        following[key] = state
        left.remove(state)
    inputs = "".join(letter for letter in letters if rank[letter])
    table = {state: {} for state in states}
    for key, (written, move, after) in chosen.items():
        table[key[0]][key[1]] = [written, move, following.get(key) or _one(rng, after)]
    return {"symbols": letters, "start": states[0], "halt": ["halt"], "transitions": table,
            "inputs": [[{"symbols": inputs if len(inputs) > 1 else letters, "length": "n"}]]}


def _is_busy(rng: random.Random, table: Table) -> bool:
    """Whether a machine is not trivial, see `random_machine`."""
    entered, outputs, busy = set(), set(), 0
    for _ in range(INPUTS):
        tape = [_one(rng, table["inputs"][0][0]["symbols"]) for _ in range(LENGTH)]
        cells, head, state, far = dict(enumerate(tape)), 0, table["start"], False
        while state != "halt":
            entered.add(state)
            read = cells.get(head, BLANK)
            cells[head], move, state = table["transitions"][state][read]
            far = far or head == LENGTH
            head += 1 if move == "R" else -1
        output = [cells[i] for i in range(LENGTH)]
        outputs.add("".join(output))
        busy += far and output != tape
    return len(entered) == len(table["transitions"]) and len(outputs) > 1 and busy >= INPUTS / 2
