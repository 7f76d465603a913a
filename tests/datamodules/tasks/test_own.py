"""A task, a tool and a setting of one's own: a class each, and nothing else to change."""

import random

import pytest
from jsonargparse import ArgumentParser

from length_gen.datamodules.settings import SETTINGS, Direct
from length_gen.datamodules.stream import TrajectoryStream
from length_gen.datamodules.tasks import Addition, Problem, Task, ToolTask, check_task
from length_gen.datamodules.tokens import Kind
from length_gen.datamodules.trajectory import STYLES
from length_gen.tools import Tool, UserError
from tests.datamodules.tasks.test_base import replay


class Stack(Tool):
    """Symbols one on the other: the question's at first; `pop` takes off the last and says it."""

    def __init__(self):
        self._symbols = []
        self.commands = {"pop": lambda: (self._symbols.pop() if self._symbols else "none",)}

    def reset(self, prompt):
        self._symbols[:] = prompt

    def write(self, token):
        pass


class Parity(ToolTask):
    """Whether a row of bits has an odd number of ones: a thought for each bit."""

    name, symbols, phases, variants = "parity", ("0", "1", "even", "odd", "none"), ("count",), ("",)

    def memory(self):
        return Stack()

    def sample(self, rng, length, variant=""):
        return Problem(tuple(rng.choices("01", k=length)), length)

    def solve(self, problem, scribe):
        said = "even"
        scribe.phase("count")
        while (bit := scribe.command("pop")[0]) != "none":
            said = {"even": "odd", "odd": "even"}[said] if bit == "1" else said
            scribe.think(said)
        scribe.answer()
        scribe.output(said)

    def answer(self, problem):
        return ("odd" if problem.prompt.count("1") % 2 else "even",)

    def parse(self, text):
        return Problem(tuple(text), len(text))


class Drafted(Direct):
    """The answer as a thought first."""

    name, phases = "drafted", ("draft", "answer")

    def solve(self, task, problem, scribe):
        scribe.phase("draft")
        scribe.think(*task.answer(problem))
        super().solve(task, problem, scribe)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("setting", [*SETTINGS, Drafted()], ids=[*SETTINGS, Drafted.name])
@pytest.mark.parametrize("task", [Parity, Addition])
def test_each_works_with_all_others(task, setting, style):
    task = task(6, style, setting)
    check_task(task)
    stream = TrajectoryStream(task, 0)
    for i in range(5):
        item = stream[i]
        assert item.kinds[-1] == Kind.END and item.length <= 6
        problem = task.sample_training(random.Random(i))
        replay(task, problem, task.record(problem))


def test_by_hand():
    problem, written = Parity(5).parse("01"), "0 1 pop@count 1 odd pop@count 0 odd pop@count none [ANS] odd [END]"
    assert " ".join(Parity(5, "local").record(problem).tokens) == written
    assert " ".join(Parity(5, "local", Drafted()).record(problem).tokens) == "0 1 odd [ANS] odd [END]"


def test_a_setting_is_named_by_its_import_path():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--task", type=Task)
    own = f"{Drafted.__module__}.{Drafted.__name__}"
    for given, name in (("no_tool", "no_tool"), (own, "drafted")):
        parsed = parser.parse_args([f"--task={__name__}.Parity", "--task.max_length=3", f"--task.setting={given}"])
        saved = parser.parse_string(parser.dump(parsed))  # as a run's configuration is kept
        assert parser.instantiate_classes(saved).task.setting == name
    with pytest.raises(UserError, match=r"unknown setting 'nonsense': parity has interactive, .* by its import path"):
        Parity(3, setting="nonsense")
