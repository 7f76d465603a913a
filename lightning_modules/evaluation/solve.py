"""One problem, step by step: the model's rollout with the real tool, beside the reference trajectory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from length_gen.datamodules.rollout import budget
from length_gen.datamodules.tasks import Problem, Task
from length_gen.datamodules.tokens import Kind
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.lightning_modules.backbones.base import Backbone
from length_gen.lightning_modules.decoding.rollout import rollout
from length_gen.lightning_modules.decoding.settings import Decoding
from length_gen.lightning_modules.evaluation.confidence import Confidence, confidence, percent
from length_gen.lightning_modules.evaluation.memory import MemoryTrace, replay
from length_gen.lightning_modules.evaluation.outcome import judge
from length_gen.lightning_modules.evaluation.traces import shortened, trace_legend, trace_text, visible
from length_gen.lightning_modules.evaluation.viewer import page
from length_gen.tools import UserError
from length_gen.tools.files import atomic_path


@dataclass(frozen=True, slots=True)
class RolloutResult:
    """A rollout and what it should have been.

    question:      the problem, as the tool has it
    tokens, kinds: of the rollout, its prompt included; a `Kind` for each token
    phases:        (position of its first token, name) as the reference has them, up to the first token that differs
    outputs:       what the model gave as its answer; `expected` is the right one
    right:         the task holds it for solved, however the model came to it
    exact:         the tokens are those of the reference trajectory
    first_error:   position of the first token that is not the reference's; None if there is none
    due:           the reference's token there, and `due_phase` its phase; empty if there is no error
    reason:        why it ended (`end`, `budget`, `invalid_command`, `tool_error`); `detail` says more, or is empty
    engine:        what took the tokens, see `Decoding`; `draft`: the reference's tokens were checked many at a time
    confidence:    how likely the model held what it wrote
    memory:        what the tool held at each step; None of a tool that has nothing to show
    """

    question: tuple[str, ...] = field(repr=False)
    tokens: tuple[str, ...] = field(repr=False)
    kinds: tuple[Kind, ...] = field(repr=False)
    phases: tuple[tuple[int, str], ...] = field(repr=False)
    outputs: tuple[str, ...]
    expected: tuple[str, ...]
    right: bool
    exact: bool
    first_error: int | None
    due: str
    due_phase: str
    reason: str
    detail: str
    engine: str
    confidence: Confidence = field(repr=False, compare=False)
    memory: MemoryTrace | None = field(repr=False, compare=False)

    def show(self, limit: int | None = 400, around: int | None = None) -> None:
        """Print the trace in colours, at most `limit` tokens of it (None: all), the verdict, and the first error.

        around: position of a token whose neighbours are shown, and the tool's memory there, instead of the error's

        Raises UserError if there is no such token, or the limit is below 2.
        """
        console = Console()
        trace = trace_text(self.tokens, self.kinds, self.phases, limit, self.first_error, around, console)
        shown = sum(1 for _ in takewhile(Kind.PROMPT.__eq__, self.kinds))
        if 0 < shown < len(self.question) and self.question[-shown:] == self.tokens[:shown]:
            console.print(f"question: {escape(shortened(self.question))} (in the tool; the prompt is its end)",
                          soft_wrap=True)
        console.print(trace_legend())
        console.print(trace)
        verdict = "[green]right[/green]" if self.right else "[red]wrong[/red]"
        console.print(f"answer {escape(shortened(self.outputs)) or 'none'}: {verdict} "
                      f"(expected {escape(shortened(self.expected))}); "
                      f"trajectory {'exact' if self.exact else 'not the reference'}, {len(self.tokens):,} tokens, "
                      f"ended by {self.reason}{': ' + escape(self.detail) if self.detail else ''}; "
                      f"engine {self.engine}", soft_wrap=True)
        if self.first_error is not None:
            console.print(self._error(), soft_wrap=True)
        step = self.first_error if around is None else around
        if step is not None and self.memory:
            text = self.memory.text(step - 1, console.width - 2)
            console.print(Text(f"memory before token {step}:\n  " + text.replace("\n", "\n  ")), soft_wrap=True)

    def html(self, path: str | Path) -> None:
        """Write the rollout as a page to step through, a file of its own. Raises UserError if it cannot be written."""
        try:
            with atomic_path(path) as temporary:
                temporary.write_text(page(self), encoding="utf-8")
        except OSError as error:
            raise UserError(f"{path} cannot be written ({error.strerror}): give the name of a file in a folder of "
                            f"yours, such as trace.html") from error

    def _error(self) -> Text:
        """What was written and what was due at the first error, and how likely the model held either."""
        place, sure = self.first_error, self.confidence
        written = place < len(self.tokens)
        rows = [("written", visible(self.tokens[place]) if written else "nothing", sure.written),
                ("due", visible(self.due), sure.due)]
        width = max(cell_len(token) for _, token, _ in rows)
        text = Text(f"{'first difference' if self.right else 'first error'}: token {place} of {len(self.tokens):,}"
                    f"{', in phase ' + self.due_phase if self.due_phase else ''}", "bold red")
        for (name, token, shares), style in zip(rows, ("red", "green"), strict=True):
            text.append(f"\n  {name:<9}").append(f"{token:<{width}}", style)
            text.append(f"  {percent(shares[place]):>6}" if written else "")
        return text


UNTYPED = "PROBLEM"
"""Stands for a problem that is read from something longer than a line."""


def typed(task: Task, problem: Problem) -> str:
    """The problem as a person types it, or the word PROBLEM where the task reads it from something longer."""
    prompt = problem.prompt[:-1] if problem.prompt[-1] == "=" else problem.prompt
    for text in ("".join(prompt), " ".join(prompt).replace("\n", ";")):
        try:
            if task.parse(text).prompt == problem.prompt:
                return text
        except UserError:
            continue
    return UNTYPED


def solve(backbone: Backbone, vocabulary: Vocabulary, task: Task, prompts: Sequence[str],
          decoding: Decoding = Decoding(),  # noqa: B008 (frozen)
          progress: Callable[[int, int], None] = lambda done, total: None) -> list[RolloutResult]:
    """Roll out problems that are written as a person would, such as 123x42, side by side; one result each.

    progress: called now and then with how many tokens there are, and how many the references have

    Raises UserError for a text that is no problem of the task.
    """
    problems = [task.parse(prompt) for prompt in prompts]
    references = task.references(problems)
    total, done = sum(len(reference.tokens) for reference in references), 0

    def more(tokens: int) -> None:
        nonlocal done
        done += tokens
        progress(min(done, total), total)  # a rollout may take more than its reference

    rows = rollout(backbone, vocabulary, task, [(p, budget(r)) for p, r in zip(problems, references, strict=True)],
                   decoding=decoding, progress=more, drafts=[reference.tokens for reference in references])
    results = []
    for row, problem, reference in zip(rows, problems, references, strict=True):
        outcome = judge(row, task, reference)
        end = len(row.tokens) if outcome.first_error is None else outcome.first_error
        due = "" if outcome.first_error is None else reference.tokens[end]
        expected = row.tokens[:]
        expected[end : end + 1] = [due] * (end < len(expected))
        results.append(RolloutResult(
            problem.prompt, tuple(row.tokens), tuple(map(Kind, row.kinds)),
            tuple(phase for phase in reference.phases if phase[0] < end), tuple(row.outputs()),
            tuple(task.outputs(problem)), bool(outcome.answer_correct), outcome.exact, outcome.first_error, due,
            outcome.phase or "", row.reason, row.detail, row.engine,
            confidence(backbone, vocabulary, row.tokens, expected), replay(task, problem, row.tokens)))
    return results
