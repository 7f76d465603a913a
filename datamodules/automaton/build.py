"""The automaton of a task: all windows that occur in any of its trajectories, whatever the length of the question.

Why every trajectory of every length is a path in it. A trajectory is what is recorded while the algorithm runs on a
question with the real tool. Follow one such run beside what is explored:

1. *The algorithm.* It is run from its own source in small steps (`program`), and all that it holds is a value that
   can be compared (`machine`). It has no problem before it, sampled or not: what the tool answers comes from 2, and
   where the question is used in another way, both ways are gone.
2. *The memory.* At any time the real memory is a path in the graph of `memory`, and the cell under each real pointer is
   one of the pointer's nodes. That is so at the start, for `questions` has every question, and all that the algorithm
   does keeps it so: a move goes to every node that stands beside one in the graph; what is read is split by token, and
   each is explored; what is written becomes a node that is joined to the last.
3. *Until nothing is new.* States of 1 and 2 together are explored once each, in rounds until one adds nothing to the
   graph. So in the last round every move had the whole graph, and the states that the real run goes through are
   among those explored, with what it says between two of them (`explore`).
4. *Windows.* All pairs of such a state and a window that lead from one to the other are gone through. So the window
   before every token of the real trajectory is a node, and the token an edge.

It ends, as there are finitely many nodes (a token and a step of the algorithm each), if the algorithm's own variables
take finitely many values; else it says so. More than the real windows may be found: two pointers know nothing of each
other, and a cell that is read again may be another of the same kind.

*Names.* A task may have many symbols that its algorithm only copies (`ToolTask.names`: the sizes of disks). `machine`
refuses an algorithm that looks at one, and questions tell none from another, so that whatever map of names one applies
to a question, its trajectory is mapped likewise. So a few names stand for all: of a window and the token after it map
those names that the window keeps to different ones of the few, all others to any, and it is found among what the few
give; and back, by all maps of those few that keep them apart, all windows are. There are enough of them: if some window
had as many names as there are few, one of those that were explored would. To keep windows few, they forget names that
have been read long ago, as long as what is left determines the next token. A window with a token forgotten is still a
function of the one before it and of the token between.

What is assumed: `questions` has all questions (`check_task` tries some), and functions that are called without the
scribe change nothing. That `program`, `machine` and the stand-in of the scribe do what Python and the scribe do, the
tests hold against recorded trajectories.
"""
from collections.abc import Sequence
from itertools import permutations

import numpy as np

from length_gen.datamodules.automaton.explore import Explorer
from length_gen.datamodules.automaton.windows import Ambiguous, Automaton, of_steps
from length_gen.datamodules.questions import FIRST, LAST, Questions, standing_in
from length_gen.datamodules.settings import QuestionInTool, Setting
from length_gen.datamodules.tasks import Task, ToolTask
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.tools import UserError

MOST_STEPS = 2_000_000
"""Windows with what follows them; some hundred bytes each while they are found."""


class TooMany(UserError):
    """More windows than are gone through."""


def automaton(task: Task, order: int = 8, most: int = 16, variants: Sequence[str] | None = None) -> Automaton:
    """All windows of the last `order` tokens in any trajectory of the task, of any length.

    order:    at least this many tokens a window; more, up to `most`, where fewer do not determine the next token
    variants: kinds of problems; None: all of the task's

    Raises UserError where no such window, up to `most` tokens or to as many as can be gone through, determines the next
    token, and where the algorithm cannot be explored.
    """
    parts = [_Part(part, questions) for part, questions in parts_of(task, variants)]
    vocabulary, short = task.vocabulary(), None
    while True:
        for kept in range(1, order + 1) if any(part.few for part in parts) else (order,):
            try:
                steps = [part.steps(vocabulary, order, kept) for part in parts]
                return of_steps(*map(np.concatenate, zip(*steps, strict=True)), vocabulary)
            except TooMany:
                if short is None:
                    raise
                raise _none(task, short.order, short) from short
            except Ambiguous as ambiguous:
                short = ambiguous
        if order >= most:
            raise _none(task, order, short) from short
        order += 1


def _none(task: Task, order: int, ambiguous: Ambiguous) -> UserError:
    return UserError(f"no window of up to {order} tokens suffices for {task.name} in style {task.style}: {ambiguous}")


def parts_of(task: Task, variants: Sequence[str] | None) -> list[tuple[ToolTask, Questions]]:
    """The tasks that the variants belong to, with their questions; what is the same for several variants once."""
    found: dict[tuple[int, Questions], ToolTask] = {}
    for variant in task.variants if variants is None else variants:
        if variant not in task.variants:
            raise UserError(f"{task.name} has no variant {variant!r}: expected {', '.join(map(repr, task.variants))}")
        part, own = task.part(variant)
        if not isinstance(part, ToolTask):
            raise UserError(f"{part.name} has no single algorithm and tool: its trajectories cannot be explored")
        found[id(part), part.questions(own)] = part
    return [(part, questions) for (_, questions), part in found.items()]


def _shows_all(task: ToolTask) -> bool:
    """Whether the model reads all of the question, or its last token only."""
    shown = type(task._setting).shown
    if shown is Setting.shown:
        return True
    if shown is QuestionInTool.shown and type(task).asked is ToolTask.asked:
        return False
    raise UserError(f"{task.name} in setting {task.setting} shows neither all of the question nor its last token: its "
                    f"trajectories cannot be explored")


class _Part:
    """What one algorithm can do with its questions, explored with two of its names, or with more if need be."""

    def __init__(self, task: ToolTask, questions: Questions) -> None:
        self.task, self.all, self.whole = task, questions, _shows_all(task)
        self._explore(2)

    def _explore(self, few: int) -> None:
        self.few = self.task.names[:few]
        try:
            self.questions = standing_in(self.all, self.task.names, self.few)
        except ValueError as error:
            raise UserError(f"the questions of {self.task.name} tell its names apart: {error}; leave `names` out, or "
                            f"make them alike") from error
        self.states = Explorer(self.task, self.questions).states()

    def steps(self, vocabulary: Vocabulary, order: int, kept: int) -> tuple[np.ndarray, ...]:
        """What `of_steps` takes, of windows whose names are among the newest `kept` tokens."""
        while True:
            found = _Steps(self.task, [vocabulary.id(name) for name in self.few], len(vocabulary) + 1, order, kept)
            self._walk(found, vocabulary)
            alike = found.alike()
            if max(alike) < len(self.few) or len(self.few) == len(self.task.names):
                break
            self._explore(len(self.few) + 1)
        rows = np.concatenate([_named(rows, found.few, [vocabulary.id(name) for name in self.task.names], count)
                               for count, rows in alike.items()])
        windows, after, predicted = rows[:, :order], rows[:, 1 : order + 1].copy(), rows[:, order + 1].astype(bool)
        if kept < order:
            old = after[:, order - 1 - kept]
            old[np.isin(old, [vocabulary.id(name) for name in self.task.names])] = -1
        return windows, after, predicted

    def _walk(self, steps: "_Steps", vocabulary: Vocabulary) -> None:
        """Tell `steps` of all paths through questions and states."""
        edges = [[([(vocabulary.id(token), predicted) for token, predicted in said], after) for said, after in leaving]
                 for leaving in self.states.edges]
        seen = {(0, window) for window in _asked(self.questions, vocabulary, self.whole, steps)}
        todo = list(seen)
        while todo:
            state, before = todo.pop()
            for said, after in edges[state]:
                window = before
                for token, predicted in said:
                    window = steps.add(window, token, predicted)
                if after >= 0 and (place := (after, window)) not in seen:
                    seen.add(place)
                    todo.append(place)


def _named(rows: np.ndarray, few: Sequence[int], names: Sequence[int], count: int) -> np.ndarray:
    """The rows for all names: those with the first `count` of the `few`, each as different ones of `names`."""
    maps = np.array(list(permutations(names, count)), dtype=np.int32)
    if len(maps) * len(rows) > MOST_STEPS:
        raise TooMany(f"more than {MOST_STEPS:,} windows for {len(names)} names, {count} of them in one window")
    named = np.repeat(rows[None], len(maps), axis=0)
    for place, name in enumerate(few[:count]):
        named[:, :, :-1][:, rows[:, :-1] == name] = maps[:, place, None]
    return named.reshape(-1, rows.shape[1])


def _asked(questions: Questions, vocabulary: Vocabulary, whole: bool, steps: "_Steps") -> set[int]:
    """The windows after a question, all of which is read, or the last token; those before go into `steps`."""
    moves: dict[str, list[tuple[int, str]]] = {}
    for before, tokens, after in questions:
        if whole or after == LAST:
            moves.setdefault(before, []).extend((vocabulary.id(token), after) for token in tokens)
    seen = {(FIRST, 0)} if whole else {(before, 0) for before in moves}
    todo = list(seen)
    while todo:
        place, window = todo.pop()
        for token, after in moves.get(place, ()):
            if (state := (after, steps.add(window, token, False))) not in seen:
                seen.add(state)
                todo.append(state)
    return {window for place, window in seen if place == LAST}


class _Steps:
    """Windows and what comes next, each once. A window is one number; its tokens, the newest last, are the digits, from
    1 on, 0 for one that is forgotten.

    few: token ids of the names that stand for all; they are forgotten when they are not among the newest `kept` tokens
    """

    def __init__(self, task: Task, few: list[int], base: int, order: int, kept: int) -> None:
        self._task, self.few, self._base, self._order, self._size = task, few, base, order, base**order
        self._names, self._old = {name + 1 for name in few}, base**kept
        self._found: set[tuple[int, int, bool]] = set()

    def add(self, window: int, token: int, predicted: bool) -> int:
        """Returns the window after it. Raises UserError for too many."""
        self._found.add((window, token, predicted))
        if len(self._found) > MOST_STEPS:
            raise TooMany(f"{self._task.name} in setting {self._task.setting} has more than {MOST_STEPS:,} windows "
                            f"of {self._order} tokens, as a question has of which the model reads all: take setting "
                            f"{QuestionInTool.name}, shorter windows, or fewer symbols in the questions")
        after = (window * self._base + token + 1) % self._size
        if (old := after // self._old % self._base) in self._names:
            after -= old * self._old
        return after

    def alike(self) -> dict[int, np.ndarray]:
        """int32 [M, K + 2]: the tokens of windows, the next token, and whether it is predicted; by how many of the
        `few` names they have, of which they have the first ones, in order."""
        found: dict[int, set[tuple[int, ...]]] = {0: set()}
        for window, token, predicted in self._found:
            row, names = [token], {}
            for _ in range(self._order):
                window, digit = divmod(window, self._base)
                row.append(digit - 1)
            if self._names:
                row = [self.few[names.setdefault(t, len(names))] if t + 1 in self._names else t for t in row]
            found.setdefault(len(names), set()).add((*row[::-1], int(predicted)))
        return {count: np.array(list(rows), dtype=np.int32).reshape(len(rows), self._order + 2)
                for count, rows in found.items()}
