"""Mixture: several tasks in one training stream (paper, appendix D.8: multiplication with addition)."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from length_gen.datamodules.tasks.base import Problem, Task, ToolTask, refusal
from length_gen.datamodules.trajectory import Trajectory
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.tools import UserError


def _of_the_part(name: str) -> Callable:
    """A method of a mixture about a problem: that of the task which the problem belongs to."""
    def method(self: "Mixture", problem: Problem, *arguments: Any, **options: Any) -> Any:
        task, own = self._theirs(problem)
        return getattr(task, name)(own, *arguments, **options)

    return method


class Mixture(Task):
    """Training problems of several tasks, one vocabulary for all; every task is evaluated apart, at the lengths that it
    has.

    tasks:   the tasks, each with its own lengths, style and setting
    weights: how often each is drawn, in any unit; null: equally often
    """

    def __init__(self, tasks: list[ToolTask], weights: list[float] | None = None) -> None:
        weights = [1.0] * len(tasks) if weights is None else weights
        names = [task.name for task in tasks]
        if not tasks:
            raise UserError("a mixture of no tasks is not possible: give at least one")
        if len(weights) != len(tasks):
            raise UserError(f"{len(weights)} weights for {len(tasks)} tasks: give one for each of {', '.join(names)}")
        if min(weights) < 0 or sum(weights) <= 0:
            raise UserError(f"mixture weights {weights} are not possible: give numbers from 0 on, not all 0")
        if len(set(names)) < len(names):
            raise UserError(f"a mixture of {', '.join(names)} names a task twice: give each once")
        self.tasks, self.weights = tasks, weights
        self.name = "_and_".join(names)
        self.max_length = max(task.max_length for task in tasks)
        self.truncated = any(task.truncated for task in tasks)
        self.passes = all(task.passes for task in tasks)
        self.style, self.setting = (", ".join(dict.fromkeys(getattr(task, key) for task in tasks))
                                    for key in ("style", "setting"))
        self.phases = tuple(dict.fromkeys(phase for task in tasks for phase in task.phases))
        self._parts = {" ".join(filter(None, (task.name, variant))): (task, variant)
                       for task in tasks for variant in task.variants}
        self.variants = tuple(self._parts)

    def part(self, variant: str) -> tuple[ToolTask, str]:
        return self._parts[variant]

    def sample(self, rng: random.Random, length: int, variant: str) -> Problem:
        task, own = self._parts[variant]
        return replace(task.sample(rng, length, own), variant=variant)

    def structured(self, rng: random.Random, length: int, variant: str) -> list[Problem]:
        task, own = self._parts[variant]
        return [replace(problem, variant=variant) for problem in task.structured(rng, length, own)]

    def sample_training(self, rng: random.Random) -> Problem:
        task, = rng.choices(self.tasks, self.weights)
        return self._ours(task, task.sample_training(rng))

    def sample_held_out(self, rng: random.Random, split: str) -> Problem:
        task, = rng.choices(self.tasks, self.weights)
        return self._ours(task, task.sample_held_out(rng, split))

    def longest_problem(self) -> Problem:
        longest = [self._ours(task, task.longest_problem()) for task in self.tasks]
        return max(longest, key=lambda problem: len(self.record(problem).tokens))

    def parse(self, text: str) -> Problem:
        """A problem of the first task that takes it for one."""
        errors = []
        for task in self.tasks:
            try:
                return self._ours(task, task.parse(text))
            except UserError as error:
                errors.append(str(error))
        raise UserError("; ".join(errors))

    answer, shown, outputs, record, tool, solved = map(_of_the_part, ("answer", "shown", "outputs", "record", "tool",
                                                                      "solved"))

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(dict.fromkeys(token for task in self.tasks for token in task.vocabulary().tokens))

    def references(self, problems: Sequence[Problem]) -> list[Trajectory]:
        """Those of each part together, as it makes them."""
        made: dict[int, Trajectory] = {}
        for task in self.tasks:
            own = {i: theirs for i, (part, theirs) in enumerate(map(self._theirs, problems)) if part is task}
            made |= zip(own, task.references(list(own.values())), strict=True)
        return [made[i] for i in range(len(problems))]

    def save(self, folder: str | Path) -> None:
        for task in self.tasks:
            task.save(folder)

    def check_length(self, length: int) -> None:
        """Raises UserError if no part has that length."""
        refusals = [refusal(task, length) for task in self.tasks]
        if all(refusals):
            raise UserError("; ".join(refusals))

    def _ours(self, task: ToolTask, problem: Problem) -> Problem:
        return replace(problem, variant=" ".join(filter(None, (task.name, problem.variant))))

    def _theirs(self, problem: Problem) -> tuple[ToolTask, Problem]:
        task, variant = self._parts[problem.variant]
        return task, replace(problem, variant=variant)
