"""One problem, step by step: the model's rollout with the real tool, beside the reference trajectory."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console

from length_gen.datamodules.tasks import Task
from length_gen.datamodules.tokens import Kind
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.decoding.batched_rollout import Decoding
from length_gen.lightning_modules.decoding.rollout import budget, rollout
from length_gen.lightning_modules.evaluation.outcome import judge
from length_gen.lightning_modules.evaluation.traces import trace_legend, trace_text


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """A rollout and what it should have been.

    tokens, kinds: of the rollout, its prompt included; a `Kind` for each token
    phases:        (position of its first token, name) as the reference has them, up to the first token that differs
    outputs:       what the model gave as its answer; `expected` is the right one
    right:         the task holds it for solved, however the model came to it
    exact:         the tokens are those of the reference trajectory
    first_error:   position of the first token that is not the reference's; None if there is none
    reason:        why it ended (`end`, `budget`, `invalid_command`, `tool_error`); `detail` says more, or is empty
    """

    tokens: tuple[str, ...] = field(repr=False)
    kinds: tuple[Kind, ...] = field(repr=False)
    phases: tuple[tuple[int, str], ...] = field(repr=False)
    outputs: tuple[str, ...]
    expected: tuple[str, ...]
    right: bool
    exact: bool
    first_error: int | None
    reason: str
    detail: str

    def show(self, limit: int | None = 400) -> None:
        """Print the trace in colours, at most `limit` tokens of it (None: all), and the verdict."""
        console = Console()
        console.print(trace_legend())
        console.print(trace_text(self.tokens, self.kinds, self.phases if self.exact else None, limit))
        verdict = "[green]right[/green]" if self.right else "[red]wrong[/red]"
        console.print(f"answer {''.join(self.outputs) or 'none'}: {verdict} (expected {''.join(self.expected)}); "
                      f"trajectory {'exact' if self.exact else 'not the reference'}, {len(self.tokens):,} tokens, "
                      f"ended by {self.reason}{': ' + self.detail if self.detail else ''}", soft_wrap=True)


def solve(backbone: Backbone, vocabulary: Vocabulary, task: Task, prompts: Sequence[str],
          decoding: Decoding = Decoding()) -> list[RolloutResult]:  # noqa: B008 (frozen)
    """Roll out problems that are written as a person would, such as 123x42, side by side; one result each.

    Raises UserError for a text that is no problem of the task.
    """
    problems = [task.parse(prompt) for prompt in prompts]
    references = task.references(problems)
    rows = rollout(backbone, vocabulary, task, [(p, budget(r)) for p, r in zip(problems, references, strict=True)],
                   decoding=decoding)
    results = []
    for row, problem, reference in zip(rows, problems, references, strict=True):
        outcome = judge(row, task, reference)
        end = len(row.tokens) if outcome.first_error is None else outcome.first_error
        results.append(RolloutResult(tuple(row.tokens), tuple(map(Kind, row.kinds)),
                                     tuple(phase for phase in reference.phases if phase[0] < end), tuple(row.outputs()),
                                     tuple(task.outputs(problem)), bool(outcome.answer_correct), outcome.exact,
                                     outcome.first_error, row.reason, row.detail))
    return results
