"""The command `rollout`: one problem, step by step."""

from length_gen.lightning_modules.runs.load import Run


def rollout(run: Run, prompt: str, limit: int | None = 400, around: int | None = None) -> None:
    """Solve one problem and print the trace: prompt, thoughts, commands, observations, outputs; the first error if any.

    Args:
        run: a trained model
        prompt: the problem, such as 123456789x42
        limit: show at most so many tokens of the trace
        around: show those around this token, and the tool's memory before it; null: around the first error
    """
    run.rollout(prompt).show(limit, around)
