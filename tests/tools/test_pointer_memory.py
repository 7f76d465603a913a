import pytest
from hypothesis import given
from hypothesis import strategies as st

from length_gen.tools import EDGE, InvalidCommand, PointerMemory, UserError
from length_gen.tools.pointer_memory import OPERATIONS


def memory(prompt="1 2 + 3 =", pointers=2):
    tool = PointerMemory(pointers)
    tool.reset(prompt.split())
    return tool


def test_reads_what_is_under_the_pointer():
    tool = memory()
    assert tool.feed("p1.init") == ()
    assert tool.feed("p1.read") == ("1",)
    assert tool.feed("p1.right") == ()
    assert tool.feed("p1.read@any_phase") == ("2",)


def test_edges_read_as_edge_and_stop_moves():
    tool = memory("a b")
    for command in ("p1.init", "p1.left", "p1.left", "p1.left"):
        tool.feed(command)
    assert tool.feed("p1.read") == (EDGE,)
    tool.feed("p1.right")
    assert tool.feed("p1.read") == ("a",)
    for _ in range(5):
        tool.feed("p1.right")
    assert tool.feed("p1.read") == (EDGE,)
    assert tool.feed("c") is None  # appended under the pointer on the right edge
    assert tool.feed("p1.read") == ("c",)


def test_thoughts_are_appended_and_commands_are_not():
    tool = memory("a")
    for token in ("p2.init", "x", "p2.read", "y", "p2.right", "p2.right"):
        tool.feed(token)
    assert tool.feed("p2.read") == ("y",)


def test_pointer_before_init_is_an_invalid_command():
    with pytest.raises(InvalidCommand, match=r"p2\.init first"):
        memory().feed("p2.read")


def test_reset_forgets_the_last_problem():
    tool = memory()
    tool.feed("p1.init")
    tool.reset(["z"])
    with pytest.raises(InvalidCommand):
        tool.feed("p1.read")
    tool.feed("p1.init")
    assert tool.feed("p1.read") == ("z",)


def test_no_pointers():
    with pytest.raises(UserError, match="at least 1"):
        PointerMemory(0)


@given(st.lists(st.sampled_from([f"p{k}.{o}" for k in (1, 2) for o in OPERATIONS] + ["a", "b"]), max_size=60))
def test_equals_a_model_with_unbounded_tape(program):
    """Against a dictionary tape with explicit clamping."""
    tape, place = {0: "q", 1: "r"}, {}
    tool = memory("q r")
    for token in program:
        name, _, operation = token.partition(".")
        if not operation:
            tape[len(tape)] = token
            assert tool.feed(token) is None
            continue
        if operation != "init" and name not in place:
            with pytest.raises(InvalidCommand):
                tool.feed(token)
            continue
        observation = tool.feed(token)
        if operation == "init":
            place[name] = 0
        elif operation == "left":
            place[name] = max(-1, place[name] - 1)
        elif operation == "right":
            place[name] = min(len(tape), place[name] + 1)
        assert observation == ((tape.get(place[name], EDGE),) if operation == "read" else ())


@pytest.mark.parametrize("first", [-1, 0, 2])
@pytest.mark.parametrize("step", [-2, -1, 0, 1, 2])
def test_ahead_is_what_reading_and_moving_gives(step, first):
    for place in range(max(0, -first), 7 - max(0, first)):
        tool = PointerMemory(1)
        tool.reset("12345")
        tool.commands["p1.init"]()
        tool.commands["p1.left"]()  # the left edge
        tool.jump(1, place)
        ahead = tool.ahead(1, first, step, 3)
        for _ in range(abs(first)):
            tool.commands["p1.right" if first > 0 else "p1.left"]()
        for symbol in ahead:
            assert tool.commands["p1.read"]() == (symbol,)
            for _ in range(abs(step)):
                tool.commands["p1.right" if step > 0 else "p1.left"]()
        assert len(ahead) == (place + first < 6) * sum(0 <= place + first + i * step < 6 for i in range(3))
        tool.jump(1, -9)
        assert tool.commands["p1.read"]() == (EDGE,) and tool.commands["p1.right"]() == ()
        assert tool.commands["p1.read"]() == ("1",)
    with pytest.raises(InvalidCommand, match="init"):
        PointerMemory(1).ahead(1, first, step, 3)
