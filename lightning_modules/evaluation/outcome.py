"""What one evaluated problem gave: a rollout against its reference trajectory and its answer."""

from collections.abc import Sequence
from dataclasses import dataclass

from length_gen.datamodules.rollout import Rollout
from length_gen.datamodules.tasks import Task
from length_gen.datamodules.tokens import Kind, turns
from length_gen.datamodules.trajectory import Trajectory


@dataclass(slots=True)
class Outcome:
    """What one evaluated problem gave.

    exact:            the trajectory is the reference trajectory, token by token
    answer_correct:   the outputs are the answer; None where that is not judged (`verify`)
    predicted_tokens: tokens of the reference that the model had to predict
    correct_tokens:   those of them that it got right
    first_error:      position in the trajectory of the first wrong token; None if there is none
    phase:            phase of that token; None (or "") outside all phases
    turns:            tool calls that an observation answered
    tokens:           length of the trajectory, prompt included
    reason:           one of `metrics.REASONS`
    engine:           one of `metrics.ENGINES`: what took the tokens

    Raises ValueError for numbers that contradict each other.
    """

    exact: bool
    answer_correct: bool | None
    predicted_tokens: int
    correct_tokens: int
    first_error: int | None
    phase: str | None
    turns: int
    tokens: int
    reason: str
    engine: str

    def __post_init__(self) -> None:
        if self.exact and self.first_error is not None:
            raise ValueError(f"an exact trajectory has no first error, but first_error is {self.first_error}")
        if not 0 <= self.correct_tokens <= self.predicted_tokens:
            raise ValueError(f"{self.correct_tokens} correct of {self.predicted_tokens} predicted tokens is impossible")


def judge(row: Rollout, task: Task, reference: Trajectory) -> Outcome:
    """Compare a rollout with the reference trajectory and its outputs with the answer."""
    predicted = [i for i, kind in enumerate(reference.kinds) if kind not in (Kind.PROMPT, Kind.OBSERVATION)]
    said, first_error = row.tokens, first_difference(row.tokens, reference.tokens)
    exact = first_error is None
    correct = len(predicted) if exact else sum(i < len(said) and said[i] == reference.tokens[i] for i in predicted)
    return Outcome(exact=exact, answer_correct=task.solved(row.problem, row.outputs(), row.reason, row.tool),
                   predicted_tokens=len(predicted), correct_tokens=correct, first_error=first_error,
                   phase=None if first_error is None else reference.phase_at(first_error),
                   turns=turns(row.kinds), tokens=len(row.tokens), reason=row.reason, engine=row.engine)


def first_difference(tokens: Sequence[str], reference: Sequence[str]) -> int | None:
    """Position of the first token that is not the reference's, or is missing; None if there is none."""
    if tokens == reference:
        return None
    pairs = zip(tokens, reference, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(tokens), len(reference) - 1))
