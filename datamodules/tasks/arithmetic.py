"""Steps that the arithmetic tasks share: walks, column sums, and copying the answer out."""

from collections.abc import Sequence
from decimal import MAX_EMAX, Context, Decimal
from itertools import takewhile

from datamodules.tokens import ANSWER, Kind
from datamodules.trajectory import Pointer, Scribe

DIGITS = tuple("0123456789")


MANY, FEW = 8192, 64
"""Rounds that are recorded at once, and how many there must be for it to pay."""

_ADD = bytes([Kind.COMMAND, Kind.OBSERVATION] * 2 + [Kind.THOUGHT] * 2)
_COPY = bytes([Kind.COMMAND, Kind.OBSERVATION, Kind.COMMAND, Kind.COMMAND, Kind.OBSERVATION, Kind.OUTPUT, Kind.COMMAND])


def digits_ahead(pointer: Pointer, step: int, each: int = 1) -> list[str]:
    """The digits under the pointer and each `step` cells further, up to the first that is none; none if only a few.

    each: how many of them a round takes
    """
    digits = list(takewhile(str.isdigit, pointer.ahead(step, each * MANY)))
    return digits if len(digits) >= FEW else []


def add_columns(scribe: Scribe, left: Pointer, right: Pointer, step: int) -> None:
    """Add two numbers digit by digit, from the least significant; writes sum digit and carry for each place.

    A pointer that reads a non-digit stops; `step` is how far it is to the next digit, negative to the left. A last
    carry becomes a digit of its own, with carry 0.
    """
    running, carry = [left, right], 0
    while (upper := digits_ahead(left, step)) and (lower := digits_ahead(right, step)):
        count = min(len(upper), len(lower))
        carry = _add_many(scribe, (left, right), step, carry, upper[:count], lower[:count])
    while True:
        column = [(pointer, symbol) for pointer in running if (symbol := pointer.read()).isdigit()]
        if not column:
            break
        total = carry + sum(int(symbol) for _, symbol in column)
        carry = total // 10
        scribe.think(DIGITS[total % 10], DIGITS[carry])
        running = [pointer for pointer, _ in column]
        for pointer in running:
            for _ in range(abs(step)):
                pointer.right() if step > 0 else pointer.left()
    if carry:
        scribe.think("1", "0")


def _add_many(scribe: Scribe, pointers: Sequence[Pointer], step: int, carry: int, upper: Sequence[str],
              lower: Sequence[str]) -> int:
    """As many columns of `add_columns` at once; returns the carry."""
    sums, carries = [], []
    for one, other in zip(map(int, upper), map(int, lower), strict=True):
        carry, digit = divmod(carry + one + other, 10)
        sums.append(DIGITS[digit])
        carries.append(DIGITS[carry])
    left, right = pointers
    moves = [pointer.right_token if step > 0 else pointer.left_token for pointer in pointers for _ in range(abs(step))]
    scribe.rounds([left.read_token, upper, right.read_token, lower, sums, carries, *moves],
                  _ADD + bytes([Kind.COMMAND]) * len(moves), len(upper))
    for pointer in pointers:
        pointer.jump(step * len(upper))
    return carry


def copy_answer(scribe: Scribe, pointer: Pointer) -> None:
    """Write [ANS], walk there, and back to '=', writing the digits that stand there in reverse, carries between."""
    scribe.phase("find_answer")
    scribe.answer()
    pointer.walk_right(ANSWER)
    scribe.phase("copy")
    pointer.left()
    read, left = pointer.read_token, pointer.left_token
    while digits := digits_ahead(pointer, -1, 2):
        count = len(digits) // 2  # digits, each behind a carry
        carries, sums = digits[: 2 * count : 2], digits[1 : 2 * count : 2]
        scribe.rounds([read, carries, left, read, sums, sums, left], _COPY, count)
        pointer.jump(-2 * count)
    while pointer.read() != "=":  # a carry
        pointer.left()
        scribe.output(pointer.read())
        pointer.left()


def exact(operation: str, left: str, right: str) -> str:
    """`add` or `multiply` two numbers of any length, in about linear time (Python's own integers take quadratic)."""
    size = len(left) + len(right) + 2
    context = Context(prec=size, Emax=MAX_EMAX)
    return format(getattr(context, operation)(Decimal(left), Decimal(right)), "f")
