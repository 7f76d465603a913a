"""`rollout`: of a problem, or of a length at which the model fails."""

import re
from types import SimpleNamespace

import pytest

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules.commands.rollout import rollout
from length_gen.tools import UserError


class Fails:
    """A run that errs on the given numbers of test problems, and keeps what is rolled out."""

    def __init__(self, *numbers, length=7):
        self.data = TrajectoryDataModule(Addition(3))
        self.task, self.rolled = self.data.task, []
        self.texts = ["".join(self.data.problem("test", length, number, variant).prompt[:-1])
                      for number in range(32) for variant in self.task.variants_at(length)]
        self.wrong = {self.texts[number] for number in numbers}

    def verify(self, text):
        return SimpleNamespace(exact=text not in self.wrong)

    def rollout(self, text, progress):
        self.rolled.append(text)
        return SimpleNamespace(show=lambda limit, around: None, first_error=None if self.verify(text).exact else 9)


@pytest.mark.parametrize(("numbers", "chosen", "said"), [
    ((5, 3), 3, "test problem 4 of 64 at length 7 is the first that fails"),
    ((), 0, "none of 64 test problems at length 7 fails: this is the first")])
def test_a_length_stands_for_the_first_test_problem_that_fails(numbers, chosen, said, capsys):
    run = Fails(*numbers)
    rollout(run, length=7)
    assert run.rolled == [run.texts[chosen]]
    first, *more = capsys.readouterr().out.strip().splitlines()
    assert first == said and bool(more) == bool(numbers)
    assert all("trained up to length 3; what to change: docs/evaluation.md" in line for line in more)


@pytest.mark.parametrize(("given", "said"), [
    ({}, "needs --prompt, a problem, or --length"), ({"prompt": "1+2", "length": 3}, "needs --prompt"),
    ({"length": 0}, "length 0|lengths [0]")])
def test_what_is_to_be_rolled_out_is_one_thing(given, said):
    with pytest.raises(UserError, match="|".join(map(re.escape, said.split("|")))):
        rollout(Fails(), **given)
