import io
from html.parser import HTMLParser

import pytest
from rich.console import Console
from rich.style import Style

from length_gen.datamodules.tokens import Kind
from length_gen.lightning_modules.evaluation.traces import STYLES, trace_legend, trace_markdown, trace_text

LETTERS = {
    "P": Kind.PROMPT,
    "T": Kind.THOUGHT,
    "C": Kind.COMMAND,
    "O": Kind.OBSERVATION,
    "U": Kind.OUTPUT,
    "E": Kind.END,
}

TOKENS = [*"123+45=", "p1.init", "p1.read", "1", "p1.right", "p2.init", "p2.read", *"580", "[ANS]", *"168", "[END]"]
KINDS = [LETTERS[c] for c in "PPPPPPPCCOCCCOTTTUUUE"]
PHASES = [(7, "find_plus"), (11, "add"), (16, "answer")]


class _Cells(HTMLParser):
    """Cells of a table as (text, set of tags that occurred in it)."""

    def __init__(self):
        super().__init__()
        self.cells, self._tags = [], set()

    def handle_starttag(self, tag, attrs):
        if tag in ("td", "th"):
            self.cells.append(["", set()])
        elif self.cells and tag != "tr":
            self.cells[-1][1].add(tag)

    def handle_data(self, data):
        if self.cells:
            self.cells[-1][0] += data


def tensorboard_cells(markdown: str):
    """What TensorBoard's text panel makes of it: its own converter and sanitiser."""
    html = pytest.importorskip("tensorboard.plugin_util").markdown_to_safe_html(markdown)
    parser = _Cells()
    parser.feed(html[: html.rindex("</table>")])
    return [text.strip() for text, _ in parser.cells], [tags for _, tags in parser.cells], html


def test_text_has_a_line_for_each_phase():
    assert trace_text(TOKENS, KINDS, PHASES).plain.splitlines() == [
        "prompt     ⟨1 2 3 + 4 5 =⟩",
        "find_plus  ▸p1.init ▸p1.read →1 ▸p1.right",
        "add        ▸p2.init ▸p2.read →5 8 0",
        "answer     [ANS] «1 6 8» [END]",
    ]


def test_text_without_phases_is_one_line():
    expected = "⟨1 2 3 + 4 5 =⟩ ▸p1.init ▸p1.read →1 ▸p1.right ▸p2.init ▸p2.read →5 8 0 [ANS] «1 6 8» [END]"
    assert trace_text(TOKENS, KINDS).plain == expected


def test_middle_of_a_long_trace_is_left_out():
    lines = trace_text(TOKENS, KINDS, PHASES, limit=11).plain.splitlines()
    # 6 tokens from the start and 5 from the end, of 21.
    assert lines == ["prompt  ⟨1 2 3 + 4 5⟩", "... 10 tokens ...", "answer  [ANS] «1 6 8» [END]"]
    assert trace_text(TOKENS, KINDS, PHASES, limit=21) == trace_text(TOKENS, KINDS, PHASES)
    assert "... 1 token ..." in trace_text(TOKENS, KINDS, limit=20).plain
    long = trace_text(["7"] * 1244, [Kind.THOUGHT] * 1244, limit=10).plain
    assert long == "7 7 7 7 7\n... 1,234 tokens ...\n7 7 7 7 7"


def test_after_the_gap_the_phase_is_named_again():
    lines = trace_text(TOKENS, KINDS, PHASES, limit=16).plain.splitlines()
    assert lines == [
        "prompt     ⟨1 2 3 + 4 5 =⟩",
        "find_plus  ▸p1.init",
        "... 5 tokens ...",
        "add        →5 8 0",
        "answer     [ANS] «1 6 8» [END]",
    ]


@pytest.mark.parametrize("limit", [0, 1, -3])
def test_limits_that_show_nothing_are_rejected(limit):
    with pytest.raises(ValueError, match=f"limit {limit} is not allowed"):
        trace_text(TOKENS, KINDS, limit=limit)


def test_tokens_without_kind_are_rejected():
    with pytest.raises(ValueError, match="21 tokens have 20 kinds"):
        trace_markdown(TOKENS, KINDS[1:])


def test_observations_of_several_tokens_are_bracketed():
    assert trace_text(["ls", "a", "b", "7"], [LETTERS[c] for c in "COOT"]).plain == "▸ls →(a b) 7"


def test_invisible_characters_are_shown():
    text = trace_text(["\n", "a b", "\x1b[31m", "", "é"], [Kind.OBSERVATION] * 5).plain
    assert text == r"→(\n a␣b \x1b[31m '' é)"


def test_square_brackets_are_no_markup():
    text = trace_text(["[bold]", "[/]"], [Kind.THOUGHT] * 2)
    console = Console(width=80, file=io.StringIO())
    console.print(text)
    assert console.file.getvalue() == "[bold] [/]\n"


def test_kinds_have_colours_of_their_own():
    text = trace_text(TOKENS, KINDS)
    console = Console()
    colours = {}
    for token, kind in (("4", "P"), ("8 0", "T"), ("p2.read", "C"), ("→5", "O"), ("6 8", "U")):
        colours[kind] = text.get_style_at_offset(console, text.plain.index(token)).color
    assert None not in colours.values()
    assert len(set(colours.values())) == 5
    assert all(Style.parse(style) for style in STYLES.values()) and set(STYLES) == set(Kind)


def test_phase_of_a_local_command_is_toned_down():
    text = trace_text(["p1.read@find_plus"], [Kind.COMMAND])
    assert text.plain == "▸p1.read@find_plus"
    assert text.get_style_at_offset(Console(), 1).bold
    assert not text.get_style_at_offset(Console(), text.plain.index("@")).bold


def test_legend_uses_the_marks_of_the_trace():
    assert trace_legend().plain == "⟨prompt⟩  thought  ▸command  →observation  «output»"


def test_markdown_survives_tensorboard():
    cells, tags, html = tensorboard_cells(trace_markdown(TOKENS, KINDS, PHASES))
    assert cells == [
        "phase", "trajectory",
        "prompt", "1 2 3 + 4 5 =",
        "find_plus", "p1.init p1.read → 1 p1.right",
        "add", "p2.init p2.read → 5 8 0",
        "answer", "[ANS] 1 6 8 [END]",
    ]  # fmt: skip
    assert tags[3::2] == [set(), {"code"}, {"code", "em"}, {"em", "strong"}]
    assert "<strong>1 6 8</strong>" in html and "<code>p2.read</code> → 5 <em>8 0</em>" in html
    assert "<em>thought</em>" in html  # the legend


NASTY = ["*", "**", "_a_", "`", "``", "|", "<script>", "&amp;", "a|b`c", "[x](y)", "![x](y)", "\\", "~~a~~", "#", "1.",
         "-", "<b>", "$x$", "http://a.b", ":", "---", "a\nb", " "]  # fmt: skip


@pytest.mark.parametrize("kind", ["P", "T", "C", "O", "U"])
def test_no_token_is_taken_for_markup(kind):
    shown = [r"a\nb" if t == "a\nb" else "␣" if t == " " else t for t in NASTY]
    for token, expected in zip(NASTY, shown, strict=True):
        cells, _, html = tensorboard_cells(trace_markdown([token, "z"], [LETTERS[kind], Kind.END], [(0, token)]))
        assert cells[2:] == [expected.strip("␣"), ("→ " if kind == "O" else "") + f"{expected} z"], html
    together, _, _ = tensorboard_cells(trace_markdown(NASTY, [LETTERS[kind]] * len(NASTY)))
    assert together[3] == (f"→ ({' '.join(shown)})" if kind == "O" else " ".join(shown))


def test_markdown_leaves_out_the_middle():
    cells, _, _ = tensorboard_cells(trace_markdown(["7"] * 1244, [Kind.THOUGHT] * 1244, limit=10))
    assert cells[2:] == ["", "7 7 7 7 7", "", "... 1,234 tokens ...", "", "7 7 7 7 7"]


def test_empty_trajectory():
    assert trace_text([], []).plain == ""
    assert trace_markdown([], []).count("\n") == 4
