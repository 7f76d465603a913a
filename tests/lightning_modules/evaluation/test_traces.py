import io
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from rich.console import Console
from rich.style import Style

from length_gen.datamodules.tokens import Kind
from length_gen.lightning_modules.evaluation.traces import ERRS, STYLES, trace_legend, trace_markdown, trace_text
from length_gen.tools import UserError

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


class _Items(HTMLParser):
    """Items of a list as (label, text after it, set of tags that occurred in that)."""

    def __init__(self):
        super().__init__()
        self.items, self._labels = [], False

    def handle_starttag(self, tag, attrs):
        if tag == "li":
            self.items.append(["", "", set()])
        elif self.items and tag == "strong" and not self.items[-1][1]:
            self._labels = True
        elif self.items:
            self.items[-1][2].add(tag)

    def handle_endtag(self, tag):
        self._labels &= tag != "strong"

    def handle_data(self, data):
        if self.items:
            self.items[-1][0 if self._labels else 1] += data


def tensorboard_items(markdown: str):
    """What TensorBoard's text panel makes of it: its own converter and sanitiser."""
    html = pytest.importorskip("tensorboard.plugin_util").markdown_to_safe_html(markdown)
    parser = _Items()
    parser.feed(html[: html.rindex("</ul>")])
    return [(label, text.strip()) for label, text, _ in parser.items], [tags for *_, tags in parser.items], html


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


def test_a_phase_longer_than_the_terminal_goes_on_below_its_tokens():
    lines = trace_text(TOKENS, KINDS, PHASES, console=Console(width=34)).plain.splitlines()
    assert lines[:3] == ["prompt     ⟨1 2 3 + 4 5 =⟩", "find_plus  ▸p1.init ▸p1.read →1 ", "           ▸p1.right"]


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


def test_the_first_error_begins_a_line_of_its_own_and_ends_what_is_known_of_phases():
    text = trace_text(TOKENS, KINDS, PHASES, error=13)
    lines = text.plain.splitlines()
    assert lines[-2:] == ["add          ▸p2.init ▸p2.read", "≠ reference  →5 8 0 [ANS] «1 6 8» [END]"]
    assert "red" in str(text.get_style_at_offset(Console(), text.plain.index(ERRS)))
    assert trace_text(TOKENS, KINDS, PHASES, error=21).plain == trace_text(TOKENS, KINDS, PHASES).plain


@pytest.mark.parametrize(("error", "around", "parts"), [
    (500, None, [(0, 5), (495, 505), (995, 1000)]),
    (500, 100, [(0, 5), (95, 105), (995, 1000)]),
    (None, 999, [(0, 5), (990, 1000)]),
    (2, None, [(0, 10), (995, 1000)]),
    (1000, None, [(0, 5), (990, 1000)]),  # a row that ended before it should
])
def test_a_long_trace_shows_what_is_around(error, around, parts):
    tokens = list(map(str, range(1000)))
    shown = trace_text(tokens, [Kind.THOUGHT] * 1000, limit=20, error=error, around=around).plain.replace(ERRS, "")
    left_out = [line for line in shown.splitlines() if "tokens ..." in line]
    assert [int(word) for word in shown.split() if word.isdigit() and f"... {word} " not in shown] == [
        i for start, stop in parts for i in range(start, stop)]
    assert left_out == [f"... {b - a:,} tokens ..." for (_, a), (b, _) in pairwise(parts)]


def test_what_is_around_no_token_is_refused():
    with pytest.raises(UserError, match="no token 21 to show: the trace has the tokens 0 to 20"):
        trace_text(TOKENS, KINDS, around=21)


@pytest.mark.parametrize("limit", [0, 1, -3])
def test_limits_that_show_nothing_are_rejected(limit):
    with pytest.raises(UserError, match=f"limit {limit} is not allowed"):
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
    items, tags, html = tensorboard_items(trace_markdown(TOKENS, KINDS, PHASES))
    assert items == [("prompt", "1 2 3 + 4 5 ="), ("find_plus", "p1.init p1.read → 1 p1.right"),
                     ("add", "p2.init p2.read → 5 8 0"), ("answer", "[ANS] 1 6 8 [END]")]
    assert tags == [set(), {"code"}, {"code", "em"}, {"em", "strong"}]
    assert "<strong>1 6 8</strong>" in html and "<code>p2.read</code> → 5 <em>8 0</em>" in html
    assert "<em>thought</em>" in html  # the legend


def test_markdown_tells_the_first_error_and_the_command():
    items, _, html = tensorboard_items(trace_markdown(TOKENS, KINDS, PHASES, error=13, command="run.py 'a `b' *c*"))
    assert items[2:] == [("add", "p2.init p2.read"), ("≠ reference", "→ 5 8 0 [ANS] 1 6 8 [END]")]
    assert "<code>run.py 'a `b' *c*</code>" in unescape(html)


NASTY = ["*", "**", "_a_", "`", "``", "|", "<script>", "&amp;", "a|b`c", "[x](y)", "![x](y)", "\\", "~~a~~", "#", "1.",
         "-", "<b>", "$x$", "http://a.b", ":", "---", "a\nb", " "]  # fmt: skip


@pytest.mark.parametrize("kind", ["P", "T", "C", "O", "U"])
def test_no_token_is_taken_for_markup(kind):
    shown = [r"a\nb" if t == "a\nb" else "␣" if t == " " else t for t in NASTY]
    for token, expected in zip(NASTY, shown, strict=True):
        items, _, html = tensorboard_items(trace_markdown([token, "z"], [LETTERS[kind], Kind.END], [(0, token)]))
        assert items == [(expected.strip("␣"), ("→ " if kind == "O" else "") + f"{expected} z")], html
    together, _, _ = tensorboard_items(trace_markdown(NASTY, [LETTERS[kind]] * len(NASTY)))
    assert together == [("", f"→ ({' '.join(shown)})" if kind == "O" else " ".join(shown))]


def test_markdown_leaves_out_the_middle():
    items, _, _ = tensorboard_items(trace_markdown(["7"] * 1244, [Kind.THOUGHT] * 1244, limit=10))
    assert items == [("", "7 7 7 7 7"), ("", "... 1,234 tokens ..."), ("", "7 7 7 7 7")]


def test_empty_trajectory():
    assert trace_text([], []).plain == ""
    assert trace_markdown([], []).count("\n") == 2
