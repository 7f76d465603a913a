"""Steps that the arithmetic tasks share: walks, column sums, and copying the answer out."""

from decimal import MAX_EMAX, Context, Decimal

from datamodules.tokens import ANSWER
from datamodules.trajectory import Pointer, Scribe

DIGITS = tuple("0123456789")


def add_columns(scribe: Scribe, left: Pointer, right: Pointer, advance) -> None:
    """Add two numbers digit by digit, from the least significant; writes sum digit and carry for each place.

    A pointer that reads a non-digit stops; `advance(pointer)` moves one to its next digit. A last carry becomes a
    digit of its own, with carry 0.
    """
    running, carry = [left, right], 0
    while True:
        column = [(pointer, symbol) for pointer in running if (symbol := pointer.read()).isdigit()]
        if not column:
            break
        total = carry + sum(int(symbol) for _, symbol in column)
        carry = total // 10
        scribe.think(DIGITS[total % 10], DIGITS[carry])
        running = [pointer for pointer, _ in column]
        for pointer in running:
            advance(pointer)
    if carry:
        scribe.think("1", "0")


def copy_answer(scribe: Scribe, pointer: Pointer) -> None:
    """Write [ANS], walk there, and back to '=', writing the digits that stand there in reverse, carries between."""
    scribe.phase("find_answer")
    scribe.answer()
    pointer.walk_right(ANSWER)
    scribe.phase("copy")
    pointer.left()
    while pointer.read() != "=":  # a carry
        pointer.left()
        scribe.output(pointer.read())
        pointer.left()


def exact(operation: str, left: str, right: str) -> str:
    """`add` or `multiply` two numbers of any length, in about linear time (Python's own integers take quadratic)."""
    size = len(left) + len(right) + 2
    context = Context(prec=size, Emax=MAX_EMAX)
    return format(getattr(context, operation)(Decimal(left), Decimal(right)), "f")
