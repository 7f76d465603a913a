"""The command `rollout`: one problem, step by step."""

from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from length_gen.lightning_modules.runs.load import Run


def rollout(run: Run, prompt: str, limit: int | None = 400, around: int | None = None, html: str | None = None) -> None:
    """Solve one problem and print the trace: prompt, thoughts, commands, observations, outputs; the first error if any.

    Args:
        run: a trained model
        prompt: the problem, such as 123456789x42
        limit: show at most so many tokens of the trace
        around: show those around this token, and the tool's memory before it; null: around the first error
        html: a file to write, such as trace.html: the same as a page to step through, with all probabilities
    """
    with Progress(TextColumn("{task.description}"), BarColumn(20), TimeRemainingColumn(compact=True),
                  transient=True) as bar:
        task = bar.add_task("rollout", total=None)

        def progress(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, description=f"rollout {done:,} of {total:,} tokens")

        row = run.rollout(prompt, progress)
    row.show(limit, around)
    if html is not None:
        row.html(html)
        print(f"step by step: open {html} in a browser")
