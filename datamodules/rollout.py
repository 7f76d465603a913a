"""One problem that a model solves in turns with the real tool: what was said, by whom, and why it ended. No torch."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice

from length_gen.datamodules.tasks import Problem
from length_gen.datamodules.tokens import ANSWER, END, Kind
from length_gen.datamodules.trajectory import Trajectory
from length_gen.tools import InvalidCommand, Tool


@dataclass(slots=True)
class Rollout:
    """One row: what was said, by whom, and why it ended (`end`, `budget`, `invalid_command` or `tool_error`).

    budget: most tokens, the prompt included
    prompt: what the model reads of the question, which the tool has; None: all of it
    tokens, kinds: so far, the prompt included; a `Kind` for each token
    reason, detail: empty while the row goes on; `detail` is what the tool said where it ended the row
    engine: what took its tokens, see `Decoding`
    """

    problem: Problem
    budget: int
    tool: Tool
    prompt: Sequence[str] | None = None
    tokens: list[str] = field(default_factory=list)
    kinds: bytearray = field(default_factory=bytearray)
    reason: str = ""
    detail: str = ""
    engine: str = "host"
    _given: deque[str] = field(default_factory=deque)
    _answer: Sequence[str] | None = None
    _answering: bool = False

    def __post_init__(self) -> None:
        self.tool.reset(self.problem.prompt)
        self.prompt = self.problem.prompt if self.prompt is None else self.prompt
        self._given.extend(self.prompt)

    def advance(self, predicted: str) -> str:
        """Take the model's next token, unless one is forced (prompt, observation); returns the one that was taken."""
        if self._answer is not None and not self._listen():
            return self.tokens[-1]
        if self._given:
            token = self._given.popleft()
            self.kinds.append(Kind.PROMPT if len(self.tokens) < len(self.prompt) else Kind.OBSERVATION)
        else:
            token = predicted
            self.kinds.append(self._feed(token))
        self.tokens.append(token)
        if not self.reason and len(self.tokens) >= self.budget:
            self.reason = "budget"
        if self.reason:
            self.tool.close()
        return token

    def _feed(self, token: str) -> Kind:
        if token == END:
            self.reason = "end"
            return Kind.END
        try:
            observation = self.tool.feed(token)
        except Exception as error:
            return self._fail(error)
        if isinstance(observation, tuple):
            self._give(observation)
            return Kind.COMMAND
        if observation is not None:
            self._answer = observation
            return Kind.COMMAND
        if token == ANSWER:
            self._answering = not self._answering
            return Kind.THOUGHT
        return Kind.OUTPUT if self._answering else Kind.THOUGHT

    def _listen(self) -> bool:
        """Take an observation that was not there at once: until now the tools of all rows worked side by side."""
        answer, self._answer = self._answer, None
        try:
            self._give(answer)
        except Exception as error:
            self._fail(error)
            self.tool.close()
        return not self.reason

    def _give(self, observation: Sequence[str]) -> None:
        """Let the observation come next, as far as the budget goes: a tool may have far more to say."""
        self._given.extend(islice(observation, self.budget - len(self.tokens)))

    def _fail(self, error: Exception) -> Kind:
        """End the row; a tool's fault must not take the other rows down."""
        if isinstance(error, InvalidCommand):
            self.reason, self.detail = "invalid_command", str(error)
        else:
            self.reason, self.detail = "tool_error", f"{type(error).__name__}: {error}"
        return Kind.COMMAND

    def write(self, token: str) -> list[str]:
        """Take a token of whoever writes, and what comes after it by itself; returns that: the observation."""
        self.advance(token)
        return self.read()

    def read(self) -> list[str]:
        """Take all that comes by itself: the question at first, then what the tool has said; returns it."""
        begun = len(self.tokens)
        while not self.reason and (self._given or self._answer is not None):
            if self._answer is not None:
                self._listen()
            else:
                self.advance("")
        return self.tokens[begun:]

    @property
    def forced(self) -> int:
        """How many tokens can be taken before the row may end, whatever the model says."""
        return max(0, min(len(self._given), self.budget - len(self.tokens) - 1)) if self._given else 0

    @property
    def goes_on(self) -> bool:
        """Whether the next token can be taken at once: the row has not ended, and no tool is at work."""
        return not self.reason and self._answer is None

    def outputs(self) -> tuple[str, ...]:
        """The answer that was given: the tokens of kind OUTPUT."""
        return tuple(t for t, k in zip(self.tokens, self.kinds, strict=True) if k == Kind.OUTPUT)


def budget(reference: Trajectory) -> int:
    """Tokens that a rollout may have, prompt included: a quarter more than the reference, and 32."""
    return len(reference.tokens) * 5 // 4 + 32
