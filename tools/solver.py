"""The tool of single-turn use: one call takes the whole question and answers with the solution."""

from collections.abc import Callable, Sequence

from length_gen.tools.base import InvalidCommand, Tool, View

CALL, RETURN = "[CALL]", "[RETURN]"


class Solver(Tool):
    """Answers `[CALL] question [RETURN]` with the solution (paper, appendix D.7: the calculator of single-turn use).

    The model must write the question as the argument. The call is many tokens: each is part of the command, and the
    last one, [RETURN], brings the observation. Everything else is a thought or an output, and is not kept.

    A question of more tokens than the problem's is an InvalidCommand, unsolved: its solution may be of any length.

    solve: question tokens -> solution tokens; whatever it raises makes the call an InvalidCommand
    """

    def __init__(self, solve: Callable[[tuple[str, ...]], tuple[str, ...]]) -> None:
        self._solve = solve
        self._arguments: list[str] | None = None
        self._longest = 0
        self.commands = {CALL: self._start, RETURN: self._answer}

    def reset(self, prompt: Sequence[str]) -> None:
        self._arguments, self._longest = None, len(prompt)

    def write(self, token: str) -> tuple[str, ...] | None:
        if self._arguments is None:
            return None
        self._arguments.append(token)
        return ()

    def view(self) -> View:
        """The question, as far as it is written."""
        return View(self._arguments or (), {})

    def _start(self) -> tuple[str, ...]:
        self._arguments = []
        return ()

    def _answer(self) -> tuple[str, ...]:
        question, self._arguments = tuple(self._arguments or ()), None
        if len(question) > self._longest:
            raise InvalidCommand(f"the solver takes no question of {len(question)} tokens: the problem has "
                                 f"{self._longest}")
        try:
            return self._solve(question)
        except Exception as error:
            text = " ".join(question[:20])
            raise InvalidCommand(f"the solver has no solution for {text or 'nothing'!r}") from error
