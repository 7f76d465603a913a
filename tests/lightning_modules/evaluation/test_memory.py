import pytest

from length_gen.datamodules.tasks import Addition, LogicalGraph, Multiplication, Turing
from length_gen.lightning_modules.evaluation.memory import AROUND, MemoryTrace, replay
from length_gen.tools import PointerMemory
from length_gen.tools.base import bare


def recorded(task, text):
    problem = task.parse(text)
    tokens = task.record(problem).tokens
    return problem, tokens, replay(task, problem, tokens)


@pytest.mark.parametrize("setting", ["interactive", "no_tool", "question_in_tool"])
def test_pointers_stand_where_the_moves_lead(setting):
    """The moves are counted here, and what was written is put end to end."""
    task = Addition(5, setting=setting)
    problem, tokens, trace = recorded(task, "27+95")
    kinds = task.in_setting("interactive" if setting == "no_tool" else setting).record(problem).kinds
    places, memory = {}, ["[EDGE]", *problem.prompt]
    for step, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        head, _, move = bare(token).partition(".")
        if move == "init":
            places[head] = 1
        elif move in ("left", "right"):
            places[head] = max(0, places[head] + (1 if move == "right" else -1))
        elif kind in (2, 5):  # thoughts and outputs
            memory.append(token)
        assert trace.at(step) == (dict(enumerate(memory)), places), step
    assert trace.at(-1) == (dict(enumerate(["[EDGE]", *"27+95="])), {})


def test_a_tape_has_cells_on_both_sides():
    task = Turing("increment", 6)
    _, tokens, trace = recorded(task, "111")
    tape, head = dict(enumerate("111")), 0
    for step, token in enumerate(tokens):
        move = bare(token)
        if move.startswith("write."):
            tape[head] = move.removeprefix("write.")
        head += (move == "right") - (move == "left")
        cells, heads = trace.at(step)
        assert heads == {"head": head} and {cell: text for cell, text in cells.items() if text != "_"} == {
            cell: text for cell, text in tape.items() if text != "_"}
    assert min(tape) < 0, "a carry beyond the first bit"


def test_lines_of_a_search_memory_and_a_question_as_it_is_written():
    task = LogicalGraph(5)
    _, _, trace = recorded(task, "ra41=True;zo12=not ra41;da03=False;mi10=ra41 and da03")
    cells, heads = trace.at(-1)
    assert heads == {} and list(cells.values())[:2] == ["ra 41 = True \\n", "zo 12 = not ra 41 \\n"]
    task = Addition(5, setting="single_turn")
    _, tokens, trace = recorded(task, "1+2")
    call, answered = tokens.index("[CALL]"), tokens.index("[RETURN]")
    assert trace.at(call + 2)[0] == {0: "1", 1: "+"}
    assert trace.at(answered)[0] == {}


def test_a_tool_that_shows_nothing_is_not_asked_again():
    class Silent(Addition):
        def memory(self):
            class Tool(PointerMemory):
                def view(self):
                    return None

                def reset(self, prompt):
                    raise AssertionError("it is asked again")
            return Tool(2)

    task = Silent(5)
    assert replay(task, task.parse("1+2"), ["1"]) is None


def test_text_has_the_heads_below_their_cells():
    _, tokens, trace = recorded(Addition(5), "27+95")
    step = tokens.index("p2.init@start")
    assert trace.text(step, 80) == "[EDGE] 2      7 + 9 5 =\n       ↑p1,p2"
    assert trace.text(step - 2, 80) == "[EDGE] 2 7 + 9 5 ="  # no head has a place
    step = max(i for i, token in enumerate(tokens) if token == "p1.read@add")
    assert trace.text(step, 80) == "[EDGE] 2 7 +   9 5 = 2 1 2 1\n↑p1        ↑p2"


@pytest.mark.parametrize("width", [30, 60, 200])
def test_text_leaves_out_what_is_far_from_the_heads(width):
    trace = MemoryTrace("?", [(-1, i, str(i % 10)) for i in range(1000)], [(0, "a", 500), (0, "b", 1000)])
    above, below = trace.text(0, width).splitlines()
    assert len(above) <= width and above.count("…") == 2 and above.endswith("?") and below.endswith("↑b")
    at = below.index("↑a")
    assert above[at] == "0" and above[at - 2] == "9"
    assert len(above.split()) <= 3 * AROUND + 4


def test_a_multiplication_is_followed_to_its_end():
    _, tokens, trace = recorded(Multiplication(5), "123x42")
    cells, heads = trace.at(len(tokens) - 1)
    assert "".join(cells.values()).endswith(str(123 * 42)) and set(heads) == {move[1] for move in trace.moves}
