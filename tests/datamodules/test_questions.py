"""Each task's questions are those of its problems, and not all texts of its symbols."""

import random

import pytest

from length_gen.datamodules.questions import accepts, standing_in
from length_gen.datamodules.tasks import Addition, Copy, Multiplication, Turing, check_task
from length_gen.tools import UserError
from tests.datamodules.tasks.test_check import MAKERS


@pytest.mark.parametrize("name", [name for name in MAKERS if name != "mixture"])
def test_all_problems_are_questions(name):
    task, rng = MAKERS[name](), random.Random(0)
    for variant in task.variants:
        questions = task.questions(variant)
        drawn = [task.problem("test", 0, length, index, variant) for length in range(4, 11) for index in range(5)]
        for problem in [*drawn, *task.structured_problems("test", 0, 9, variant)]:
            assert accepts(questions, problem.prompt)
            assert not accepts(questions, problem.prompt[:-1]) or name.startswith(("turing", "logical"))
    seen = [task.sample_training(rng) for _ in range(50)]
    assert all(any(accepts(task.questions(variant), problem.prompt) for variant in task.variants) for problem in seen)


@pytest.mark.parametrize(("task", "variant", "texts"), [
    (Addition(3), "", ["01+1=", "1+00=", "+1=", "1+=", "1+1", "1+1=1"]),
    (Multiplication(3), "n x 1", ["1x10=", "0x1=", "1x0="]),
    (Multiplication(3), "n x 2", ["1x1=", "1x111=", "1x01="]),
    (Copy(3), "", ["=", "a=b="]),
    (Turing("add", 3), "", ["+1", "1+", "1+1+1", "O+1"]),
    (Turing("multiply_unary", 3), "", ["1x1111=", "1x1", "x1="]),
])
def test_what_is_no_question(task, variant, texts):
    assert [text for text in texts if accepts(task.questions(variant), tuple(text))] == []


def test_a_few_names_stand_for_all():
    questions = ("start", "xabcd", "more"), ("more", "abcd", "more"), ("more", "=", "end")
    few = standing_in(questions, "abcd", "ab")
    assert [text for text in ("xab=", "ba=", "x=", "xc=", "d=", "xx=") if accepts(few, text)] == ["xab=", "ba=", "x="]
    with pytest.raises(ValueError, match="from more to end it matters which name it is"):
        standing_in((*questions, ("more", "ab", "end")), "abcd", "ab")


def test_a_problem_that_is_no_question_is_told():
    class Narrow(Copy):
        def questions(self, variant):
            return ("start", "abc", "more"), ("more", "abc", "more"), ("more", "=", "end")

    with pytest.raises(UserError, match=r"^copy: '.* =' is a problem, but none of its questions: mend its `questions`"):
        check_task(Narrow(9))
