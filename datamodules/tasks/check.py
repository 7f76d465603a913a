"""What is tried of a task before anything is trained on it."""

import random
from dataclasses import replace
from itertools import chain

from length_gen.datamodules.questions import accepts
from length_gen.datamodules.tasks.base import Problem, Task, ToolTask
from length_gen.tools import UserError


def check_task(task: Task, problems: int = 8) -> None:
    """Raises UserError for a task without a name, where a trajectory has a token that is not the task's or its outputs
    are not the answer, and for a training problem of a length or variant that the task has not, or that is none of its
    `questions`.

    Tried are a few training problems, at most `problems` of a variant, from short to long, and a short problem of each
    other variant; none where a trajectory needs not be the reference's (`Task.passes`), which has no answer. In the
    settings that take the answer as it is, the trajectory of the interactive one is held against it.
    """
    if not getattr(task, "name", ""):
        raise UserError(f"task {type(task).__name__} has no name: give its class one, such as name = \"my_task\"")
    if task.passes:
        return
    rng = random.Random(0)
    drawn = sorted((task.sample_training(rng) for _ in range(4 * problems)), key=lambda problem: len(problem.prompt))
    for problem in drawn:
        if not 0 <= problem.length <= task.max_length or problem.variant not in task.variants:
            raise UserError(f"{task.name}: sample_training gave a problem of length {problem.length} and variant "
                            f"{problem.variant!r}; expected a length of at most max_length {task.max_length:,} and one "
                            f"of the variants {', '.join(map(repr, task.variants))}")
    few = {variant: _spread([problem for problem in drawn if problem.variant == variant], problems)
           or [task.problem("validation", 0, drawn[0].length, 0, variant)]
           for variant in (*(problem.variant for problem in drawn), *task.variants_at(drawn[0].length))}
    vocabulary = task.vocabulary()
    for problem in chain.from_iterable(few.values()):
        part, variant = task.part(problem.variant)
        if isinstance(part, ToolTask) and not accepts(part.questions(variant), problem.prompt):
            raise UserError(f"{task.name}: {' '.join(problem.prompt)[:80]!r} is a problem, but none of its questions: "
                            f"mend its `questions`, or leave them out")
        trajectory = task.record(problem)
        try:
            vocabulary.encode(trajectory.tokens)
        except UserError as error:
            raise UserError(f"{task.name}, the trajectory of {' '.join(problem.prompt)[:80]!r}: {error}; mend its "
                            f"symbols, phases or solve, or what its tool says, a tuple of tokens") from error
        said, expected = tuple(trajectory.outputs()), task.outputs(problem)
        if said == expected and isinstance(task.part(problem.variant)[0], ToolTask):
            said, expected = _solved(task, problem), task.answer(problem)
        if said != expected:
            raise UserError(f"{task.name}: the trajectory of {' '.join(problem.prompt)[:80]!r} outputs "
                            f"{' '.join(said)[:80] or 'nothing'!r}, but the answer is "
                            f"{' '.join(expected)[:80] or 'nothing'!r}: mend its solve or its answer")


def _spread(ordered: list[Problem], most: int) -> list[Problem]:
    """At most so many of them, the first and the last among them."""
    last = len(ordered) - 1
    return ordered if last < most else [ordered[i * last // (most - 1)] for i in range(most)]


def _solved(task: Task, problem: Problem) -> tuple[str, ...]:
    """What the algorithm outputs, also in a setting that does not use it."""
    part, variant = task.part(problem.variant)
    return tuple(part.in_setting("interactive").record(replace(problem, variant=variant)).outputs())
