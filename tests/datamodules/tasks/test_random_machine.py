import hashlib
import itertools
import json
import random
import re

import pytest

from length_gen.datamodules.tasks import Turing
from length_gen.datamodules.tasks.machine import load_machine
from length_gen.datamodules.tasks.random_machine import BENCHMARK, SIZES, most_steps, random_machine
from length_gen.datamodules.tokens import Kind
from length_gen.tools import UserError

HASHES = {
    "random_Q1_S4_seed0": "85cf70f4cfd0228b",
    "random_Q2_S3_seed4": "78991ad213930c16",
    "random_Q5_S5_seed2": "da1d60f628d6abab",
    "random_Q10_S10_seed1": "13e927e189d274c2",
    "random_Q20_S20_seed3": "d1e05430b6c90104",
    "random_Q40_S10_seed0": "980d9de7b47e4828",
}


@pytest.mark.parametrize("name", HASHES)
def test_a_name_stands_for_the_same_machine_for_good(name):
    """What is predicted of machines by their names is of these tables."""
    machine = load_machine(name)
    facts = [machine.symbols, machine.start, sorted(machine.halt), sorted(machine.transitions.items()),
             [[(part.symbols, part.length) for part in kind] for kind in machine.inputs]]
    assert hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16] == HASHES[name]


def test_the_benchmark_set_has_sizes_from_4_to_400():
    assert [states * symbols for states, symbols in SIZES] == [4, 6, 10, 16, 25, 50, 100, 200, 400, 400]
    assert len(set(BENCHMARK)) == 50 and set(HASHES) <= set(BENCHMARK)


def run(table, tape):
    """States that a machine enters, how often the head turns, and the tape when it halts."""
    cells, head, state, seen, moves = dict(enumerate(tape)), 0, table["start"], [], ""
    while state not in table["halt"]:
        seen.append(state)
        assert len(seen) <= most_steps(len(tape))
        cells[head], move, state = table["transitions"][state][cells.get(head, "_")]
        assert -1 <= head <= len(tape) and (cells[head] == "_") == (head in (-1, len(tape)))
        head += {"R": 1, "L": -1}[move]
        moves += move
    return seen, moves.count("RL") + moves.count("LR"), "".join(cells[i] for i in range(len(tape)))


@pytest.mark.parametrize("name", BENCHMARK)
def test_every_machine_of_the_set_halts_and_works(name):
    states, symbols, seed = map(int, re.findall("[0-9]+", name))
    table, discarded = random_machine(states, symbols, seed)
    assert discarded < 40 and len(table["transitions"]) == states and len(table["symbols"]) == symbols - 1
    letters, rng = table["inputs"][0][0]["symbols"], random.Random(0)
    tapes = [rng.choices(letters, k=length) for length in (1, 2, 3, 7, 20, 60) for _ in range(20)]
    runs = [(tape, *run(table, tape)) for tape in tapes]
    assert len({state for _, seen, _, _ in runs for state in seen}) > 0.8 * states  # all, on what it was tried on
    assert sum("".join(tape) != result for tape, _, _, result in runs) > 20
    task = Turing(name, 6)
    for tape, _, turns, result in runs[40:90:10]:  # what the task says, by its own simulation and by the tape
        problem = task.parse("".join(tape))
        trajectory = task.record(problem)
        assert "".join(task.answer(problem)) == "".join(trajectory.outputs()) == result
        part = trajectory.tokens[len(tape) : trajectory.phases[1][0]]
        moves = [token[0] for token in part if token in ("left@run", "right@run")]
        assert sum(a != b for a, b in itertools.pairwise(moves)) == turns


def test_small_machines_halt_on_every_input_up_to_a_length():
    """All of them, within the bound; some take a number of steps that grows faster than the length."""
    growing = 0
    for seed in range(12):
        table, _ = random_machine(4, 4, seed)
        letters = table["inputs"][0][0]["symbols"]
        longest = [max(len(run(table, tape)[0]) for tape in itertools.product(letters, repeat=length))
                   for length in (3, 6)]
        growing += longest[1] > 2.5 * longest[0]
    assert growing >= 3


def test_a_table_does_not_depend_on_what_was_drawn_before():
    random.seed(1)
    first = random_machine.__wrapped__(5, 5, 3)
    random.seed(2)
    assert random_machine.__wrapped__(5, 5, 3) == first != random_machine.__wrapped__(5, 5, 4)


@pytest.mark.parametrize("name", ["random_Q2_S2_seed1", "random_Q1_S99_seed0", "random_Q41_S10_seed0",
                                  "random_Q0_S3_seed0", "random_Q4_S3", "random_Q4_S3_seed-1", "random_Q4_S3_seed٣"])
def test_machines_that_there_are_not(name):
    with pytest.raises(UserError, match=r"there is no (random )?machine"):
        Turing(name, 3)


@pytest.mark.parametrize(("every", "said"), [(1, "A_A_B_C_h"), (2, "A__B__h"), (3, "A___C_"),
                                             ("change", "A__B_C_h"), ("never", "____")])
def test_how_often_the_state_is_written(every, said, tmp_path):
    """Of a machine that is in states A, A, B, C and halt, with a read after each but the last."""
    rows = "{A: {'0': [same, R, A], else: [same, R, B]}, B: {else: [same, S, C]}, C: {else: [same, S, halt]}}"
    (tmp_path / "m.yaml").write_text("{symbols: '01', start: A, halt: [halt], inputs: [['011']], transitions: "
                                     f"{rows}}}")
    task = Turing(str(tmp_path / "m.yaml"), 3, state_every=every)
    trajectory = task.record(task.parse("011"))
    task.vocabulary().encode(trajectory.tokens)
    text = "".join(token[1] if kind == Kind.THOUGHT else "_" for token, kind in list(zip(
        trajectory.tokens, trajectory.kinds, strict=True))[: trajectory.phases[1][0]]
        if token == "read@run" or kind == Kind.THOUGHT)
    assert text == said
    assert task.name == "turing_m" + f"_state_{every}" * (every != 1)
