import random
import subprocess
import sys

import numpy as np
import pytest

from length_gen.datamodules.automaton import automaton, source_digest
from length_gen.datamodules.automaton.explore import Explorer
from length_gen.datamodules.automaton.windows import Automaton, of_trajectories
from length_gen.datamodules.tasks import Addition, Copy, LogicalGraph, Multiplication, Problem, Reverse, Turing
from length_gen.datamodules.tasks.base import ToolTask
from length_gen.tools import PointerMemory, UserError
from tests.datamodules.tasks.test_check import MAKERS

SETTING = {"setting": "question_in_tool"}
FAST = [name for name in MAKERS if "hanoi" not in name and name != "logical_graph"]


def recorded(task, few=4, lengths=(9, 23)):
    """Random training problems, and random and structured ones of several lengths."""
    rng = random.Random(0)
    problems = [task.sample_training(rng) for _ in range(25 * few)]
    for length in lengths:
        for variant in task.variants_at(length):
            problems += [task.problem("test", 0, length, index, variant) for index in range(few)]
            problems += task.structured_problems("test", 0, length, variant)
    return [task.record(problem) for problem in problems]


@pytest.mark.parametrize("name", FAST)
def test_what_is_sampled_is_in_it(name):
    task = MAKERS[name](**SETTING)
    found = automaton(task, 9 if name == "multiplication" else 5)
    sampled = of_trajectories(recorded(task), task.vocabulary(), found.order)
    assert found.contains(sampled)
    assert len(found.windows) < 10 * len(sampled.windows)  # and it is not just everything


def test_questions_that_are_read_in_whole_are_in_the_windows(monkeypatch):
    task = Turing("increment", 5)
    found = automaton(task, 4)
    assert found.contains(of_trajectories(recorded(task), task.vocabulary(), 4))
    monkeypatch.setattr("length_gen.datamodules.automaton.build.MOST_STEPS", 10_000)
    with pytest.raises(UserError, match=r"^addition in setting interactive has more than 10,000 windows of 8 tokens, .*"
                                        r" take setting question_in_tool, shorter windows, "):
        automaton(Addition(5), 8)


class Rare(ToolTask):
    """Copies letters up to the second `j`, which a sampled question has not got more than once in 10^9 times."""

    name, symbols, phases = "rare", (*"abj=", "<twice>"), ("first", "second")

    def memory(self):
        return PointerMemory(1)

    def sample(self, rng, length, variant=""):
        return Problem((*("jj" if rng.random() < 1e-9 else rng.choices("ab", k=length)), "="), length)

    def parse(self, text):
        return Problem((*text, "="), len(text))

    def questions(self, variant):
        return ("start", "abj", "start"), ("start", "=", "end")

    def solve(self, problem, scribe):
        scribe.phase("first")
        pointer = scribe.pointer(1)
        scribe.answer()
        seen = 0
        while (symbol := pointer.read()) != "=":
            seen += symbol == "j"
            if seen == 2:
                scribe.think("<twice>")
                return
            scribe.phase("second" if seen else "first")
            scribe.output(symbol)
            pointer.right()

    def answer(self, problem):
        return tuple("j".join("".join(problem.prompt[:-1]).split("j")[:2]))


def test_what_no_sample_shows_is_in_it():
    task = Rare(5, **SETTING)
    vocabulary = task.vocabulary()
    found = automaton(task, 4)
    before, wanted = found.windows[:, -1].tolist(), found.wanted.tolist()
    assert vocabulary.id("<twice>") in wanted and vocabulary.id("<twice>") in before
    sampled = of_trajectories(recorded(task), vocabulary, 4)
    assert found.contains(sampled) and vocabulary.id("j") not in sampled.windows
    rare = [task.record(task.parse(text)) for text in ("ajbbaja", "jj", "j")]
    assert found.contains(of_trajectories(rare, vocabulary, 4))


def test_windows_grow_until_they_suffice():
    task = Multiplication(3, **SETTING)
    assert automaton(task, 5, variants=["n x 1"]).order == 6
    with pytest.raises(UserError, match=r"^no window of up to 5 tokens suffices for multiplication in style local: "):
        automaton(task, 5, 5, ["n x 1"])


@pytest.mark.parametrize("task", [Addition(3, style="paper", **SETTING), Reverse(3, setting="no_tool"),
                                  MAKERS["sort"](style="paper", **SETTING)], ids=["addition", "no_tool", "sort"])
def test_where_no_window_suffices(task):
    with pytest.raises(UserError, match=r"no_tool has a|^no window of up to 7 tokens suffices for .* in style paper: "):
        automaton(task, 7, 7)


def kept(automaton, names, newest):
    """What `contains` wants of windows that hold names among the newest tokens only."""
    windows = automaton.windows.copy()
    windows[:, :-newest][np.isin(windows[:, :-newest], names)] = -1
    rows, place = np.unique(windows, axis=0, return_inverse=True)
    wanted = np.full(len(rows), -1, dtype=np.int32)
    asked = automaton.wanted >= 0
    wanted[place[asked]] = automaton.wanted[asked]
    return Automaton(rows, place[automaton.source], place[automaton.target], wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "newest"), [("hanoi_recursive", 1), ("hanoi_iterative", 5)])
def test_a_few_names_stand_for_all(name, newest):
    task = MAKERS[name](**SETTING)
    vocabulary = task.vocabulary()
    found = automaton(task, 8)
    names = [vocabulary.id(size) for size in task.names]
    assert not np.isin(found.windows[:, :-newest], names).any()
    assert set(names) <= set(found.windows[:, -1]) and set(names) <= set(found.wanted)
    sampled = kept(of_trajectories(recorded(task, 1, (3, 7)), vocabulary, 8), names, newest)
    assert found.contains(sampled)
    # All names are alike: another order of them changes nothing.
    order = np.arange(len(vocabulary) + 1)
    order[names], order[-1] = names[::-1], -1
    rows = order[found.windows]
    again = rows[np.lexsort(rows.T[::-1])]
    assert np.array_equal(again, found.windows)


class Named(Copy):
    """Writes each letter with the one before it, and so has two names in a window."""

    names = tuple("abcdefghij")

    def questions(self, variant):
        return ("start", self.names, "start"), ("start", "=", "end")

    def solve(self, problem, scribe):
        scribe.phase("copy")
        pointer = scribe.pointer(1)
        scribe.answer()
        before = None
        while (symbol := pointer.read()) != "=":
            if before is not None:
                scribe.output(before)
            scribe.output(symbol)
            before = symbol
            pointer.right()


def test_as_many_names_are_explored_as_a_window_holds(monkeypatch):
    explored = []
    original = Explorer.states
    monkeypatch.setattr(Explorer, "states", lambda self: explored.append(self) or original(self))
    task = Named(5, **SETTING)
    found = automaton(task, 8)
    texts = ["abcd", "aaba", "jihg", "cc", ""]
    recorded = [task.record(task.parse(text)) if text else task.record(Problem(("=",), 1)) for text in texts]
    names = [task.vocabulary().id(name) for name in task.names]
    newest = next(n for n in range(8, 0, -1) if np.isin(found.windows[:, -n], names).any())
    assert len(explored) == 3  # with two names, three and four
    assert found.contains(kept(of_trajectories(recorded, task.vocabulary(), 8), names, newest))


LOOKS = [  # one a line, as the explorer finds a function by its line
    lambda name, other: name == other,
    lambda name, other: name == "a",
    lambda name, other: name in {"=": 1},
    lambda name, other: name in ("=", "b"),
    lambda name, other: f"{name}",
    lambda name, other: name.isdigit(),
    lambda name, other: isinstance(name, str),
    lambda name, other: name is other,
    lambda name, other: not name,
    lambda name, other: sorted([name, other]),
    lambda name, other: name + other]


@pytest.mark.parametrize("look", LOOKS)
def test_an_algorithm_that_looks_at_a_name_is_refused(monkeypatch, look):
    def solve(self, problem, scribe):
        scribe.phase("copy")
        pointer = scribe.pointer(1)
        if look(pointer.read(), pointer.read()):
            scribe.think("=")

    monkeypatch.setattr(Named, "solve", solve)
    monkeypatch.setattr(Named, "questions", lambda self, variant: (("start", self.names, "more"), ("more", "=", "end")))
    said = r"test_build.py:\d+: (an algorithm that looks at one of its task's `names`, |TypeError: )"
    with pytest.raises(UserError, match=said):
        automaton(Named(5, **SETTING), 8)


def test_names_that_the_questions_tell_apart_are_none(monkeypatch):
    monkeypatch.setattr(Named, "questions", lambda self, variant: (("start", "abc", "more"), ("more", "=", "end")))
    with pytest.raises(UserError, match=r"^the questions of copy tell its names apart: from start to more it matters "):
        automaton(Named(5, **SETTING), 8)


def test_windows_that_become_too_many_did_not_suffice(monkeypatch):
    monkeypatch.setattr("length_gen.datamodules.automaton.build.MOST_STEPS", 10_000)
    with pytest.raises(UserError, match=r"^no window of up to \d tokens suffices for addition in style paper: "):
        automaton(Addition(5, style="paper", **SETTING), 4)


def test_it_never_samples(monkeypatch):
    task = Addition(3, **SETTING)
    for name in ("sample", "sample_training", "sample_held_out", "structured", "record"):
        monkeypatch.setattr(Addition, name, None)
    assert automaton(task, 7).order == 7


def test_a_search_memory_cannot_be_explored():
    with pytest.raises(UserError, match=r"^logical_graph in setting interactive has a SearchMemory: only algorithms "
                                        r"with a PointerMemory and Tape can be explored$"):
        automaton(LogicalGraph(5))


class Own(Copy):
    """Its algorithm is set by each test."""


def solve_by_question(self, problem, scribe):
    scribe.phase("copy")
    scribe.answer()
    scribe.output(*problem.prompt[:-1])


def solve_by_counting(self, problem, scribe):
    scribe.phase("copy")
    pointer, count = scribe.pointer(1), 0
    while pointer.read() != "=":
        count += 1
        pointer.right()
    scribe.output(*"a" * count)


def solve_by_exception(self, problem, scribe):
    try:
        scribe.phase("copy")
    finally:
        pass


def solve_by_attribute(self, problem, scribe):
    self.kept.append(1)


def solve_by_map(self, problem, scribe):
    pointer = scribe.pointer(1)
    list(map(lambda _: pointer.read(), range(2)))


def solve_wrongly(self, problem, scribe):
    scribe.phase("copy")
    pointer = scribe.pointer(1)
    scribe.think({"a": "b"}[pointer.read()])


@pytest.mark.parametrize(("solve", "said"), [
    (solve_by_question, r"test_build.py:\d+: an algorithm that looks at the question itself, not through its tool, "),
    (solve_by_counting, r"^copy has more than 300 states: does a variable grow with the question\?$"),
    (solve_by_exception, r"test_build.py:\d+: an algorithm with this \(Try\) cannot be explored; write it with "),
    (solve_by_attribute, r"^the algorithm changes \[1.*\], which is not its own: keep what it works with in its "),
    (solve_by_map, r"test_build.py:\d+: <lambda> asks the tool where Python calls it; write a loop$"),
    (solve_wrongly, r"test_build.py:\d+: KeyError: '.'; if it cannot come to that, say so in Own.questions, or raise "),
])
def test_what_cannot_be_explored_is_told_in_a_line(monkeypatch, solve, said):
    monkeypatch.setattr("length_gen.datamodules.automaton.explore.MOST_STATES", 300)
    monkeypatch.setattr(Own, "solve", solve)
    monkeypatch.setattr(Own, "kept", [], raising=False)
    task = Own(3, **SETTING)
    task.kept = []
    with pytest.raises(UserError, match=said):
        automaton(task, 4)


def test_a_helper_that_does_something_else_is_another_source(monkeypatch):
    before = source_digest(Addition(5)), source_digest(Copy(5))
    monkeypatch.setattr("length_gen.datamodules.tasks.addition.add_columns", solve_by_question)
    assert source_digest(Addition(5)) != before[0] and source_digest(Copy(5)) == before[1]


def test_digests_stay_over_processes_and_tell_tasks_apart():
    tasks = (Copy(3), Copy(5), Copy(3, style="paper"), Copy(3, **SETTING), Reverse(3), Turing("copy", 3),
             Turing("sort", 3))
    assert len(set(map(source_digest, tasks))) == 6  # of any length
    assert len({source_digest(MAKERS[name]()) for name in MAKERS}) == len(MAKERS)
    assert len({source_digest(Multiplication(3), variants) for variants in (None, ["n x 1"], ["n x 2"])}) == 3
    code = ("from length_gen.datamodules.automaton import automaton, source_digest\n"
            "from length_gen.datamodules.tasks import Turing\n"
            "task = Turing('sort', 3)\nprint(source_digest(task), automaton(task, 4).digest())")
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert other == [source_digest(Turing("sort", 3)), automaton(Turing("sort", 3), 4).digest()]
