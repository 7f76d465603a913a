import random

import pytest

from length_gen.datamodules.rollout import Rollout, budget
from length_gen.datamodules.tasks import LogicalGraph
from length_gen.datamodules.tasks.logical_graph import NUMBERS, SYLLABLES, code
from length_gen.datamodules.tokens import PREDICTED, Kind
from length_gen.lightning_modules.evaluation.outcome import judge
from length_gen.tools import UserError

TASKS = [LogicalGraph(10, style) for style in ("paper", "local")]
EXAMPLE = "na76 = False\nbu00 = True\nro14 = not na76\nki50 = ro14 and not bu00\n"


def values(problem):
    """The value of every node, by substitution in the code's text."""
    known = {}
    for line in code(problem.prompt).splitlines():
        label, expression = line.split(" = ")
        known[label] = str(eval(" ".join(known.get(word, word) for word in expression.split())))
    return known


def replay(task, problem, trajectory):
    """The reference as model: same tokens, same kinds, right answer."""
    row = Rollout(problem, budget(trajectory), task.tool())
    for token, kind in zip(trajectory.tokens, trajectory.kinds, strict=True):
        assert row.advance("" if kind in (Kind.PROMPT, Kind.OBSERVATION) else token) == token
    assert row.reason == "end" and row.kinds == trajectory.kinds
    outcome = judge(row, task, trajectory)
    assert outcome.answer_correct and outcome.turns == sum("[OBSERVATION]" in token for token in trajectory.tokens)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.style)
def test_random_trajectories_replay_and_are_right(task):
    rng, vocabulary = random.Random(0), task.vocabulary()
    answers, lengths = set(), set()
    for i in range(250):
        problem = task.sample_training(rng) if i % 2 else task.problem("test", 0, 4 + i // 2 % 20, i, "recent")
        trajectory = task.record(problem)
        replay(task, problem, trajectory)
        known = values(problem)
        assert len(known) == problem.length
        assert trajectory.outputs() == [list(known.values())[-1]]
        assert vocabulary.decode(vocabulary.encode(trajectory.tokens)) == trajectory.tokens
        answers.add(trajectory.outputs()[0])
        lengths.add(problem.length)
    assert answers == {"True", "False"} and lengths == set(range(4, 24))


@pytest.mark.parametrize("variant", LogicalGraph.variants)
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.style)
def test_a_thousand_nodes(task, variant):
    problem = task.problem("test", 0, 1000, 0, variant)
    trajectory = task.record(problem)
    replay(task, problem, trajectory)
    known = values(problem)
    assert tuple(trajectory.outputs()) == task.answer(problem) == (list(known.values())[-1],)
    # Every value that was written down is right, and few are needed where nodes refer to any earlier ones.
    text = [token for token, kind in zip(trajectory.tokens, trajectory.kinds, strict=True) if kind == Kind.THOUGHT]
    written = {"".join(text[i - 2 : i]): text[i + 1] for i, token in enumerate(text) if token == ":"}
    assert written.items() <= known.items()
    assert len(written) > 500 if variant == "recent" else len(written) < 100


def test_one_trajectory_by_hand():
    trajectory = LogicalGraph(4, "paper").record(LogicalGraph(4).parse(EXAMPLE))
    lines = [line.strip() for line in " ".join(trajectory.tokens).split("\n")]
    assert lines == [
        "na 76 = False", "bu 00 = True", "ro 14 = not na 76", "ki 50 = ro 14 and not bu 00",
        "find ki 50 = [OBSERVATION] ki 50 = ro 14 and not bu 00",
        "find ro 14 : [OBSERVATION] [NONE] ro 14 < ki 50",
        "find ro 14 = [OBSERVATION] ro 14 = not na 76",
        "find na 76 : [OBSERVATION] [NONE] na 76 < ro 14",
        "find na 76 = [OBSERVATION] na 76 = False", "na 76 : False",
        "find na 76 < [OBSERVATION] na 76 < ro 14",
        "find ro 14 = [OBSERVATION] ro 14 = not na 76",
        "find na 76 : [OBSERVATION] na 76 : False", "ro 14 : True",
        "find ro 14 < [OBSERVATION] ro 14 < ki 50",
        "find ki 50 = [OBSERVATION] ki 50 = ro 14 and not bu 00",
        "find ro 14 : [OBSERVATION] ro 14 : True",
        "find ki 50 = [OBSERVATION] ki 50 = ro 14 and not bu 00", "ki 50 = True and not bu 00",
        "find bu 00 : [OBSERVATION] [NONE] bu 00 < ki 50",
        "find bu 00 = [OBSERVATION] bu 00 = True", "bu 00 : True",
        "find bu 00 < [OBSERVATION] bu 00 < ki 50",
        "find ki 50 = [OBSERVATION] ki 50 = ro 14 and not bu 00", "ki 50 = True and not bu 00",
        "find bu 00 : [OBSERVATION] bu 00 : True", "ki 50 : False",
        "find ki 50 < [OBSERVATION] [NONE] [ANS] False [END]"]
    assert trajectory.kinds.count(Kind.COMMAND) == 5 * trajectory.turns() == 5 * 18


def test_styles_differ_only_in_the_phase_that_commands_carry():
    paper, local = TASKS
    a, b = (task.record(task.parse(EXAMPLE)) for task in (paper, local))
    assert [token.partition("@")[0] for token in b.tokens] == a.tokens and a.kinds == b.kinds
    assert {token.partition("@")[2] for token in b.tokens} - {""} == {
        "definition", "first", "replace_True", "last_not", "way_back"}


def test_a_rollout_survives_searches_that_make_no_sense():
    def rollout(*tokens, length=4, tokens_after=0):
        problem = TASKS[0].problem("test", 0, length, 0, "any")
        row = Rollout(problem, len(problem.prompt) + len(tokens) + tokens_after, TASKS[0].tool())
        for token in (*problem.prompt, *tokens, *["ba"] * tokens_after):
            row.advance(token)
        return row

    endless = rollout("ra", "find", tokens_after=50)
    assert endless.reason == "budget" and endless.kinds[-52:] == bytes([Kind.THOUGHT] + [Kind.COMMAND] * 51)
    everything = rollout("find", "=", "[OBSERVATION]", length=1000)
    assert everything.reason == "invalid_command" and "1000 lines match" in everything.detail
    assert rollout("find", "find").reason == rollout("[OBSERVATION]").reason == "invalid_command"
    assert rollout("find", "=", "[END]").reason == "end"


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.style)
def test_the_next_token_follows_from_the_last_22(task):
    """Whatever the number of nodes; parts of labels are replaced by the place where they first stand in the window."""
    names = {*SYLLABLES, *NUMBERS}
    trajectories = [task.record(task.problem("test", 0, length, 0, "recent")) for length in range(4, 80)]

    def ambiguous(horizon):
        following = {}
        for trajectory in trajectories:
            for i, kind in enumerate(trajectory.kinds):
                if kind in PREDICTED:
                    window = trajectory.tokens[max(0, i - horizon) : i + 1]
                    *suffix, token = (window.index(token) if token in names else token for token in window)
                    following.setdefault(tuple(suffix), set()).add(token)
        return any(len(tokens) > 1 or len(suffix) in tokens for suffix, tokens in following.items())

    assert not ambiguous(22) and ambiguous(21)


@pytest.mark.parametrize(("text", "message"), [
    ("", "length 0 is not allowed: logical_graph needs at least 4"), (EXAMPLE + "x = True", "'x = True' is not a line"),
    (EXAMPLE + "ba00 = ki50 xor ro14", "is not a line"), (EXAMPLE + "ba00 = ba01", "uses ba01"),
    (EXAMPLE + "ro14 = True", "a second time"), (EXAMPLE + "ba00 = __import__('os')", "is not a line")])
def test_text_that_is_no_problem(text, message):
    with pytest.raises(UserError, match=message):
        TASKS[0].parse(text)


def test_text_that_is_a_problem():
    problem = TASKS[0].parse(EXAMPLE)
    assert TASKS[0].parse("na76=False; bu00 =True;;ro14= not  na76\n\nki50 = ro14 and not bu00") == problem
    assert code(problem.prompt) == EXAMPLE and problem.length == 4
    for variant in LogicalGraph.variants:
        problem = TASKS[0].problem("test", 0, 50, 0, variant)
        assert TASKS[0].parse(code(problem.prompt)).prompt == problem.prompt


def test_more_nodes_than_labels():
    with pytest.raises(UserError, match="goes up to 10,500"):
        TASKS[0].problem("test", 0, 10501, 0, "any")
