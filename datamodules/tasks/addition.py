"""Addition of two numbers with two pointers (paper, section 3 and appendix D.2)."""

import random
import re

from length_gen.datamodules.questions import FIRST, LAST, Questions, number
from length_gen.datamodules.tasks.arithmetic import DIGITS, add_columns, copy_answer, exact, pattern
from length_gen.datamodules.tasks.base import Problem, ToolTask, digits
from length_gen.datamodules.trajectory import Scribe
from length_gen.tools import PointerMemory, UserError


class Addition(ToolTask):
    """n-digit addition: `1 2 + 9 =` is answered by `2 1`. Length: digits of the longer operand.

    Training operands have U{1..max_length} digits each. Test operands have exactly `length` in the variant without a
    name, as in the paper; in `n + m` one of them, either, has `length` and the other U{1..length}, so that all kinds of
    training problems are tested too: carries go on where the shorter operand has ended. A trajectory has 35 tokens a
    digit. For `7+5=` in style `paper` (Q prompt, T thought, C command, O observation, A output)::

        7 + 5 =            QQQQ       p1.init p2.init                         CC
        p1 walks to '+':   p1.read 7 p1.right p1.read +                      COCCO
        p2 walks to '=':   p2.read 7 p2.right p2.read + p2.right p2.read 5 p2.right p2.read =
        p1.left p2.left p1.read 7 p2.read 5   CCCOCO    2 1                   TT (sum digit, carry)
        p1.left p2.left p1.read [EDGE] p2.read +        CCCOCO    1 0         TT (the last carry)
        [ANS]              T          p2.read + p2.right ... p2.read [ANS]    COC ... CO
        p2.left p2.read 0 p2.left p2.read 1   CCOCCO    1                     A
        p2.left p2.read 1 p2.left p2.read 2   CCOCCO    2                     A
        p2.left p2.read =  CCO        [END]
    """

    name = "addition"
    symbols = (*DIGITS, "+", "=")
    phases = ("start", "find_plus", "find_equals", "add", "find_answer", "copy")
    variants = ("", "n + m")

    def memory(self) -> PointerMemory:
        return PointerMemory(2)

    def questions(self, variant: str) -> Questions:
        return (*number(FIRST, "+", "plus", "left"), *number("plus", "=", LAST, "right"))

    def sample(self, rng: random.Random, length: int, variant: str = "") -> Problem:
        sizes = rng.sample((length, rng.randint(1, length)), 2) if variant else (length, length)
        return self._problem(*(digits(rng, size, zero=True) for size in sizes), variant)

    def structured(self, rng: random.Random, length: int, variant: str) -> list[Problem]:
        """Carries through all digits, and from the first; sums of 9 that wait for a carry; zeros and powers of ten; and
        in `n + m` operands of very different lengths, whose carries go on alone."""
        nines, power, many = "9" * length, "1" + "0" * (length - 1), digits(rng, length, zero=True)
        if variant:
            half = max(1, length // 2)
            pairs = [(nines, "1"), ("1", nines), (nines, "9" * half), ("9" * half, nines), ("5" * length, "5" * half),
                     (many, "9"), (digits(rng, 1, zero=True), many), (power, "9" * half), ("0", nines), (nines, "0"),
                     (digits(rng, half, zero=True), many)]
        else:
            last = power[:-1] + "1" if length > 1 else "1"
            pairs = [(nines, last), (last, nines), ("5" * length, "5" * length), (nines, nines),
                     ("4" * (length - 1) + "5", "5" * length), ("4" * length, "5" * length), (power, power),
                     (power, nines), (pattern("90", length), pattern("10", length)),
                     (pattern("1234567890", length), pattern("9876543210", length)), ("1" * length, many)]
        return [self._problem(*pair, variant) for pair in pairs]

    def sample_training(self, rng: random.Random) -> Problem:
        sizes = rng.randint(1, self.max_length), rng.randint(1, self.max_length)
        return self._problem(*(digits(rng, size, zero=True) for size in sizes))

    def longest_problem(self) -> Problem:
        return self._problem(*["9" * self.max_length] * 2)  # the last carry becomes a digit of its own

    def solve(self, problem: Problem, scribe: Scribe) -> None:
        scribe.phase("start")
        first, second = scribe.pointer(1), scribe.pointer(2)
        scribe.phase("find_plus")
        first.walk_right("+")
        scribe.phase("find_equals")
        second.walk_right("=")
        scribe.phase("add")
        first.left()
        second.left()
        add_columns(scribe, first, second, -1)
        copy_answer(scribe, second)

    def answer(self, problem: Problem) -> tuple[str, ...]:
        left, right = "".join(problem.prompt[:-1]).split("+")
        return tuple(exact("add", left, right))

    def parse(self, text: str) -> Problem:
        match = re.fullmatch(r"(0|[1-9]\d*)\+(0|[1-9]\d*)=?", re.sub(r"\s", "", text), re.ASCII)
        if not match:
            raise UserError(f"{text!r} is not a problem of addition: expected two numbers without leading zeros, "
                            f"like 123+45")
        return self._problem(*match.groups())

    @staticmethod
    def _problem(left: str, right: str, variant: str = "") -> Problem:
        return Problem((*left, "+", *right, "="), max(len(left), len(right)), variant)
