"""The machine does what Python does, and what is thawed goes on as what was frozen."""

import random

import pytest

from length_gen.datamodules.automaton.explore import SCRIBE, _Pointer, _Scribe
from length_gen.datamodules.automaton.frozen import Constants, Freezer
from length_gen.datamodules.automaton.machine import Machine, Stopped, enter
from length_gen.datamodules.automaton.program import Unsupported
from length_gen.datamodules.automaton.values import UNKNOWN
from length_gen.datamodules.trajectory import Scribe
from tests.datamodules.tasks.test_check import MAKERS


def replay(task, problem):
    """The trajectory that the machine writes, with the real tool; frozen and thawed before each call of the scribe."""
    scribe, pointers = Scribe(task.tool(), problem.prompt, task.mark, shown=task.shown(problem)), {}
    constants = Constants(task, SCRIBE)
    freezer = Freezer(constants)
    machine = Machine([enter(task._setting.solve, (task, UNKNOWN, SCRIBE), {})], constants)
    while (request := machine.run()) is not None:
        machine = Machine(freezer.thaw(freezer.freeze(machine.frames)), constants)
        machine.run()
        if request.handle is None:
            machine.answer(True)  # a loop over at most so many steps of a machine goes on
            continue
        handle = scribe if isinstance(request.handle, _Scribe) else pointers[request.handle.number]
        value = getattr(handle, request.name)(*request.arguments, **request.named)
        if request.name == "pointer":
            pointers[request.arguments[0]], value = value, _Pointer(request.arguments[0])
        machine.answer(value)
    return scribe.end()


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("logical_graph", "mixture")])
def test_it_writes_the_recorded_trajectory(name):
    task = MAKERS[name](setting="question_in_tool")
    rng = random.Random(1)
    for problem in [task.sample_training(rng) for _ in range(3)]:
        assert replay(task, problem) == task.record(problem)


def loops(n):
    found = []
    for i in range(n):
        if i == 3:
            continue
        for j in "abc":
            if j == "c":
                break
            found.append((i, j))
        else:
            found.append("never")
        while i > 5:
            i -= 2
            if i == 6:
                break
        else:
            found.append(i)
    return found


def expressions(n):
    values = [x * y for x in range(n) if x % 2 for y in (1, 2) if y != x]
    pairs = {x: {y for y in range(x)} for x in values}
    first = next((x for x in values if x > 3), None)
    low, *middle, high = [0, *values, n]
    (a, b), c = (low, high), (1 < n <= 9 != 5 and -n) or not n
    text = f"{n:>4}|{n!r}|{'x' if n else 'y'}"
    middle[0:1] = [7, 8]
    pairs[n] = a if b else c
    pairs[n] += 5
    return values, pairs, first, middle, a, b, c, text, (m := n // 2) + m ** 2, values[1:][::-1]


def functions(n):
    total, calls = 0, []

    def add(amount, *rest, scale=n, **named):
        nonlocal total
        total += amount * scale + sum(rest) + sum(named.values())
        calls.append(total)
        return total

    def twice(function, *arguments):
        return function(*arguments) + function(*arguments)

    add(1)
    add(1, 2, 3, scale=2, other=4)
    keys = {"scale": 3}
    twice(add, 1, *range(3))
    add(2, **keys)
    ordered = sorted(calls, key=lambda value, sign=-1: sign * value)
    return total, ordered, list(map(lambda value: value + n, calls)), twice(lambda: len(calls))


def aliases(n):
    one = other = [n]
    rows = [one] * 2
    other.append(1)
    rows[0] += [2]
    for item in one:
        if len(one) < 6:
            one.append(item + 1)
    return one, rows, one is other


def changing(n):
    found, one, two, named = [], [1, 2, 3], [4, 5, 6], {"a": n, "b": 2}
    for x, y in zip(one, two, strict=False):
        if len(one) < 6:
            one.append(x)
            two[-1] = y
        found.append((x, y))
    for i, x in enumerate(one, n):
        one[-1] = i
        found.append(x)
    for x in reversed(two):
        two[0] = x
        found.append(x)
    for key, value in named.items():
        named["b"] = value
        found.append((key, value))
    pairs = list(zip(one, two, strict=False))
    return found, pairs, dict(enumerate(two)), sum(x for x in named.values()), sorted(zip("ba", one[:2], strict=True))


def refuses(n):
    assert n != 4, "not four"
    if n > 2:
        raise ValueError(n)
    return n


@pytest.mark.parametrize("function", [loops, expressions, functions, aliases, changing])
@pytest.mark.parametrize("n", [0, 1, 3, 5, 9])
def test_it_does_what_python_does(function, n):
    machine = Machine([enter(function, (n,), {})], Constants())
    assert machine.run() is None
    assert machine.result == function(n)


def test_errors_of_its_own_will_stop_it():
    assert Machine([enter(refuses, (2,), {})], Constants()).run() is None
    for n in (3, 4):
        with pytest.raises(Stopped):
            Machine([enter(refuses, (n,), {})], Constants()).run()


def changes(scribe, kept):
    held, named = [kept, kept], {"a": kept}
    held[0].append(scribe.pointer(1))
    dead = len(held)
    dead = scribe.think("x")
    return held, named, kept, dead


def test_what_is_the_same_object_stays_so_and_what_is_not_read_again_is_left_out():
    constants = Constants(SCRIBE)
    machine, freezer = Machine([enter(changes, (SCRIBE, [1]), {})], constants), Freezer(constants)
    machine.run()
    machine.answer(_Pointer(1))
    machine.run()
    thawed = Machine(freezer.thaw(freezer.freeze(machine.frames)), constants)
    assert "dead" not in thawed.frames[0].scope.names
    thawed.run()
    thawed.answer("y")
    thawed.run()
    (one, two), named, kept, dead = thawed.result
    assert one is two is named["a"] is kept and dead == "y"
    assert kept[0] == 1 and kept[1].number == 1
    assert machine.frames[0].scope.names["kept"] is not kept


def generator_that_changes(scribe, seen):
    return any(seen.append(x) or x == 2 for x in range(5))


def generator_that_asks(scribe, seen):
    return any(scribe.pointer(x) for x in range(5))


def generator_that_is_kept(scribe, seen):
    kept = (x for x in seen)
    return list(kept)


@pytest.mark.parametrize("function", [generator_that_changes, generator_that_asks, generator_that_is_kept])
def test_generators_that_would_tell_are_refused(function):
    with pytest.raises(Unsupported, match=r"test_machine.py:\d+: .* generator expression"):
        Machine([enter(function, (SCRIBE, [1]), {})], Constants(SCRIBE)).run()


def by_question(problem, scribe, numbers):
    if problem.length > 3:
        scribe.think("long")
    for _ in problem.prompt:
        scribe.think("more")


def mixed(problem, scribe, numbers):
    numbers.append(problem.length)


def picked(problem, scribe, numbers):
    return [scribe, scribe][problem.length]


def test_what_the_question_decides_goes_both_ways():
    machine = Machine([enter(by_question, (UNKNOWN, SCRIBE, []), {})], Constants(SCRIBE))
    names = []
    for answer in (True, "x", True, "x", False):
        request = machine.run()
        names.append(request.name)
        machine.answer(answer)
    assert names == ["condition", "think", "loop", "think", "loop"] and machine.run() is None
    for function in (mixed, picked):
        with pytest.raises(Unsupported, match=r"what becomes of .* with a value taken from the question cannot be "):
            Machine([enter(function, (UNKNOWN, SCRIBE, [1]), {})], Constants(SCRIBE)).run()
