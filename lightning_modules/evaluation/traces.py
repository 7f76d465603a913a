"""Traces of trajectories that people can read: coloured in the terminal, markdown for TensorBoard's text panel.

Both say with marks, not with colour alone, who wrote a token. One line for each phase, and one from the first token on
that is not the reference's::

    prompt       ⟨1 2 3 + 4 5 =⟩
    find_plus    ▸p1.init ▸p1.read →1 ▸p1.right ▸p1.read →2
    ... 1,234 tokens ...
    ≠ reference  [ANS] «1 6 8» [END]
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from rich.console import Console
from rich.text import Text

from length_gen.datamodules.tokens import Kind
from length_gen.tools import UserError
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

ERRS = "≠ reference"
"""Stands for the phase from the first token on that is not the reference's."""

MARKS = {Kind.PROMPT: ("⟨", "⟩"), Kind.OUTPUT: ("«", "»")}
"""Marks around a run of tokens; a command has ▸ before it, an observation →, or → ( ) if it has several tokens."""

# What Python-Markdown (TensorBoard's converter) and GitHub read as markup inside a line.
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
    error: int | None = None,
    around: int | None = None,
    console: Console | None = None,
) -> Text:
    """A trajectory for the terminal.

    tokens, kinds: of one trajectory, of equal length; kinds are values of `Kind`
    phases:        (position of its first token, name), in order, as `Trajectory.phases`; each starts a line
    limit:         show at most so many tokens: half of them around a position, the others from the start and the end
    error:         position of the first token that is not the reference's; no phase is known from there on
    around:        that position; None: of the error; without one, half are from the start and half from the end
    console:       where a line is longer than its width it goes on below its tokens, so that the phases stand apart

    Raises ValueError if tokens and kinds differ in number, UserError if the limit is below 2 or `around` is none.
    """
    lines = list(_lines(tokens, kinds, phases or (), limit, error, around))
    width = max((len(line.label) for line in lines), default=0)
    text = Text()
    for number, line in enumerate(lines):
        if number:
            text.append("\n")
        if line.omitted:
            text.append(_omission(line.omitted), "dim")
            continue
        if width:
            text.append(f"{line.label:<{width}}  ", "bold red" if line.label == ERRS else "dim")
        content = Text(" ").join(_styled(run) for run in line.runs)
        indent = width + 2 if width else 0
        if console and console.width > 2 * indent:
            content = Text("\n" + " " * indent).join(content.wrap(console, console.width - indent))
        text.append_text(content)
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
    error: int | None = None,
    command: str = "",
) -> str:
    """The same trace as markdown, a list with an item for each phase; arguments as for `trace_text`.

    TensorBoard's text panel drops colours (its sanitiser keeps tags such as strong, em and code, but no style), so
    commands are code, observations follow an arrow, thoughts are in italics and outputs in bold. In a table, it would
    break the phases' names after any letter.

    command: what shows the rollout step by step, if there is such a command
    """
    lines = ["prompt · *thought* · `command` → observation · **output**", ""]
    for line in _lines(tokens, kinds, phases or (), limit, error):
        content = f"*{_omission(line.omitted)}*" if line.omitted else " ".join(map(_marked, line.runs))
        label = f"**{line.label.translate(_ENTITIES)}**" if line.label.strip() else "&nbsp;"
        lines.append(f"- {label} {content}")
    if command:
        lines += ["", f"As a page to step through: {_code(command)}"]
    return "\n".join([*lines, ""])


def _lines(
    tokens: Sequence[str], kinds: Sequence[int], phases: Sequence[tuple[int, str]], limit: int | None,
    error: int | None = None, around: int | None = None,
) -> Iterator[_Line]:
    if len(tokens) != len(kinds):
        raise ValueError(f"{len(tokens)} tokens have {len(kinds)} kinds: expected one kind a token")
    if limit is not None and limit < 2:
        raise UserError(f"limit {limit} is not allowed: at least 2 tokens must be shown")
    if around is not None and not 0 <= around < len(tokens):
        raise UserError(f"there is no token {around} to show: the trace has the tokens 0 to {len(tokens) - 1}")
    if error is not None:
        phases = [*(phase for phase in phases if phase[0] < error), (error, ERRS)]
    before = 0
    for start, stop in _shown(len(tokens), limit, error if around is None else around):
        if start > before:
            yield _Line("", [], omitted=start - before)
        yield from _part(tokens, kinds, phases, max(start, before), stop)
        before = max(before, stop)


def _shown(total: int, limit: int | None, around: int | None) -> list[tuple[int, int]]:
    """From where to where tokens are shown, in order; parts may touch or overlap, and the last ends with the last."""
    if limit is None or total <= limit:
        return [(0, total)]
    middle = 0 if around is None else limit // 2
    begin = min(max(0, (around or 0) - middle // 2), total - middle)
    last = (limit - middle) // 2
    return [(0, limit - middle - last), *([(begin, begin + middle)] if middle else []), (total - last, total)]


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
        yield _Line(label, [_Run(Kind(kind), [visible(tokens[i]) for i in positions]) for kind, positions in runs])


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
    # A backtick would end the code span: only such tokens need the tag itself.
    return f"<code>{token.translate(_ENTITIES)}</code>" if "`" in token else f"`{token}`"


def visible(token: str) -> str:
    """The token such that nothing of it vanishes between its neighbours: a blank as ␣, no characters as ''."""
    return _printable(token).replace(" ", "␣") or "''"


def _printable(text: str) -> str:
    """The text with its control characters escaped as in Python; they would break a line or act on the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shortened(tokens: Sequence[str], most: int = 60) -> str:
    """Tokens end to end, such as the digits of a number; of a long one the beginning and the end."""
    text = "".join(map(visible, tokens))
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]} ({len(tokens):,} tokens)"


def _omission(tokens: int) -> str:
    return f"... {tokens:,} token{'s' if tokens > 1 else ''} ..."
