"""Whatever a real tool answers is among what its stand-in may answer, whatever was done before."""

import random

import pytest

from length_gen.datamodules.automaton.memory import PointerCells, TapeCells
from length_gen.datamodules.questions import accepts
from length_gen.datamodules.tasks import Addition
from length_gen.tools import PointerMemory, Tape


@pytest.mark.parametrize("seed", range(20))
def test_pointers(seed):
    rng, tool = random.Random(seed), PointerMemory(2)
    task = Addition(4)
    questions, problem = task.questions(""), task.sample_training(rng)
    cells = PointerCells(tool, questions)
    tool.reset(problem.prompt)
    state, answers = cells.start, 0
    drawn = rng.choices([*tool.commands, None, "p1.read", "p2.read"], k=400)
    for command in ["p1.init", "p2.init", *drawn]:
        if command is None:
            token = rng.choice("012=")
            tool.write(token)
            state = cells.write(state, token, rng.randrange(3))
            continue
        observed = tool.commands[command]()
        state, = [after for after, said in cells.run(state, command, None) if said == observed]
        answers += bool(observed)
    assert answers > 50


@pytest.mark.parametrize("seed", range(20))
def test_tapes(seed):
    rng, tool = random.Random(seed), Tape("01_")
    questions = (("start", "01", "more"), ("more", "01", "more"), ("more", "1", "end"))
    prompt = (*rng.choices("01", k=rng.randint(1, 5)), "1")
    assert accepts(questions, prompt)
    cells = TapeCells(tool, questions)
    tool.reset(prompt)
    state = cells.start
    for _ in range(500):
        command = rng.choice(list(tool.commands))
        observed = tool.commands[command]()
        state, = [after for after, said in cells.run(state, command, rng.randrange(3)) if said == observed]
