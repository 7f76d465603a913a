"""How a task is asked: with its tool, as often as it takes, or in the ways that this is compared with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from length_gen.datamodules.trajectory import Scribe
from length_gen.tools import EDGE, TICK, Solver, Tool, Unassisted
from length_gen.tools.solver import CALL, RETURN

if TYPE_CHECKING:
    from length_gen.datamodules.tasks.base import Problem, ToolTask


class Setting(ABC):
    """What the model may call for a problem of a task, and what it should write (paper, appendix D.7).

    name:     in configurations and results
    phases:   of its trajectories, which are then the same in every style; None: those of the task's algorithm
    mistakes: whether a trajectory can have mistakes in it that are taken back
    """

    name: str
    phases: tuple[str, ...] | None = None
    mistakes = False

    @abstractmethod
    def tool(self, task: ToolTask) -> Tool:
        """A new tool, which answers the trajectory that is recorded and the model in a rollout alike."""

    @abstractmethod
    def solve(self, task: ToolTask, problem: Problem, scribe: Scribe) -> None:
        """Write the trajectory up to the end token."""

    def shown(self, task: ToolTask, problem: Problem) -> tuple[str, ...]:
        """What the model reads of the question, before its first token: all of it, which the tool has in any case."""
        return problem.prompt

    def tokens(self, task: ToolTask) -> list[str]:
        """All that its trajectories say but [ANS] and [END]."""
        return list(task.symbols)

    def outputs(self, answer: tuple[str, ...]) -> tuple[str, ...]:
        """What stands after [ANS] where the answer is right: its tokens, in the order in which they are asked for."""
        return answer


class Interactive(Setting):
    """As many calls of the task's tool as its algorithm needs."""

    name = "interactive"
    mistakes = True

    def tool(self, task: ToolTask) -> Tool:
        return task.clocked()

    def solve(self, task: ToolTask, problem: Problem, scribe: Scribe) -> None:
        task.solve(problem, scribe)

    def tokens(self, task: ToolTask) -> list[str]:
        """A command has a token for each phase where the style says so, in style `beacons_K` beside one without."""
        commands = list(task.clocked().commands)
        with_phase = [command + task.mark + phase for phase in task.phases * bool(task.mark) for command in commands]
        plain = [TICK, *commands] if task.ticked else [] if task.mark else commands
        return [EDGE, *task.symbols, *plain, *with_phase]


class QuestionInTool(Interactive):
    """The tool has the question; the model reads of it only the end, which says what is asked (`ToolTask.asked`).

    That is the last token: `=`; of a Turing machine's tape its last symbol; of a logical graph the last line. All else
    the algorithms read by the tool anyway. A trajectory then begins with a bounded number of tokens, and not with a
    question of any length, after which a state could be nearly anything.
    """

    name = "question_in_tool"

    def shown(self, task: ToolTask, problem: Problem) -> tuple[str, ...]:
        return task.asked(problem)


class NoTool(Interactive):
    """The same trajectory, but the model must write the observations itself."""

    name = "no_tool"
    mistakes = False

    def tool(self, task: ToolTask) -> Tool:
        return Unassisted(task.clocked())


class Direct(Setting):
    """The answer at once."""

    name = "direct"
    phases = ("answer",)

    def tool(self, task: ToolTask) -> Tool:
        return Unassisted(task.memory())

    def solve(self, task: ToolTask, problem: Problem, scribe: Scribe) -> None:
        scribe.phase("answer")
        scribe.answer()
        scribe.output(*task.outputs(problem))


class SingleTurn(Direct):
    """One call of a solver with the question, then the answer."""

    name = "single_turn"
    phases = ("call", "answer")

    def tool(self, task: ToolTask) -> Tool:
        return Solver(task.solution)

    def solve(self, task: ToolTask, problem: Problem, scribe: Scribe) -> None:
        scribe.phase("call")
        scribe.command(CALL, *problem.prompt, RETURN)
        super().solve(task, problem, scribe)

    def tokens(self, task: ToolTask) -> list[str]:
        return [CALL, RETURN, *task.symbols]


class DirectReversed(Direct):
    """The answer at once, its last token first."""

    name = "direct_reversed"

    def outputs(self, answer: tuple[str, ...]) -> tuple[str, ...]:
        return answer[::-1]


SETTINGS = {setting.name: setting for setting in (Interactive(), NoTool(), SingleTurn(), Direct(), DirectReversed(),
                                                  QuestionInTool())}
