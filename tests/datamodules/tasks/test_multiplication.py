"""What the algorithm says of its partial products, from which an automaton leaves out all else."""

import pytest

from length_gen.datamodules.tasks import Multiplication, multiplication
from length_gen.datamodules.tasks.arithmetic import DIGIT_SET, add_columns

PAIRS = [(a, b) for a in (1, 9, 10, 11, 89, 90, 99, 100, 112, 909, 999) for b in range(10, 100)]


def test_the_second_partial_product_beyond_the_first_one_s_end_by_schoolbook():
    seen = {0: set(), 1: set()}
    for a, b in PAIRS:
        first, second = (str(a * digit).zfill(len(str(a)))[::-1] for digit in (b % 10, b // 10))
        beyond = ("0" + second)[len(first) :]
        assert len("0" + second) >= len(first) and len(beyond) <= 2
        for place, digit in enumerate(beyond):
            seen[place].add(digit)
    assert seen[1] and not seen[1] & {"0", "9"}
    task = Multiplication(3)
    assert all("".join(task.record(task.parse(f"{a}x{b}")).outputs()) == str(a * b) for a, b in PAIRS)


def test_another_number_there_is_refused(monkeypatch):
    def narrower(*given, beyond):
        add_columns(*given, beyond=(DIGIT_SET, DIGIT_SET - {"8"}))

    monkeypatch.setattr(multiplication, "add_columns", narrower)
    task = Multiplication(3)
    with pytest.raises(AssertionError, match="the right number has 8 beyond"):
        task.record(task.parse("99x90"))  # the second is 0 1 9 8, the first 0 0
