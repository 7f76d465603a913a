"""Logical graph: the value of a Boolean circuit, by depth-first search in its code (paper, section 3, appendix D.3)."""

import random
import re
from collections.abc import Callable, Sequence

from length_gen.datamodules.tasks.base import Problem, ToolTask
from length_gen.datamodules.trajectory import Scribe
from length_gen.tools import NONE, SearchMemory, UserError
from length_gen.tools.search_memory import FIND, FOUND, NEWLINE

SYLLABLES = tuple(consonant + vowel for consonant in "bcdfghjklmnpqrstvwxyz" for vowel in "aeiou")
NUMBERS = tuple(f"{number:02d}" for number in range(100))
_SYLLABLE_SET = frozenset(SYLLABLES)
INPUTS = 3
RECENT = 4
_LABEL = f"(?:{'|'.join(SYLLABLES)})[0-9][0-9]"
_LINE = re.compile(rf"({_LABEL})=(True|False|(?:(not) )?({_LABEL})(?: (and|or) (?:(not) )?({_LABEL}))?)", re.ASCII)

Tokens = tuple[str, ...]


class LogicalGraph(ToolTask):
    """n nodes: 3 inputs, and for each further node one earlier node, or two joined by AND or OR, each negated or not.

    The question is Python code, a line a node; the answer is the value of the last node. Length: number of nodes.
    Training problems, and the variant `any`, take any earlier nodes, so that the answer depends on few of many nodes;
    the variant `recent` takes them from the last 4, so that it depends on about all.

    Labels are drawn from all 10,500 of a syllable and a number, two tokens, so that training on few nodes at a time
    covers the labels of large problems. The lines of the memory:

    | line                           | says                                        | is found by                    |
    |--------------------------------|---------------------------------------------|--------------------------------|
    | `ra 41 = not zo 12 or da 03`   | the question's definition of ra41           | `find ra 41 = [OBSERVATION]`   |
    | `ra 41 = True or da 03`        | the same, the first variable replaced       | the same, as the last line     |
    | `ra 41 : True`                 | the value of ra41                           | `find ra 41 : [OBSERVATION]`   |
    | `zo 12 < ra 41`                | zo12 was needed for ra41: the way back      | `find zo 12 < [OBSERVATION]`   |

    Depth-first search, from the last node on: find the node's newest definition, and the value of the first variable in
    it. If that is unknown, write the way back and go on with the variable as the node. If it is known, find the
    definition again and write it with the variable replaced; and once no variable is left, write the node's value, find
    the way back, and go on there. Where there is none, write [ANS] and the value. For `na 76 = False`, `ro 14 = not na
    76` in style `paper` (C command, O observation, T thought, A output; `|` is the end of a line)::

        find ro 14 = [OBSERVATION]  CCCCC   ro 14 = not na 76 |  OOOOOOO
        find na 76 : [OBSERVATION]  CCCCC   [NONE]               O          na 76 < ro 14 |  TTTTTT
        find na 76 = [OBSERVATION]  CCCCC   na 76 = False |      OOOOO      na 76 : False |  TTTTT
        find na 76 < [OBSERVATION]  CCCCC   na 76 < ro 14 |      OOOOOO
        find ro 14 = [OBSERVATION]  CCCCC   ro 14 = not na 76 |  OOOOOOO
        find na 76 : [OBSERVATION]  CCCCC   na 76 : False |      OOOOO      ro 14 : True |   TTTTT
        find ro 14 < [OBSERVATION]  CCCCC   [NONE]               O          [ANS] True [END]

    Its windows cannot be counted (`datamodules.automaton`): the memory is searched by what is in it, so that no pointer
    says where an answer stands, and a window over two of the labels alone would be one of 110 million.

    In style `local` a search for a value carries what the value is needed for: the first of two, negated or not, or the
    last one, and then whether the node is equal to it, its opposite, or True or False whatever it is; and the search
    for a definition to be replaced in carries by what.
    """

    name = "logical_graph"
    variants = ("any", "recent")
    shortest = INPUTS + 1
    longest = len(SYLLABLES) * len(NUMBERS)
    symbols = (*SYLLABLES, *NUMBERS, "True", "False", "and", "or", "not", "=", ":", "<", NEWLINE, NONE)
    phases = ("definition", "first", "first_not", "replace_True", "replace_False", "last", "last_not",
              "last_True", "last_False", "way_back")

    def memory(self) -> SearchMemory:
        return SearchMemory()

    def sample(self, rng: random.Random, length: int, variant: str) -> Problem:
        window = RECENT if variant == "recent" else length
        labels = [(SYLLABLES[i // len(NUMBERS)], NUMBERS[i % len(NUMBERS)])
                  for i in rng.sample(range(self.longest), length)]
        prompt: list[str] = []
        for i, label in enumerate(labels):
            prompt += label
            prompt.append("=")
            if i < INPUTS:
                prompt.append(rng.choice(("True", "False")))
            else:
                for k, node in enumerate(rng.sample(range(max(0, i - window), i), rng.choice((1, 2)))):
                    prompt += (rng.choice(("and", "or")),) * k + ("not",) * rng.choice((0, 1)) + labels[node]
            prompt.append(NEWLINE)
        return Problem(tuple(prompt), length, variant)

    def structured(self, rng: random.Random, length: int, variant: str) -> list[Problem]:
        """Chains, in which every node needs the one before: of one input, negated or not, and of two; and an end that
        needs inputs alone."""
        def chain(labels: Sequence[Tokens], expression: Callable[[int], Tokens]) -> Problem:
            prompt: list[str] = []
            for i, label in enumerate(labels):
                prompt += (*label, "=", *((rng.choice(("True", "False")),) if i < INPUTS else expression(i)), NEWLINE)
            return Problem(tuple(prompt), length, variant)

        labels = [(SYLLABLES[i // len(NUMBERS)], NUMBERS[i % len(NUMBERS)])
                  for i in rng.sample(range(self.longest), length)]
        last = length - 1
        return [chain(labels, lambda i: ("not", *labels[i - 1])), chain(labels, lambda i: labels[i - 1]),
                chain(labels, lambda i: ("not", *labels[i - 1], "and", "not", *labels[i - 2])),
                chain(labels, lambda i: (*labels[i - 2], "or", *labels[i - 1])),
                chain(labels, lambda i: labels[i - 1 if i < last or variant == "recent" else 0])]

    def longest_problem(self) -> Problem:
        """A chain that needs every node: each has two inputs with a `not` before each, and the second is the next of
        the chain, so that it is searched for while a line with the first replaced is already there."""
        labels = [(SYLLABLES[i // len(NUMBERS)], NUMBERS[i % len(NUMBERS)]) for i in range(self.max_length)]
        prompt: list[str] = []
        for i, label in enumerate(labels):
            first, second = labels[2 if i == INPUTS + 1 else 0], labels[1 if i == INPUTS else i - 1]
            value = ("True",) if i < INPUTS else ("not", *first, "and", "not", *second)
            prompt += (*label, "=", *value, NEWLINE)
        return Problem(tuple(prompt), self.max_length, "any")

    def solve(self, problem: Problem, scribe: Scribe) -> None:
        node = last_label(problem.prompt)
        while node:
            scribe.phase("definition")
            found = _last_line(scribe.command(FIND, *node, "=", FOUND))
            node = self._evaluate(scribe, node, found[3:-1])

    def _evaluate(self, scribe: Scribe, node: Tokens, expression: Tokens) -> Tokens:
        """Work on a node's expression as far as known values go; returns the node to go on with, () at the end."""
        while variable := _first_variable(expression):
            scribe.phase(_use(expression))
            found = scribe.command(FIND, *variable, ":", FOUND)
            if found[0] == NONE:
                scribe.think(*variable, "<", *node, NEWLINE)
                return variable
            expression = _replace(expression, found[3])
            if len(expression) > 1:
                # Again, so that what stays of the line is copied from right before, not from beyond another search.
                scribe.phase(f"replace_{expression[0]}")
                scribe.command(FIND, *node, "=", FOUND)
                scribe.think(*node, "=", *expression, NEWLINE)
        scribe.think(*node, ":", *expression, NEWLINE)
        scribe.phase("way_back")
        found = scribe.command(FIND, *node, "<", FOUND)
        if found[0] == NONE:
            scribe.answer()
            scribe.output(*expression)
            return ()
        return found[3:5]

    def asked(self, problem: Problem) -> tuple[str, ...]:
        """The last line, which says whose value is asked for."""
        return tuple(_last_line(problem.prompt))

    def answer(self, problem: Problem) -> tuple[str, ...]:
        """Python's own opinion of the code."""
        values: dict[str, bool] = {"__builtins__": {}}
        exec(code(problem.prompt), values)
        return (str(values["".join(last_label(problem.prompt))]),)

    def parse(self, text: str) -> Problem:
        prompt, known = [], set()
        for line in filter(None, re.split(r"\s*[;\n]\s*", text.strip())):
            match = _LINE.fullmatch(re.sub(r"\s*(=)\s*|\s+(?=\d)", r"\1", " ".join(line.split())))
            if not match:
                raise UserError(f"{line!r} is not a line of {self.name}: expected a label (syllable, two digits), '=', "
                                f"and True, False, or one or two nodes, like ra41 = not zo12 or da03")
            label, _, not_1, node_1, operator, not_2, node_2 = match.groups()
            if unknown := [node for node in (node_1, node_2) if node and node not in known]:
                raise UserError(f"{line!r} uses {unknown[0]}, which no line before it defines")
            if label in known:
                raise UserError(f"{line!r} defines {label} a second time: every node needs its own label")
            known.add(label)
            expression = (not_1, node_1, operator, not_2, node_2) if node_1 else (match[2],)
            for part in (label, "=", *filter(None, expression), NEWLINE):
                prompt += (part[:2], part[2:]) if re.fullmatch(_LABEL, part) else (part,)
        self.check_length(len(known))
        return Problem(tuple(prompt), len(known), self.variants[0])


def code(prompt: Sequence[str]) -> str:
    """The question as Python code."""
    text = re.sub(r"\b([a-z][aeiou]) (\d\d)\b", r"\1\2", " ".join(prompt))
    return re.sub(" ?\n ?", "\n", text)


def last_label(prompt: Sequence[str]) -> Tokens:
    """Label of the last node."""
    return tuple(_last_line(prompt)[:2])


def _last_line(lines: Sequence[str]) -> Sequence[str]:
    start = len(lines) - 1
    while start and lines[start - 1] != NEWLINE:
        start -= 1
    return lines[start:]


def _first_variable(expression: Tokens) -> Tokens:
    """The first label of an expression; () if it is a Boolean."""
    for i, token in enumerate(expression):
        if token in _SYLLABLE_SET:
            return expression[i : i + 2]
    return ()


def _replace(expression: Tokens, value: str) -> Tokens:
    """The expression with its first variable, and a `not` before it, replaced; one Boolean if it was the last."""
    start = next(i for i, token in enumerate(expression) if token in _SYLLABLE_SET)
    before, after = expression[:start], expression[start + 2 :]
    if before[-1:] == ("not",):
        before, value = before[:-1], str(value != "True")
    if not before:
        return value, *after
    known, operator = before
    if operator == "and":
        return (str(known == value == "True"),)
    return (str("True" in (known, value)),)


def _use(expression: Tokens) -> str:
    """The phase in which the value of an expression's first variable is searched: what it will be used for."""
    if expression[0] in ("True", "False"):
        outcomes = [_replace(expression, value)[0] for value in ("True", "False")]
        return {"True False": "last", "False True": "last_not"}.get(" ".join(outcomes), f"last_{outcomes[0]}")
    kind = "first" if "and" in expression or "or" in expression else "last"
    return kind + "_not" * (expression[0] == "not")

