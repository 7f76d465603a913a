"""What every tool promises, whatever a model writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.hostile import TASKS
from length_gen.tools import InvalidCommand, Tape
from length_gen.tools.tape import BLANK


def answers(tool, prompt, tokens):
    """What the tool says to each token, up to a command that it cannot carry out."""
    tool.reset(prompt)
    said = []
    for token in tokens:
        try:
            said.append(tool.feed(token))
        except InvalidCommand as error:
            return [*said, str(error)]
    return said


@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{task.setting}")
@given(data=st.data())
def test_any_tokens_get_an_answer_out_of_the_vocabulary(task, data):
    vocabulary = task.vocabulary()
    problem = task.problem("validation", 0, task.max_length, data.draw(st.integers(0, 3)), task.variants[0])
    tokens = data.draw(st.lists(st.sampled_from(vocabulary.tokens), max_size=80))
    tool = task.tool()
    said = answers(tool, problem.prompt, tokens)
    for answer in said[:-1]:
        assert answer is None or all(token in vocabulary for token in answer)
    # A tool that has been used before says the same as a new one.
    assert answers(tool, problem.prompt, tokens) == said == answers(task.tool(), problem.prompt, tokens)


@given(st.lists(st.sampled_from("abc"), max_size=5),
       st.lists(st.sampled_from(["read", "left", "right", "write.a", "write.b", "x"]), max_size=60))
def test_the_tape_equals_a_dictionary_without_ends(prompt, program):
    tape, head, tool = dict(enumerate(prompt)), 0, Tape("ab")
    tool.reset(prompt)
    for token in program:
        said = tool.feed(token)
        if token == "read":
            assert said == (tape.get(head, BLANK),)
            continue
        assert said == (None if token == "x" else ())
        head += {"left": -1, "right": 1}.get(token, 0)
        if token.startswith("write."):
            tape[head] = token[-1]
