"""Traces of trajectories that people can read: coloured in the terminal, markdown for TensorBoard's text panel.

Both say with marks, not with colour alone, who wrote a token. One line for each phase::

    prompt     ⟨1 2 3 + 4 5 =⟩
    find_plus  ▸p1.init ▸p1.read →1 ▸p1.right ▸p1.read →2
    ... 1,234 tokens ...
    answer     [ANS] «1 6 8» [END]
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from rich.text import Text

from length_gen.datamodules.tokens import Kind
from length_gen.tools.base import bare

STYLES = {
    Kind.PADDING: "dim",
    Kind.PROMPT: "cyan",
    Kind.THOUGHT: "yellow",
    Kind.COMMAND: "bold blue",
    Kind.MISTAKE: "bold red",
    Kind.OBSERVATION: "green",
    Kind.OUTPUT: "bold magenta",
    Kind.END: "dim",
}
"""Rich style of each kind."""

MARKS = {Kind.PROMPT: ("⟨", "⟩"), Kind.OUTPUT: ("«", "»")}
"""Marks around a run of tokens; a command has ▸ before it, an observation →, or → ( ) if it has several tokens."""

# What Python-Markdown (TensorBoard's converter) and GitHub read as markup inside a table cell.
_ENTITIES = {ord(c): f"&#{ord(c)};" for c in "\\`*_[]<>|~&"}


@dataclass(slots=True)
class _Run:
    """Neighbouring tokens of one kind; `tokens` are as shown, without control characters."""

    kind: Kind
    tokens: list[str]


@dataclass(slots=True)
class _Line:
    """One line of a trace: either runs of one phase, or the number of tokens left out here."""

    label: str
    runs: list[_Run]
    omitted: int = 0


def trace_text(
    tokens: Sequence[str],
    kinds: Sequence[int],
    phases: Sequence[tuple[int, str]] | None = None,
    limit: int | None = None,
) -> Text:
    """A trajectory for the terminal.

    tokens, kinds: of one trajectory, of equal length; kinds are values of `Kind`
    phases:        (position of its first token, name), in order, as `Trajectory.phases`; each starts a line
    limit:         show at most so many tokens, half from the start and half from the end

    Raises ValueError if tokens and kinds differ in number, or the limit is below 2.
    """
    lines = list(_lines(tokens, kinds, phases or (), limit))
    width = max((len(line.label) for line in lines), default=0)
    text = Text()
    for number, line in enumerate(lines):
        if number:
            text.append("\n")
        if line.omitted:
            text.append(_omission(line.omitted), "dim")
            continue
        if width:
            text.append(f"{line.label:<{width}}  ", "dim")
        text.append_text(Text(" ").join(_styled(run) for run in line.runs))
    return text


def trace_legend() -> Text:
    """How to read `trace_text`, in its own colours."""
    examples = [
        _Run(Kind.PROMPT, ["prompt"]),
        _Run(Kind.THOUGHT, ["thought"]),
        _Run(Kind.COMMAND, ["command"]),
        _Run(Kind.OBSERVATION, ["observation"]),
        _Run(Kind.OUTPUT, ["output"]),
    ]
    return Text("  ").join(_styled(run) for run in examples)


def trace_markdown(
    tokens: Sequence[str],
    kinds: Sequence[int],
    phases: Sequence[tuple[int, str]] | None = None,
    limit: int | None = None,
) -> str:
    """The same trace as markdown, a table with a row for each phase; arguments as for `trace_text`.

    TensorBoard's text panel drops colours (its sanitiser keeps tags such as strong, em, code and tables, but no style),
    so commands are code, observations follow an arrow, thoughts are in italics and outputs in bold.
    """
    legend = "prompt · *thought* · `command` → observation · **output**"
    rows = ["| phase | trajectory |", "| --- | --- |"]
    for line in _lines(tokens, kinds, phases or (), limit):
        content = f"*{_omission(line.omitted)}*" if line.omitted else " ".join(map(_marked, line.runs))
        rows.append(f"| {line.label.translate(_ENTITIES)} | {content} |")
    return "\n".join([legend, "", *rows, ""])


def _lines(
    tokens: Sequence[str], kinds: Sequence[int], phases: Sequence[tuple[int, str]], limit: int | None
) -> Iterator[_Line]:
    if len(tokens) != len(kinds):
        raise ValueError(f"{len(tokens)} tokens have {len(kinds)} kinds: expected one kind a token")
    if limit is not None and limit < 2:
        raise ValueError(f"limit {limit} is not allowed: at least 2 tokens must be shown")
    total = len(tokens)
    if limit is None or total <= limit:
        yield from _part(tokens, kinds, phases, 0, total)
        return
    yield from _part(tokens, kinds, phases, 0, limit - limit // 2)
    yield _Line("", [], omitted=total - limit)
    yield from _part(tokens, kinds, phases, total - limit // 2, total)


def _part(
    tokens: Sequence[str], kinds: Sequence[int], phases: Sequence[tuple[int, str]], start: int, stop: int
) -> Iterator[_Line]:
    """Lines of the tokens from start to stop, cut where a phase starts."""
    starts = [position for position, _ in phases]
    cuts = [start, *(s for s in starts if start < s < stop), stop]
    for begin, end in pairwise(cuts):
        if begin == end:
            continue
        phase = bisect_right(starts, begin)
        label = _printable(phases[phase - 1][1]) if phase else "prompt" if phases else ""
        runs = groupby(range(begin, end), key=lambda i: int(kinds[i]))
        yield _Line(label, [_Run(Kind(kind), [_visible(tokens[i]) for i in positions]) for kind, positions in runs])


def _styled(run: _Run) -> Text:
    style = STYLES[run.kind]
    if run.kind == Kind.COMMAND:
        return Text(" ").join(_command(token) for token in run.tokens)
    shown = " ".join(run.tokens)
    if run.kind == Kind.OBSERVATION:
        return Text("→" + (f"({shown})" if len(run.tokens) > 1 else shown), style)
    before, after = MARKS.get(run.kind, ("", ""))
    return Text(before + shown + after, style)


def _command(token: str) -> Text:
    """`p1.read@find_plus`, the phase that it carries in the style `local` toned down."""
    name = bare(token)
    return Text.assemble(("▸" + name, STYLES[Kind.COMMAND]), (token[len(name) :], "blue"))


def _marked(run: _Run) -> str:
    if run.kind == Kind.COMMAND:
        return " ".join(_code(token) for token in run.tokens)
    shown = " ".join(token.translate(_ENTITIES) for token in run.tokens)
    if run.kind == Kind.OBSERVATION:
        return "→ " + (f"({shown})" if len(run.tokens) > 1 else shown)
    mark = {Kind.THOUGHT: "*", Kind.OUTPUT: "**"}.get(run.kind, "")
    return mark + shown + mark


def _code(token: str) -> str:
    # A backtick would end the code span and a bar the table's cell: only such tokens need the tag itself.
    return f"<code>{token.translate(_ENTITIES)}</code>" if "`" in token or "|" in token else f"`{token}`"


def _visible(token: str) -> str:
    """The token such that nothing of it vanishes between its neighbours: a blank as ␣, no characters as ''."""
    return _printable(token).replace(" ", "␣") or "''"


def _printable(text: str) -> str:
    """The text with its control characters escaped as in Python; they would break a line or act on the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _omission(tokens: int) -> str:
    return f"... {tokens:,} token{'s' if tokens > 1 else ''} ..."
