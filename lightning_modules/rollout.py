"""Interactive rollouts: the model writes, the real tool answers, until the end token or the budget."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch.utils._pytree import tree_map_

from datamodules.tasks import Problem, Task
from datamodules.tokens import ANSWER, END, Kind, turns
from datamodules.trajectory import Trajectory
from datamodules.vocabulary import Vocabulary
from lightning_modules.backbones.base import Backbone, select_rows
from lightning_modules.batched_rollout import Decoding, batched_rollout
from lightning_modules.metrics import Outcome
from tools import InvalidCommand, Tool, UserError


@dataclass(slots=True)
class Rollout:
    """One row: what was said, by whom, and why it ended (`end`, `budget`, `invalid_command` or `tool_error`)."""

    problem: Problem
    budget: int
    tool: Tool
    tokens: list[str] = field(default_factory=list)
    kinds: bytearray = field(default_factory=bytearray)
    reason: str = ""
    detail: str = ""
    _given: deque[str] = field(default_factory=deque)
    _answering: bool = False

    def __post_init__(self) -> None:
        self.tool.reset(self.problem.prompt)
        self._given.extend(self.problem.prompt)

    def advance(self, predicted: str) -> str:
        """Take the model's next token, unless one is forced (prompt, observation); returns the one that was taken."""
        if self._given:
            token = self._given.popleft()
            self.kinds.append(Kind.PROMPT if len(self.tokens) < len(self.problem.prompt) else Kind.OBSERVATION)
        else:
            token = predicted
            self.kinds.append(self._feed(token))
        self.tokens.append(token)
        if not self.reason and len(self.tokens) >= self.budget:
            self.reason = "budget"
        return token

    def _feed(self, token: str) -> Kind:
        if token == END:
            self.reason = "end"
            return Kind.END
        try:
            observation = self.tool.feed(token)
        except InvalidCommand as error:
            self.reason, self.detail = "invalid_command", str(error)
            return Kind.COMMAND
        except Exception as error:  # a tool's fault must not take the other rows down
            self.reason, self.detail = "tool_error", f"{type(error).__name__}: {error}"
            return Kind.COMMAND
        if observation is not None:
            self._given.extend(observation)
            return Kind.COMMAND
        if token == ANSWER:
            self._answering = not self._answering
            return Kind.THOUGHT
        return Kind.OUTPUT if self._answering else Kind.THOUGHT

    def outputs(self) -> tuple[str, ...]:
        return tuple(t for t, k in zip(self.tokens, self.kinds, strict=True) if k == Kind.OUTPUT)


class _Stepper:
    """Greedy steps of a batch of rows on the host's command."""

    def __init__(self, backbone: Backbone, rows: int) -> None:
        self.backbone, self.device = backbone, next(backbone.parameters()).device
        self.state = backbone.initial_state(rows)

    def __call__(self, tokens: Sequence[int]) -> list[int]:
        logits, self.state = self.backbone.step(torch.tensor(tokens, device=self.device), self.state)
        return logits.argmax(-1).tolist()

    def reset(self, row: int) -> None:
        """Give a row the initial state."""
        tree_map_(lambda state, initial: state[row].copy_(initial[0]), self.state, self.backbone.initial_state(1))

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows."""
        self.state = select_rows(self.state, torch.tensor(rows, device=self.device))


@torch.inference_mode()
def rollout(backbone: Backbone, vocabulary: Vocabulary, task: Task, problems: Iterable[tuple[Problem, int]],
            batch_size: int = 64, decoding: Decoding = Decoding()) -> list[Rollout]:  # noqa: B008 (frozen)
    """Solve problems interactively; each comes with its budget, the most tokens that its row may have.

    Rows end on their own and are refilled from `problems`; the result is in the order of `problems`. Nothing that the
    model writes raises: a row that cannot go on ends with a reason.
    """
    rows = [Rollout(problem, budget, task.part(problem.variant)[0].tool()) for problem, budget in problems]
    if not rows:
        return []
    if decoding.batched(backbone, [row.tool for row in rows]):
        _on_device(backbone, vocabulary, rows, batch_size, decoding)
    elif decoding.temperature:
        raise UserError(f"temperature {decoding.temperature} needs tools of one token a call, and engine auto or "
                        f"device")
    else:
        _on_host(backbone, vocabulary, rows, batch_size)
    return rows


def _on_device(backbone: Backbone, vocabulary: Vocabulary, everything: Sequence[Rollout], batch_size: int,
               decoding: Decoding) -> None:
    problems = [(vocabulary.encode(row.problem.prompt), row.budget) for row in everything]
    for index, reason, ids, kinds in batched_rollout(backbone, vocabulary, everything[0].tool, problems, batch_size,
                                                     decoding):
        row = everything[index]
        row.reason, row.kinds = reason, bytearray(kinds.tobytes())
        row.tokens = vocabulary.decode(ids.tolist())
        if reason == "invalid_command":  # the scalar tool can say why
            again = Rollout(row.problem, row.budget + 1, row.tool)
            for token in row.tokens:
                again.advance(token)
            row.detail = again.detail


def _on_host(backbone: Backbone, vocabulary: Vocabulary, everything: Sequence[Rollout], batch_size: int) -> None:
    queue = deque(everything)
    rows: list[Rollout | None] = [queue.popleft() for _ in range(min(batch_size, len(queue)))]
    stepper, names, ids = _Stepper(backbone, len(rows)), vocabulary.tokens, vocabulary.id
    inputs = [ids(row.advance("")) for row in rows]
    while True:
        predicted = stepper(inputs)
        ended = []
        for i, row in enumerate(rows):
            inputs[i] = ids(row.advance(names[predicted[i]]))
            if row.reason:
                ended.append(i)
        for i in ended:
            rows[i] = queue.popleft() if queue else None
            if rows[i] is not None:
                stepper.reset(i)
                inputs[i] = ids(rows[i].advance(""))
        if ended and None in rows:
            kept = [i for i, row in enumerate(rows) if row is not None]
            if not kept:
                return
            stepper.keep(kept)
            rows, inputs = [rows[i] for i in kept], [inputs[i] for i in kept]


def budget(reference: Trajectory) -> int:
    """Tokens that a rollout may have: a quarter more than the reference, and some."""
    return len(reference.tokens) * 5 // 4 + 32


def judge(row: Rollout, task: Task, reference: Trajectory) -> Outcome:
    """Compare a rollout with the reference trajectory and its outputs with the answer."""
    predicted = [i for i, kind in enumerate(reference.kinds) if kind not in (Kind.PROMPT, Kind.OBSERVATION)]
    exact = row.tokens == reference.tokens
    correct = len(predicted)
    first_error = None
    if not exact:
        said = row.tokens
        correct = sum(i < len(said) and said[i] == reference.tokens[i] for i in predicted)
        pairs = zip(said, reference.tokens, strict=False)
        first_error = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(said), len(reference.tokens) - 1))
    return Outcome(exact=exact, answer_correct=row.reason == "end" and row.outputs() == task.outputs(row.problem),
                   predicted_tokens=len(predicted), correct_tokens=correct, first_error=first_error,
                   phase=None if first_error is None else reference.phase_at(first_error),
                   turns=turns(row.kinds), tokens=len(row.tokens), reason=row.reason)
