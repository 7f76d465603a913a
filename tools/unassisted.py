"""No tool: the model must write the observations itself."""

from collections.abc import Callable, Sequence
from functools import cached_property

from length_gen.tools.base import Tool, View


class Unassisted(Tool):
    """Takes commands of a tool, and the observations that should follow them, as the model writes them.

    The tool behind only tells how many tokens belong to each observation, so that they are not taken for thoughts or
    outputs; what the model writes there is believed.

    tool: the one behind, which is right: an algorithm is answered by it
    """

    def __init__(self, tool: Tool) -> None:
        self.tool, self._expected = tool, 0

    @cached_property
    def commands(self) -> dict[str, Callable[[], tuple[str, ...]]]:
        return self.tool.commands

    def reset(self, prompt: Sequence[str]) -> None:
        self.tool.reset(prompt)
        self._expected = 0

    def write(self, token: str) -> None:
        self.tool.write(token)

    def view(self) -> View | None:
        return self.tool.view()

    def feed(self, token: str) -> tuple[str, ...] | None:
        if self._expected:
            self._expected -= 1
            return ()
        observation = self.tool.feed(token)
        if observation is None:
            return None
        self._expected = len(observation)
        return ()
