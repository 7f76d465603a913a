"""The command `rollout`: one problem, step by step."""

from collections.abc import Callable

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from length_gen.lightning_modules.evaluation.evaluate import check_lengths
from length_gen.lightning_modules.evaluation.solve import UNTYPED, typed
from length_gen.lightning_modules.runs.load import Run
from length_gen.tools import UserError

TRIED = 32
"""Test problems of a length among which one is looked for that the model fails."""


def rollout(run: Run, prompt: str | None = None, length: int | None = None, limit: int | None = 400,
            around: int | None = None, html: str | None = None) -> None:
    """Solve one problem and print the trace: prompt, thoughts, commands, observations, outputs; the first error if any.

    Args:
        run: a trained model
        prompt: the problem, such as 123456789x42
        length: in place of a prompt, the first test problem of this length that the model fails, of 32 a variant
        limit: show at most so many tokens of the trace
        around: show those around this token, and the tool's memory before it; null: around the first error
        html: a file to write, such as trace.html: the same as a page to step through, with all probabilities
    """
    if (prompt is None) == (length is None):
        raise UserError("rollout needs --prompt, a problem, or --length, of a test problem that the model fails")
    with Progress(TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn(compact=True),
                  transient=True) as bar:
        task = bar.add_task("rollout", total=None)

        def progress(done: int, total: int, what: str = "rollout", unit: str = "tokens") -> None:
            bar.update(task, completed=done, total=total, description=f"{what} {done:,} of {total:,} {unit}")

        said = ""
        if length is not None:
            prompt, said = _failing(run, length, lambda done, total: progress(done, total, "verify", "problems"))
        row = run.rollout(prompt, progress)
    if said:
        print(said)
    row.show(limit, around)
    if row.first_error is not None and not run.task.passes:
        print(f'trained up to length {run.task.max_length:,}; what to change: docs/evaluation.md, '
              f'"Why a rollout fails"')
    if html is not None:
        row.html(html)
        print(f"step by step: open {html} in a browser")


def _failing(run: Run, length: int, progress: Callable[[int, int], None]) -> tuple[str, str]:
    """The first test problem of a length that is not exact, or the first of all, and which one that is."""
    check_lengths([length], run.task.shortest)
    if not (variants := run.task.variants_at(length)):
        raise UserError(f"there is no problem of length {length}")
    texts = [typed(run.task, run.data.problem("test", length, number, variant))
             for number in range(TRIED) for variant in variants]
    if UNTYPED in texts:
        raise UserError(f"problems of {run.task.name} cannot be typed in a line: give --prompt")
    for number, text in enumerate(texts):
        progress(number, len(texts))
        if not run.verify(text).exact:
            return text, f"test problem {number + 1} of {len(texts)} at length {length:,} is the first that fails"
    return texts[0], f"none of {len(texts)} test problems at length {length:,} fails: this is the first"
