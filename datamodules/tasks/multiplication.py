"""Multiplication of a long number by a short one with pointers (paper, section 3 and appendix D.2)."""

import random
import re

from length_gen.datamodules.questions import FIRST, LAST, Questions
from length_gen.datamodules.tasks.arithmetic import DIGIT_SET, DIGITS, add_columns, copy_answer, exact, pattern
from length_gen.datamodules.tasks.base import Problem, ToolTask, digits
from length_gen.datamodules.trajectory import Scribe
from length_gen.tools import PointerMemory, UserError


class Multiplication(ToolTask):
    """n digits times 1 or 2 digits: `2 7 x 5 =` is answered by `1 3 5`. Length: digits of the first operand.

    The memory after the work on `27x15=` (product digit and carry for each place, one partial result for each digit of
    the second operand, the second with one place of zeros, then their sum, all in reverse)::

        2 7 x 1 5 = 5 3 3 1 1 0 + 0 0 7 0 2 0 = 5 0 0 1 4 0 [ANS] 4 0 5

    Every pair is (digit, carry); the answer is read off the last part from right to left. A problem takes about 27
    tokens a digit with a one-digit second operand and about 56 with two digits.
    """

    name = "multiplication"
    symbols = (*DIGITS, "x", "+", "=")
    phases = ("start", "find_times", "find_equals", "digit_1", "multiply_1", "digit_2", "rewind", "multiply_2",
              "digit_3", "find_first", "find_second", "add", "find_answer", "copy")
    variants = ("n x 1", "n x 2")

    def memory(self) -> PointerMemory:
        return PointerMemory(2)

    def questions(self, variant: str) -> Questions:
        second = (("times", "123456789", "units"), ("units", "=", LAST))
        if variant == "n x 2":
            second = (("times", "123456789", "tens"), ("tens", DIGITS, "units"), ("units", "=", LAST))
        return ((FIRST, "123456789", "left"), ("left", DIGITS, "left"), ("left", "x", "times"), *second)

    def sample(self, rng: random.Random, length: int, variant: str) -> Problem:
        return self._problem(digits(rng, length), digits(rng, self.variants.index(variant) + 1))

    def structured(self, rng: random.Random, length: int, variant: str) -> list[Problem]:
        """Largest carries in every place, none at all, zeros and powers of ten, and patterns; each by the factors that
        go with it."""
        nines, power, many = "9" * length, "1" + "0" * (length - 1), digits(rng, length)
        zeros = pattern("90", length)
        pairs = [(nines, "9"), (nines, "1"), ("5" * length, "2"), (power, "9"), ("1" * length, "9"), (many, "1"),
                 (zeros, "5"), (pattern("12345679", length), "9"), (many, "9"), (pattern("3", length), "3")]
        if variant == self.variants[1]:
            pairs = [(nines, "99"), (nines, "11"), (nines, "10"), (power, "99"), ("5" * length, "20"), (many, "90"),
                     (zeros, "55"), (pattern("12345679", length), "99"), (many, "11"), ("1" * length, "91")]
        return [self._problem(*pair) for pair in pairs]

    def sample_training(self, rng: random.Random) -> Problem:
        return self.sample(rng, rng.randint(1, self.max_length), rng.choice(self.variants))

    def longest_problem(self) -> Problem:
        return self._problem("9" * self.max_length, "99")

    def solve(self, problem: Problem, scribe: Scribe) -> None:
        scribe.phase("start")
        first, second = scribe.pointer(1), scribe.pointer(2)
        scribe.phase("find_times")
        first.walk_right("x")
        scribe.phase("find_equals")
        second.walk_right("=")
        partials = 0
        while self._next_digit(scribe, second, partials):
            if partials:
                scribe.think("+", "0", "0")
                scribe.phase("rewind")
                first.walk_right("x")
            partials += 1
            scribe.phase(f"multiply_{partials}")
            self._multiply(scribe, first, second)
        if partials == 2:
            scribe.think("=")
            scribe.phase("find_first")
            first.walk_right("=")
            first.right()
            scribe.phase("find_second")
            second.walk_right("+")
            second.right()
            scribe.phase("add")
            # Over the carries. By its zero the second is not the shorter one; it goes two places further only with its
            # last carry, which is written where it is not 0, and at most 8: d x e + 8 <= 89.
            add_columns(scribe, first, second, 2, beyond=(DIGIT_SET, DIGIT_SET - {"0", "9"}))
        copy_answer(scribe, second)

    @staticmethod
    def _next_digit(scribe: Scribe, second, partials: int) -> bool:
        """Move to the next digit of the second operand; False if there is none."""
        # The phase counts the partial results (a bounded count), so that what follows 'x' needs no memory of them.
        scribe.phase(f"digit_{partials + 1}")
        second.left()
        return second.read() != "x"

    @staticmethod
    def _multiply(scribe: Scribe, first, second) -> None:
        """Write the first operand times the digit under `second`."""
        carry = 0

        def multiply(digit: str, factor: str) -> tuple[str, str]:
            nonlocal carry
            carry, product = divmod(int(digit) * int(factor) + carry, 10)
            return DIGITS[product], DIGITS[carry]

        first.left()
        scribe.rounds([first.read, second.read], DIGIT_SET, multiply, [first.left])
        if carry:
            scribe.think(DIGITS[carry], "0")

    def answer(self, problem: Problem) -> tuple[str, ...]:
        left, right = "".join(problem.prompt[:-1]).split("x")
        return tuple(exact("multiply", left, right))

    def parse(self, text: str) -> Problem:
        match = re.fullmatch(r"([1-9]\d*)[x*]([1-9]\d?)=?", re.sub(r"\s", "", text), re.ASCII)
        if not match:
            raise UserError(f"{text!r} is not a problem of multiplication: expected a number times one of 1 or 2 "
                            f"digits, both without leading zeros, like 12345x67")
        return self._problem(*match.groups())

    def _problem(self, left: str, right: str) -> Problem:
        return Problem((*left, "x", *right, "="), len(left), self.variants[len(right) - 1])
