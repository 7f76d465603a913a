import random
from functools import partial

import pytest

from length_gen.datamodules.datamodule import TrajectoryDataModule
from length_gen.datamodules.tasks import (
    Addition,
    Copy,
    HanoiIterative,
    LogicalGraph,
    Mixture,
    Multiplication,
    Reverse,
    Task,
)
from length_gen.lightning_modules.backbones import LSTM
from length_gen.lightning_modules.evaluation.analysis import horizons
from length_gen.lightning_modules.evaluation.evaluate import evaluate
from length_gen.lightning_modules.model import TrajectoryModel
from length_gen.tools import UserError


def mixture(*weights):
    return Mixture([Multiplication(4), Addition(6)], list(weights) or None)


def test_parts_keep_their_trajectories_answers_and_tools():
    task, rng = mixture(), random.Random(0)
    assert task.name == "multiplication_and_addition" and task.max_length == 6
    assert task.variants == ("multiplication n x 1", "multiplication n x 2", "addition", "addition n + m")
    vocabulary = task.vocabulary()
    for variant in task.variants:
        problem = task.sample(rng, 3, variant)
        part, own = task.part(variant)
        theirs = part.sample(random.Random(1), 3, own)
        ours = task.sample(random.Random(1), 3, variant)
        assert ours.prompt == theirs.prompt and ours.variant == variant
        assert task.record(ours).tokens == part.record(theirs).tokens
        assert tuple(task.record(problem).outputs()) == task.answer(problem) == task.outputs(problem)
        vocabulary.encode(task.record(problem).tokens)
        assert len(part.tool().commands) == 8


def test_all_that_a_task_may_define_is_passed_on():
    methods = {name for name, value in vars(Task).items() if callable(value) and not name.startswith("_")}
    assert methods - {"problem", "structured_problems", "variants_at"} <= vars(Mixture).keys()


def test_weights_are_shares_of_the_trajectories():
    task, rng = mixture(3, 1), random.Random(0)
    problems = [task.sample_training(rng) for _ in range(4000)]
    additions = [p for p in problems if p.variant == "addition"]
    assert 0.22 < len(additions) / len(problems) < 0.28
    assert max(p.length for p in additions) == 6 and max(p.length for p in problems if p not in additions) == 4
    assert {p.variant for p in problems} == set(task.variants) - {"addition n + m"}  # how test problems are named


def test_a_typed_problem_finds_its_task():
    assert mixture().parse("12+3").variant == "addition" and mixture().parse("12x34").variant == "multiplication n x 2"
    with pytest.raises(UserError, match=r"problem of multiplication.*problem of addition"):
        mixture().parse("12-3")


def test_the_longest_training_problem_of_each_part_must_fit():
    longest = max(len(t.record(t.problem("validation", 0, n, 0, t.variants[-1])).tokens)
                  for t, n in ((Multiplication(4), 4), (Addition(6), 6)))
    TrajectoryDataModule(mixture(), row_length=-(-longest // 64) * 64)


@pytest.mark.parametrize(("tasks", "weights", "message"), [
    ([], None, "no tasks"),
    ([Copy(3)], [1, 2], "2 weights for 1 tasks"), ([Copy(3), Addition(3)], [1, -1], "not all 0"),
    ([Copy(3)], [0], "not all 0"), ([Copy(3), Copy(4)], None, "names a task twice")])
def test_mixtures_that_are_not_possible(tasks, weights, message):
    with pytest.raises(UserError, match=message):
        Mixture(tasks, weights)


def test_parts_with_different_lengths():
    """Disks 1 to 20, nodes from 4 on: each length is for the parts that have it."""
    task = Mixture([HanoiIterative(3), LogicalGraph(6)])
    lengths = {1: ["hanoi_iterative"], 3: ["hanoi_iterative"], 4: list(task.variants), 20: list(task.variants),
               21: ["logical_graph any", "logical_graph recent"]}
    for length, variants in lengths.items():
        task.check_length(length)
        assert list(task.variants_at(length)) == variants
    for length, message in ((0, "hanoi_iterative needs at least 1; .*logical_graph needs at least 4"),
                            (20_000, "hanoi_iterative goes up to 20; .*logical_graph goes up to 10,500")):
        with pytest.raises(UserError, match=message):
            task.check_length(length)
    with pytest.raises(UserError, match="length 3 is not allowed: logical_graph needs at least 4"):
        task.problem("test", 0, 3, 0, "logical_graph any")
    data = TrajectoryDataModule(task, packed=False)
    model = TrajectoryModel(partial(LSTM, n_layer=1, d_model=8), data.vocabulary)
    records = evaluate(model.backbone, data, [3, 4, 5], lambda length: 2, "verify", "test")
    assert [(r["length"], r["task"], r["variant"], r["exact_match"]) for r in records] == [
        (3, "hanoi_iterative", "", 0), (4, "logical_graph", "any", 0), (4, "logical_graph", "recent", 0)]
    tokens = [row["tokens"] for row in horizons(task, [3, 4], 1, 0)]
    assert tokens == [len(task.record(task.problem("validation", 0, length, 0, variant)).tokens)
                      for length, variants in ((3, ["hanoi_iterative"]), (4, task.variants)) for variant in variants]


def test_parts_judge_make_references_and_save_as_they_do_alone(tmp_path):
    class Lenient(Copy):
        """Solved by whatever ends within the budget; its references are made together, and it has something to keep."""

        asked = ()

        def solved(self, problem, outputs, reason, tool):
            return problem.variant == "" and reason == "budget"

        def references(self, problems):
            self.asked = tuple(problems)
            return super().references(problems)

        def save(self, folder):
            (folder / "kept").write_text(self.name)

    lenient, strict = Lenient(3), Reverse(3)
    task, rng = Mixture([lenient, strict]), random.Random(0)
    problems = [task.sample(rng, 3, variant) for variant in ("reverse", "copy", "copy", "reverse")]
    assert task.solved(problems[1], (), "budget", None) and not task.solved(problems[0], (), "budget", None)
    assert task.solved(problems[0], problems[0].prompt[-2::-1], "end", None)
    assert [t.tokens for t in task.references(problems)] == [task.record(p).tokens for p in problems]
    assert [p.prompt for p in lenient.asked] == [problems[1].prompt, problems[2].prompt]
    assert {p.variant for p in lenient.asked} == {""}
    task.save(tmp_path)
    assert (tmp_path / "kept").read_text() == "copy"
