import pytest

from length_gen.datamodules.tasks import Addition
from length_gen.tools import InvalidCommand


def test_the_solver_refuses_what_it_cannot_solve():
    tool = Addition(5, setting="single_turn").tool()
    tool.reset(("7", "+", "5", "="))
    for token in ("[CALL]", "7", "+"):
        assert tool.feed(token) == ()
    with pytest.raises(InvalidCommand, match="no solution for '7 \\+'"):
        tool.feed("[RETURN]")
