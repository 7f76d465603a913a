"""Every task's trajectories say its answers, and a task of one's own that is not sound gets one line."""

import random
from dataclasses import replace
from itertools import product

import pytest

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.settings import SETTINGS
from length_gen.datamodules.tasks import (
    Addition,
    Copy,
    HanoiIterative,
    HanoiRecursive,
    LogicalGraph,
    Mixture,
    Multiplication,
    Problem,
    Reverse,
    Sort,
    ToolTask,
    Turing,
    check_task,
)
from length_gen.datamodules.tasks.machine import FOLDER
from length_gen.datamodules.trajectory import STYLES
from length_gen.tools import PointerMemory, Tape, Tool, UserError

CLASSES = [Addition, Multiplication, Copy, Reverse, Sort, HanoiIterative, HanoiRecursive, LogicalGraph]
MACHINES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
MAKERS = {cls.name: lambda cls=cls, **settings: cls(5, **settings) for cls in CLASSES} | {
    f"turing_{machine}": lambda machine=machine, **settings: Turing(machine, 5, **settings) for machine in MACHINES} | {
    "mixture": lambda **settings: Mixture([Copy(3, **settings), Turing("add", 4, **settings)])}


@pytest.mark.parametrize("name", MAKERS)
def test_every_trajectory_says_the_answer(name):
    rng = random.Random(0)
    for style, setting in product(STYLES, SETTINGS):
        task = MAKERS[name](style=style, setting=setting)
        check_task(task)
        problems = [task.sample_training(rng) for _ in range(20)]
        problems += [task.problem("test", 0, length, 0, variant) for length in range(4, 9) for variant in task.variants]
        for problem in problems:
            assert tuple(task.record(problem).outputs()) == task.outputs(problem), (style, setting, problem)
            answer = task.answer(problem)
            assert task.outputs(problem) == (answer[::-1] if setting == "direct_reversed" else answer)


def test_a_task_whose_trajectories_say_something_else():
    class Wrong(Reverse):
        def answer(self, problem):
            return problem.prompt[:-1]

    with pytest.raises(UserError, match=r"^reverse: the trajectory of '. . =' outputs '(.) (.)', but the answer is '\2 "
                                        r"\1': mend its solve or its answer$"):
        TrajectoryDataModule(Wrong(5))


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_wrong_answer_is_found_in_every_setting(setting):
    """Where the answer is the trajectory there is nothing else in it to hold it against."""
    class Wrong(Sort):
        def answer(self, problem):
            return problem.prompt[:-1]

    with pytest.raises(UserError, match=r"mend its solve or its answer$"):
        check_task(Wrong(5, setting=setting))


def test_an_answer_that_is_wrong_for_long_problems_alone():
    class Wrong(Reverse):
        def answer(self, problem):
            return super().answer(problem)[:: -1 if problem.length > 7 else 1]

    with pytest.raises(UserError, match=r"mend its solve or its answer$"):
        check_task(Wrong(10))


@pytest.mark.parametrize(("length", "variant", "message"), [
    (-1, "", r"length -1 and variant ''"), (11, "", r"length 11 .* at most max_length 10"),
    (3, "other", r"variant 'other'; expected .* variants ''")])
def test_a_training_problem_that_the_task_has_not(length, variant, message):
    class Wrong(Reverse):
        def sample_training(self, rng):
            return replace(self.sample(rng, 3, ""), length=length, variant=variant)

    with pytest.raises(UserError, match=message):
        check_task(Wrong(10))


def test_the_last_part_of_a_mixture_is_tried_too():
    """Its problems are none of the shortest, and it has none of their length."""
    class Wrong(LogicalGraph):
        def answer(self, problem):
            return ("True" if super().answer(problem) == ("False",) else "False",)

    with pytest.raises(UserError, match=r"the trajectory of '.*=.*outputs '(True|False)'"):
        TrajectoryDataModule(Mixture([Copy(2), Wrong(5)]))


def test_a_task_without_a_name():
    class Nameless(Copy):
        name = ""

    with pytest.raises(UserError, match="task Nameless has no name"):
        TrajectoryDataModule(Nameless(5))


@pytest.mark.parametrize("missing", ["name", "symbols", "phases"])
def test_a_task_that_does_not_say_all(missing):
    facts = {key: vars(Addition)[key] for key in ("name", "symbols", "phases") if key != missing}
    methods = {key: value for key, value in vars(Addition).items() if callable(value)}
    base, = Addition.__bases__
    with pytest.raises(UserError, match=f"task Mine has no {missing}"):
        type("Mine", (base,), methods | facts)(5)


@pytest.mark.parametrize("facts", [{"symbols": (*Copy.symbols, symbol)} for symbol in (
    "p1.read", "read@", "[ANS]", "[END]", "[EDGE]", "[CALL]")] + [{"phases": ("copy@home",)}])
@pytest.mark.parametrize("setting", SETTINGS)
def test_tokens_that_the_protocol_uses_are_no_symbols(facts, setting):
    task = type("Mine", (Copy,), facts)(3, setting=setting)
    if setting in ("interactive", "no_tool", "question_in_tool") or "symbols" in facts:
        with pytest.raises(UserError, match="copy cannot have the token"):
            TrajectoryDataModule(task)


def test_commands_of_ones_own_have_no_mark():
    class Mail(PointerMemory):
        @property
        def commands(self):
            return {**super().commands, "send@home": tuple}

    class Mine(Copy):
        def memory(self):
            return Mail(1)

    with pytest.raises(UserError, match="cannot have the token 'send@home'"):
        TrajectoryDataModule(Mine(3))


def test_a_machine_over_the_mark_of_phases(tmp_path):
    """Where its command `write.@@run` ends nobody could tell."""
    text = (FOLDER / "copy.yaml").read_text(encoding="utf-8").replace("ab=AB", "ab=AB@")
    (tmp_path / "mail.yaml").write_text(text)
    assert Tape("@").commands.keys() == {"read", "left", "right", "write.@"}
    with pytest.raises(UserError, match="turing_mail cannot have the token '@'"):
        TrajectoryDataModule(Turing(str(tmp_path / "mail.yaml"), 3))


def test_a_tool_that_says_no_tuple_and_a_command_that_the_tool_has_not_are_told_as_such():
    class Word(Tool):
        def __init__(self):
            self.commands = {"next": lambda: "end"}  # a tuple of one token lacks its comma

        def reset(self, prompt):
            pass

        def write(self, token):
            pass

    class Look(ToolTask):
        name, symbols, phases, asks = "look", ("a", "end"), ("look",), "next"

        def memory(self):
            return Word()

        def sample(self, rng, length, variant=""):
            return Problem(("a",) * length, length)

        def solve(self, problem, scribe):
            scribe.phase("look")
            scribe.output("end" if scribe.command(self.asks) == ("end",) else "a")

        def answer(self, problem):
            return ("end",)

        def parse(self, text):
            return Problem(tuple(text), len(text))

    with pytest.raises(UserError, match=r"^look, the trajectory of 'a': unknown token 'e': .* tokens are .* next@look; "
                                        r"mend its symbols, phases or solve, or what its tool says, a tuple of tokens"):
        check_task(Look(3))
    Look.asks = "nxt"
    with pytest.raises(UserError, match=r"unknown token 'nxt'"):
        check_task(Look(3))
