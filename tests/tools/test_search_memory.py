import pytest
from hypothesis import given
from hypothesis import strategies as st

from length_gen.tools import NONE, InvalidCommand, SearchMemory, UserError


def memory(prompt="a 1 = b 7 \n b 7 = True \n b 72 = a 1 \n", max_lines=100):
    tool = SearchMemory(max_lines)
    tool.reset(prompt.split(" "))
    return tool


def find(tool, *value):
    """Give the command token by token; only the last is answered."""
    for token in ("find@some_phase", *value):
        assert tool.feed(token) == ()
    return " ".join(tool.feed("[OBSERVATION]@some_phase"))


def test_finds_whole_lines_in_order():
    tool = memory()
    assert find(tool, "b", "7", "=") == "b 7 = True \n"
    assert find(tool, "b", "7") == "a 1 = b 7 \n b 7 = True \n"
    assert find(tool, "a") == "a 1 = b 7 \n b 72 = a 1 \n"
    assert find(tool, "=", "True", "\n") == "b 7 = True \n"


def test_matches_whole_neighbouring_tokens():
    tool = memory()
    for value in (("7", "2"), ("a", "="), ("=", "1"), ("c",), ("\n", "b")):
        assert find(tool, *value) == NONE


def test_thoughts_are_found_once_their_line_has_ended_and_commands_never():
    tool = memory()
    assert tool.feed("c") is None and tool.feed("9") is None
    assert find(tool, "c", "9") == NONE
    assert tool.feed("\n") is None
    assert find(tool, "c", "9") == "c 9 \n"


def test_a_value_is_no_thought():
    tool = memory()
    find(tool, "x", "\n", "y")
    assert find(tool, "x") == NONE and find(tool, "y") == NONE


@pytest.mark.parametrize(("tokens", "message"), [
    (["[OBSERVATION]"], "nothing to look for"), (["find", "[OBSERVATION]"], "nothing to look for"),
    (["find", "a", "find"], "has not ended")])
def test_commands_that_make_no_sense(tokens, message):
    tool = memory()
    with pytest.raises(InvalidCommand, match=message):
        for token in tokens:
            tool.feed(token)


def test_too_many_lines():
    tool = memory("x = \n " * 100 + "y")
    assert find(tool, "x").count("\n") == 100
    for token in ("x", "\n", "find", "x"):
        tool.feed(token)
    with pytest.raises(InvalidCommand, match="101 lines match, more than the 100"):
        tool.feed("[OBSERVATION]")
    with pytest.raises(UserError, match="at least 1"):
        SearchMemory(0)


def test_reset_forgets_lines_and_an_open_command():
    tool = memory()
    tool.feed("find")
    tool.reset(["z", "\n"])
    assert tool.feed("z") is None
    assert find(tool, "a") == NONE and find(tool, "z") == "z \n"


@given(st.lists(st.sampled_from("ab\n")), st.lists(st.sampled_from("ab\n"), min_size=1, max_size=4))
def test_equals_a_search_in_the_text(tokens, value):
    tool = SearchMemory(1000)
    tool.reset(tokens[: len(tokens) // 2])
    for token in tokens[len(tokens) // 2 :]:
        assert tool.feed(token) is None
    lines = [line + "\n" for line in "".join(tokens).split("\n")[:-1]]
    expected = "".join(line for line in lines if "".join(value) in line)
    assert find(tool, *value).replace(" ", "") == (expected or NONE)
