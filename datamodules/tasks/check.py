"""What is tried of a task before anything is trained on it."""

import random
from itertools import chain

from datamodules.tasks.base import Task
from tools import UserError


def check_task(task: Task, problems: int = 8) -> None:
    """Raises UserError for a task without a name, and where a trajectory's outputs are not the answer.

    Tried are the shortest of a few training problems, at most `problems` of a variant, and a short problem of each
    other variant; none where a trajectory needs not be the reference's (`Task.passes`), which has no answer.
    """
    if not getattr(task, "name", ""):
        raise UserError(f"task {type(task).__name__} has no name: give its class one, such as name = \"my_task\"")
    if task.passes:
        return
    rng = random.Random(0)
    drawn = sorted((task.sample_training(rng) for _ in range(4 * problems)), key=lambda problem: len(problem.prompt))
    few = {variant: [problem for problem in drawn if problem.variant == variant][:problems]
           or [task.problem("validation", 0, drawn[0].length, 0, variant)]
           for variant in (*(problem.variant for problem in drawn), *task.variants_at(drawn[0].length))}
    for problem in chain.from_iterable(few.values()):
        said, expected = tuple(task.record(problem).outputs()), task.outputs(problem)
        if said != expected:
            raise UserError(f"{task.name}: the trajectory of {' '.join(problem.prompt)[:80]!r} outputs "
                            f"{' '.join(said)[:80] or 'nothing'!r}, but the answer is "
                            f"{' '.join(expected)[:80] or 'nothing'!r}: mend its solve or its answer")
