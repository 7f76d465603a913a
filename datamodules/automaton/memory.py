"""Memories of which only this is known: which cell may stand beside which, for a finite number of kinds of cells.

A cell's kind, here a *node*, says the token in it, and where it came from: a place in the question, or the step of the
algorithm that wrote it. The memory is a path from node to node. A pointer is on some node of a set; it moves to all
that may stand beside one, and what it reads splits the set. Nodes and edges are added as the algorithm writes, and
never taken away, so that whatever the real memory holds is a path.
"""

from collections.abc import Hashable, Iterable
from typing import Any

from length_gen.datamodules.automaton.program import Unsupported
from length_gen.datamodules.questions import FIRST, LAST, Questions
from length_gen.tools import EDGE, PointerMemory
from length_gen.tools.tape import BLANK, Tape

Nodes = frozenset[int]


class Cells:
    """The nodes that there are, by number, and which may stand right of which.

    beside: for each direction (0 left, 1 right) and node, the nodes that may stand there
    grown:  whether anything has been added since this was last set to False
    """

    def __init__(self) -> None:
        self.token: list[str] = []
        self.beside: tuple[list[set[int]], list[set[int]]] = ([], [])
        self.grown = False
        self._numbers: dict[Hashable, int] = {}
        self.labels: list[Any] = []

    def node(self, token: str, label: Hashable) -> int:
        """The node of that token and label."""
        number = self._numbers.setdefault((token, label), len(self.token))
        if number == len(self.token):
            self.token.append(token)
            self.labels.append(label)
            for sides in self.beside:
                sides.append(set())
            self.grown = True
        return number

    def join(self, direction: int, node: int, others: Iterable[int]) -> None:
        """Let `others` be nodes that may stand beside a node, in one direction."""
        before = len(self.beside[direction][node])
        self.beside[direction][node].update(others)
        self.grown |= len(self.beside[direction][node]) > before

    def next_to(self, direction: int, nodes: Nodes) -> Nodes:
        """All that may stand beside one of these."""
        return frozenset().union(*(self.beside[direction][node] for node in nodes))

    def by_token(self, nodes: Nodes) -> dict[str, Nodes]:
        """The nodes of each token."""
        found: dict[str, set[int]] = {}
        for node in sorted(nodes):
            found.setdefault(self.token[node], set()).add(node)
        return {token: frozenset(same) for token, same in found.items()}

    def question(self, questions: Questions) -> tuple[Nodes, Nodes]:
        """Nodes of all questions: a step of `Questions` and its token. Returns the first ones and the last ones."""
        places = [(self.node(token, (before, after)), before, after)
                  for before, tokens, after in questions for token in tokens]
        leaving: dict[str, list[int]] = {}
        for node, before, _ in places:
            leaving.setdefault(before, []).append(node)
        for node, _, after in places:
            self.join(1, node, leaving.get(after, ()))
            for right in leaving.get(after, ()):
                self.join(0, right, (node,))
        return frozenset(leaving[FIRST]), frozenset(node for node, _, after in places if after == LAST)


class PointerCells:
    """`PointerMemory`, abstractly. A state is a set of nodes for each pointer (None before its init), and the last."""

    def __init__(self, tool: PointerMemory, questions: Questions) -> None:
        self.cells, self.commands = Cells(), tool.commands
        self.left, self.right = self.cells.node(EDGE, "left edge"), self.cells.node(EDGE, "right edge")
        self.first, last = self.cells.question(questions)
        for node in self.first:
            self.cells.join(0, node, (self.left,))
        self.start: Any = ((None,) * tool.pointers, last)

    def run(self, state: Any, command: str, label: Hashable) -> list[tuple[Any, tuple[str, ...]]]:
        """What a command may lead to: states, and what is observed. Raises Unsupported for a pointer without a place.
        """
        pointers, last = state
        name, operation = command.split(".")
        index = int(name[1:]) - 1
        nodes = pointers[index]

        def placed(nodes: Nodes) -> Any:
            return (*pointers[:index], nodes, *pointers[index + 1 :]), last

        if operation == "init":
            return [(placed(self.first), ())]
        if nodes is None:
            raise Unsupported(f"{command}: {name} has no place yet; call {name}.init first")
        if operation == "read":
            return [(placed(same), (token,)) for token, same in self.cells.by_token(nodes).items()]
        ends = nodes & {self.left, self.right}
        there = self.cells.next_to(operation == "right", nodes - ends)
        if operation == "left":
            there |= (ends & {self.left}) | (last if self.right in ends else frozenset())
        else:
            there |= (ends & {self.right}) | (self.first if self.left in ends else frozenset())
            there |= {self.right} if nodes & last else frozenset()
        return [(placed(there), ())]

    def write(self, state: Any, token: str, label: Hashable) -> Any:
        """After a token has been appended: a pointer beyond the last cell is on it now."""
        pointers, last = state
        node = self.cells.node(token, label)
        for before in last:
            self.cells.join(1, before, (node,))
        self.cells.join(0, node, last)
        moved = tuple(nodes - {self.right} | {node} if nodes and self.right in nodes else nodes for nodes in pointers)
        return moved, frozenset({node})


class TapeCells:
    """`Tape`, abstractly: the cells left of the head and right of it are two stacks, a path each.

    A state: the direction in which the head came to its cell (0 left, 1 right); the nodes that the cell may be, as it
    was on the stack there; what has been written to it since (None: nothing); the tops of the other stack. A cell keeps
    its place in the question, or on which side it is beyond it, whatever is written to it.
    """

    def __init__(self, tool: Tape, questions: Questions) -> None:
        self.cells, self.commands = Cells(), tool.commands
        first, last = self.cells.question(questions)
        blank = [self.cells.node(BLANK, (None, side)) for side in ("left", "right")]
        for direction, node in enumerate(blank):
            self.cells.join(direction, node, (node,))
        for node in last:
            self.cells.join(1, node, (blank[1],))
        self.start: Any = (1, first, None, frozenset({blank[0]}))

    def run(self, state: Any, command: str, label: Hashable) -> list[tuple[Any, tuple[str, ...]]]:
        """What a command may lead to: states, and what is observed."""
        came, nodes, written, other = state
        if command == "read":
            if written is not None:
                return [(state, (written,))]
            return [((came, same, None, other), (token,)) for token, same in self.cells.by_token(nodes).items()]
        if command.startswith("write."):
            return [((came, nodes, command.removeprefix("write."), other), ())]
        go = int(command == "right")
        back, pushed = 1 - go, set()
        for node in nodes:
            token = self.cells.token[node] if written is None else written
            new = self.cells.node(token, (*self.cells.labels[node][:2], label))
            self.cells.join(back, new, other if came == go else self.cells.beside[back][node])
            pushed.add(new)
        ahead = self.cells.next_to(go, nodes) if came == go else other
        return [((go, ahead, None, frozenset(pushed)), ())]

    def write(self, state: Any, token: str, label: Hashable) -> Any:
        """Thoughts and outputs leave the tape alone."""
        return state


KINDS = {PointerMemory: PointerCells, Tape: TapeCells}
"""What stands for a tool; one that is derived from it may do something else, and has none."""
