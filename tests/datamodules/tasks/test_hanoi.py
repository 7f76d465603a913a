import random
from collections import Counter

import pytest

from length_gen.datamodules.rollout import Rollout, budget
from length_gen.datamodules.tasks import HanoiIterative, HanoiRecursive
from length_gen.datamodules.tokens import PREDICTED, Kind
from length_gen.lightning_modules.evaluation.outcome import judge
from length_gen.tools import UserError

TASKS = [cls(5, style) for cls in (HanoiIterative, HanoiRecursive) for style in ("paper", "local")]
NAMES = [f"{task.name}-{task.style}" for task in TASKS]


def play(problem, outputs):
    """Play the moves by the rules on three stacks; the last state and the number of moves."""
    rods = {"A": [int(token) for token in problem.prompt[1:-3]], "B": [], "C": []}
    moves = list(zip(*[iter(outputs)] * 3, strict=True))
    for disk, source, target in moves:
        assert rods[source][-1] == int(disk), "only the upper disk of a rod can move"
        assert not rods[target] or rods[target][-1] > int(disk), "no disk lies on a smaller one"
        rods[target].append(rods[source].pop())
    return rods, len(moves)


def replay(task, problem, trajectory):
    """The reference as model: same tokens, same kinds, right answer."""
    row = Rollout(problem, budget(trajectory), task.tool())
    for token, kind in zip(trajectory.tokens, trajectory.kinds, strict=True):
        assert row.advance("" if kind in (Kind.PROMPT, Kind.OBSERVATION) else token) == token
    assert row.reason == "end" and row.kinds == trajectory.kinds
    assert judge(row, task, trajectory).answer_correct


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_random_trajectories_replay_and_the_moves_obey_the_rules(task):
    rng, vocabulary, lengths = random.Random(0), task.vocabulary(), Counter()
    for _ in range(250):
        problem = task.sample_training(rng)
        trajectory = task.record(problem)
        vocabulary.encode(trajectory.tokens)
        rods, moves = play(problem, trajectory.outputs())
        assert not rods["A"] and not rods["B"] and moves == 2**problem.length - 1  # no solution is shorter
        lengths[problem.length] += 1
        replay(task, problem, trajectory)
    assert set(lengths) == set(range(1, 6))


@pytest.mark.parametrize("task", TASKS, ids=NAMES)
def test_twelve_disks(task):
    problem = task.problem("test", 0, 12, 0)
    trajectory = task.record(problem)
    rods, moves = play(problem, trajectory.outputs())
    assert not rods["A"] and not rods["B"] and moves == 4095
    assert tuple(trajectory.outputs()) == task.answer(problem)
    # The paper: over 385,000 tokens of the iterative algorithm; here the states name a disk and its rod.
    assert len(trajectory.tokens) == {"hanoi_iterative": 589_828, "hanoi_recursive": 135_080}[task.name]


def test_one_disk_by_hand():
    problem = HanoiIterative(1).parse("7")
    assert " ".join(HanoiIterative(1, "paper").record(problem).tokens) == (
        "A 7 B C = p1.init p1.right p1.read 7 C p1.right p1.read B < p1.left p1.read 7 7 A p1.left p1.read A "
        + "".join(f"p1.right p1.read {token} " for token in "7BC=C<") +
        "p1.right p1.read 7 p1.right p1.read A [ANS] 7 A C [ANS] p1.left p1.read 7 p1.left p1.read < < "
        "p1.right p1.read 7 7 p1.right p1.read A C p1.right p1.read [ANS] "
        + "".join(f"p1.right p1.read {token} " for token in "7AC") + "p1.right p1.read [ANS] p1.right p1.read < "
        "p1.right p1.read 7 p1.right p1.read C p1.right p1.read [EDGE] [END]")
    assert " ".join(HanoiRecursive(1, "paper").record(problem).tokens) == (
        "A 7 B C = p1.init p1.read A p1.right p1.read 7 p1.right p1.read B p1.left p1.left p1.read A [ANS] "
        "p1.right p1.read 7 7 A C [END]")


@pytest.mark.parametrize(("cls", "horizon"), [(HanoiIterative, 5), (HanoiRecursive, 6)])
def test_in_style_local_the_next_token_follows_from_the_last_few(cls, horizon):
    """However many disks: the last `horizon` tokens determine every predicted token, one fewer do not."""
    def ambiguous(window):
        following = {}
        for length in range(1, 9):
            trajectory = cls(8).record(cls(8).parse(" ".join(map(str, range(length, 0, -1)))))
            for i, kind in enumerate(trajectory.kinds):
                if kind in PREDICTED:
                    suffix = tuple(trajectory.tokens[max(0, i - window) : i])
                    following.setdefault(suffix, set()).add(trajectory.tokens[i])
        return any(len(tokens) > 1 for tokens in following.values())

    assert not ambiguous(horizon) and ambiguous(horizon - 1)


@pytest.mark.parametrize(("text", "message"), [
    ("", "not a problem"), ("7 40", "falling"), ("40 40", "falling"), ("101 7", "from 1..100"), ("7 0", "from 1..100"),
    ("40 x", "not a problem"), (" ".join(map(str, range(21, 0, -1))), "length 21 is not allowed")])
def test_text_that_is_no_problem(text, message):
    with pytest.raises(UserError, match=message):
        HanoiIterative(5).parse(text)


def test_text_that_is_a_problem():
    prompt = ("A", "90", "40", "7", "B", "C", "=")
    for text in ("90 40 7", "90,40,7", "A 90 40 7 B C =", " ".join(prompt)):
        assert HanoiRecursive(5).parse(text).prompt == prompt


def test_too_many_disks():
    with pytest.raises(UserError, match="length 101 is not allowed: hanoi_iterative goes up to 20"):
        HanoiIterative(101)
