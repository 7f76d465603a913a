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
other, and a cell that is read again may be another of the same kind. Where questions can be counted (disks of a
few sizes), none of this is needed: the trajectory of each is recorded. What is assumed: `questions` has all questions
(`check_task` tries some), and functions that are called without the scribe change nothing. That `program`, `machine`
and the stand-in of the scribe do what Python and the scribe do, the tests hold against recorded trajectories.
"""
import math
from collections.abc import Sequence

import numpy as np

from length_gen.datamodules.automaton.explore import Explorer, States
from length_gen.datamodules.automaton.windows import Ambiguous, Automaton, of_steps, steps_of
from length_gen.datamodules.questions import FIRST, LAST, Questions, count, every
from length_gen.datamodules.questions import among as only
from length_gen.datamodules.settings import QuestionInTool, Setting
from length_gen.datamodules.tasks import Problem, Task, ToolTask
from length_gen.datamodules.vocabulary import Vocabulary
from length_gen.tools import UserError

MOST_QUESTIONS = 5_000
"""Where there are no more, each is recorded: all that is explored is what each of them gives."""

MOST_STEPS = 2_000_000
"""Windows with what follows them; some hundred bytes each while they are found."""


class TooMany(UserError):
    """More windows than are gone through."""


def automaton(task: Task, order: int = 8, most: int = 16, variants: Sequence[str] | None = None,
              among: Sequence[str] | None = None) -> Automaton:
    """All windows of the last `order` tokens in any trajectory of the task, of any length.

    order:    at least this many tokens a window; more, up to `most`, where fewer do not determine the next token
    variants: kinds of problems; None: all of the task's
    among:    the tokens that questions are made of, where all that the task has would be too many (the sizes of
              disks, say); it then says nothing of other questions. None: all

    Raises UserError where no such window, up to `most` tokens or to as many as can be gone through, determines the next
    token, and where the algorithm cannot be explored.
    """
    explored, recorded = [], []
    for part, questions in parts_of(task, variants, among):
        number = count(questions)
        if number is not None and number <= MOST_QUESTIONS:
            recorded += [part.record(Problem(prompt, len(prompt))) for prompt in every(questions)]
        else:
            explored.append((_shows_all(part), questions, Explorer(part, questions).states()))
    vocabulary, short = task.vocabulary(), None
    while True:
        try:
            parts = [_windows(task, explored, order)] if explored else []
            parts += [steps_of(recorded, vocabulary, order)] if recorded else []
            return of_steps(*map(np.concatenate, zip(*parts, strict=True)), vocabulary)
        except TooMany:
            if short is None:
                raise
            raise _none(task, order - 1, short) from short
        except Ambiguous as ambiguous:
            if order >= most:
                raise _none(task, order, ambiguous) from ambiguous
            short, order = ambiguous, order + 1


def _none(task: Task, order: int, ambiguous: Ambiguous) -> UserError:
    return UserError(f"no window of up to {order} tokens suffices for {task.name} in style {task.style}: {ambiguous}")


def parts_of(task: Task, variants: Sequence[str] | None,
             among: Sequence[str] | None) -> list[tuple[ToolTask, Questions]]:
    """The tasks that the variants belong to, with their questions; what is the same for several variants once."""
    found: dict[tuple[int, Questions], ToolTask] = {}
    for variant in task.variants if variants is None else variants:
        if variant not in task.variants:
            raise UserError(f"{task.name} has no variant {variant!r}: expected {', '.join(map(repr, task.variants))}")
        part, own = task.part(variant)
        if not isinstance(part, ToolTask):
            raise UserError(f"{part.name} has no single algorithm and tool: its trajectories cannot be explored")
        questions = part.questions(own)
        if among is not None:
            questions = only(questions, among)
            if count(questions) == 0:
                raise UserError(f"{task.name} has no question of the tokens {' '.join(among)} alone: give more of them")
        found[id(part), questions] = part
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


def _windows(task: Task, explored: list[tuple[bool, Questions, States]], order: int) -> tuple[np.ndarray, ...]:
    """The windows of paths through questions and states, as `of_steps` takes them."""
    vocabulary = task.vocabulary()
    steps = _Steps(task, len(vocabulary) + 1, order)
    for whole, questions, states in explored:
        edges = [[([(vocabulary.id(token), predicted) for token, predicted in said], after) for said, after in leaving]
                 for leaving in states.edges]
        seen = {(0, window) for window in _asked(questions, vocabulary, whole, steps)}
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
    return steps.arrays()


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
    1 on."""

    def __init__(self, task: Task, base: int, order: int) -> None:
        self._task, self._base, self._order, self._size = task, base, order, base**order
        self._found: set[tuple[int, int, bool]] = set()

    def add(self, window: int, token: int, predicted: bool) -> int:
        """Returns the window after it. Raises UserError for too many."""
        self._found.add((window, token, predicted))
        if len(self._found) > MOST_STEPS:
            raise TooMany(f"{self._task.name} in setting {self._task.setting} has more than {MOST_STEPS:,} windows "
                            f"of {self._order} tokens, as a question has of which the model reads all: take setting "
                            f"{QuestionInTool.name}, shorter windows, or fewer symbols in the questions")
        return (window * self._base + token + 1) % self._size

    def arrays(self) -> tuple[np.ndarray, ...]:
        """What `of_steps` takes."""
        windows, tokens, predicted = zip(*self._found, strict=True)
        chunk, columns = int(63 / math.log2(self._base)), []
        while len(columns) < self._order:  # the newest first; as many at once as an int64 has room for
            part = self._base ** min(chunk, self._order - len(columns))
            low = np.array([window % part for window in windows], dtype=np.int64)
            windows = [window // part for window in windows]
            for _ in range(min(chunk, self._order - len(columns))):
                low, digit = np.divmod(low, self._base)
                columns.append(digit)
        return np.stack(columns[::-1], axis=1) - 1, np.array(tokens), np.array(predicted)
