import random

from length_gen.datamodules.tasks import Addition


def test_the_papers_test_problems_of_addition_stay_as_they_are():
    """Two operands of n digits, drawn as before there was another variant."""
    rng = random.Random("test/0//3/5")
    left, right = (rng.choice("123456789") + "".join(rng.choices("0123456789", k=2)) for _ in range(2))
    problem = Addition(5).problem("test", 0, 3, 5)
    assert "".join(problem.prompt) == f"{left}+{right}=" and problem.variant == ""


def test_carries_go_on_where_the_shorter_operand_has_ended():
    task, going = Addition(5), 0
    for i in range(200):
        left, right = "".join(task.problem("test", 0, 6, i, "n + m").prompt[:-1]).split("+")
        assert max(len(left), len(right)) == 6
        short, long = sorted((left, right), key=len)
        going += len(short) < 6 and int(short) + int(long[-len(short):]) >= 10 ** len(short)
    assert going > 50
    sides = {len(left) - len(right) for left, right in (
        "".join(task.problem("test", 0, 6, i, "n + m").prompt[:-1]).split("+") for i in range(200))}
    assert sides == set(range(-5, 6))
