"""Steps that the arithmetic tasks share: column sums, and copying the answer out."""

from collections.abc import Set
from decimal import MAX_EMAX, Context, Decimal

from length_gen.datamodules.tokens import ANSWER
from length_gen.datamodules.trajectory import Pointer, Scribe, Step

DIGITS = tuple("0123456789")
DIGIT_SET = frozenset(DIGITS)


def add_columns(scribe: Scribe, left: Pointer, right: Pointer, step: int,
                beyond: tuple[Set[str], ...] | None = None) -> None:
    """Add two numbers digit by digit, from the least significant; writes sum digit and carry for each place.

    A pointer that reads a non-digit stops; `step` is how far it is to the next digit, negative to the left. A last
    carry becomes a digit of its own, with carry 0.

    beyond: the digits that the right number can have, place by place, beyond the left one's end, which is never after
            its own, where the task knows; an automaton, which takes what stands in the memory as free, then leaves out
            all others
    """
    carry = 0

    def add(one: str, other: str = "") -> tuple[str, str]:
        nonlocal carry, beyond
        if beyond is not None and not other:
            if not beyond or one not in beyond[0]:
                raise AssertionError(f"the right number has {one} beyond the left one's end")
            beyond = beyond[1:]
        carry, digit = divmod(carry + int(one) + int(other or 0), 10)
        return DIGITS[digit], DIGITS[carry]

    def moves(pointers: list[Pointer]) -> list[Step]:
        return [pointer.right if step > 0 else pointer.left for pointer in pointers for _ in range(abs(step))]

    running = [left, right]
    while running:
        symbols = scribe.rounds([pointer.read for pointer in running], DIGIT_SET, add, moves(running))
        symbols += [pointer.read() for pointer in running[len(symbols) :]]
        column = {pointer: symbol for pointer, symbol in zip(running, symbols, strict=True) if symbol in DIGIT_SET}
        running = list(column)
        if running:  # the other number has ended
            if beyond is not None and right not in running:
                raise AssertionError("the right number ends first")
            scribe.think(*add(*column.values()))
            for move in moves(running):
                move()
    if carry:
        scribe.think("1", "0")


def copy_answer(scribe: Scribe, pointer: Pointer) -> None:
    """Write [ANS], walk there, and back to '=', writing the digits that stand there in reverse, carries between."""
    scribe.phase("find_answer")
    scribe.answer()
    pointer.walk_right(ANSWER)
    scribe.phase("copy")
    pointer.left()
    scribe.rounds([pointer.read, pointer.left, pointer.read], DIGIT_SET, lambda carry, digit: (digit,), [pointer.left],
                  output=True)


def pattern(digits: str, length: int) -> str:
    """A number of so many digits in which these repeat."""
    return (digits * (length // len(digits) + 1))[:length]


def exact(operation: str, left: str, right: str) -> str:
    """`add` or `multiply` two numbers of any length, in about linear time (Python's own integers take quadratic)."""
    size = len(left) + len(right) + 2
    context = Context(prec=size, Emax=MAX_EMAX)
    return format(getattr(context, operation)(Decimal(left), Decimal(right)), "f")
