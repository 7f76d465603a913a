import dataclasses
import json
import re
import shutil
import subprocess
from html import unescape

import numpy as np
import pytest

from length_gen.datamodules.tokens import Kind
from length_gen.lightning_modules.evaluation.confidence import Confidence
from length_gen.lightning_modules.evaluation.viewer import TEMPLATE, page
from length_gen.tools import UserError

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(not CHROMIUM, reason="there is no chromium: apt-get install chromium")


def content(html):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)[1])


def driven(html, folder, script, width=900):
    """What a script in the page returns, run in a browser once the page has drawn itself."""
    path = folder / "page.html"
    own = f"<script>document.body.dataset.found = JSON.stringify((() => {{{script}}})())</script>"
    path.write_text(html.replace("</body>", f"{own}</body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile",
               f"--window-size={width},800", "--dump-dom", f"file://{path}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return json.loads(unescape(re.search(r'data-found="(.*?)"', result.stdout)[1]))


def test_the_page_is_one_file_without_network():
    template = TEMPLATE.read_text(encoding="utf-8")
    assert not re.search(r"https?:|src=|href=|@import|url\(|fetch\(|innerHTML|eval\(|new Function", template)
    assert "default-src 'none'" in template and template.count("{{data}}") == 1


def test_the_data_are_the_rollout(solved):
    row = solved[1]
    data = content(page(row))
    assert [data["texts"][i] for i in data["tokens"]] == list(row.tokens)
    assert [Kind(int(kind)) for kind in data["kinds"]] == list(row.kinds)
    assert data["error"]["at"] == row.first_error and data["texts"][data["error"]["due"]] == "p1.left"
    given = [i for i, share in enumerate(data["written"]) if share < 0]
    assert given == [i for i, kind in enumerate(row.kinds) if kind in (Kind.PROMPT, Kind.OBSERVATION)]
    assert set(data["written"]) == {-1, round(data["unit"] * np.exp(10) / (np.exp(10) + 23))}  # of 24 tokens
    steps, places = map(np.cumsum, data["memory"]["heads"]["p2"])
    assert list(zip(steps, places, strict=True)) == [
        (step, cell) for step, head, cell in row.memory.moves if head == "p2"]
    assert [np.cumsum(part).tolist() for part in data["memory"]["writes"][:2]] == [
        [write[k] for write in row.memory.writes] for k in (0, 1)]


NASTY = "</script><script>document.title = 'run'</script><!--"


def nasty(row):
    """With a token, a phase and an error message that would like to be markup."""
    return dataclasses.replace(row, tokens=(*row.tokens[:-1], NASTY), phases=((0, NASTY),), detail=NASTY,
                               question=(NASTY,), due=NASTY)


def test_no_text_ends_the_data(solved):
    html = page(nasty(solved[1]))
    assert "document.title = 'run'" in html and NASTY not in html and "<!--" not in html.replace("<!DOCTYPE", "")
    assert content(html)["detail"] == NASTY


def test_a_page_that_cannot_be_written_gets_one_line(solved, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/trace.html cannot be written .*such as trace.html"):
        solved[0].html(tmp_path / "file/trace.html")
    solved[0].html(tmp_path / "new/trace.html")
    assert content((tmp_path / "new/trace.html").read_text())["right"]


STATE = """
const state = () => [current, $("detail").innerText, [...document.querySelectorAll(".strip .head")].map(head =>
  head.innerText + "=" + [...head.parentElement.querySelectorAll(".cell")].find(
    cell => cell.style.left === head.style.left).innerText)];
const press = (key, shiftKey = false) => document.dispatchEvent(new KeyboardEvent("keydown", {key, shiftKey}));
"""


@in_browser
def test_steps_phases_and_the_first_error(solved, tmp_path):
    row = solved[1]
    at_error, first, stepped, phase, back, error, last, clicked, choices = driven(page(row), tmp_path, STATE + """
        const found = [state()];
        press("Home"); found.push(state());
        press("ArrowRight", true); press("ArrowRight", true); press("ArrowLeft"); found.push(state());
        press("PageDown"); found.push(state());
        press("PageUp"); found.push(state());
        press("e"); found.push(state());
        press("End"); press("ArrowRight"); found.push(state());
        document.querySelector('[data-at="18"]')?.click() ?? choose(18); found.push(state());
        $("error").click(); found.push($("choices").innerText.split("\\n").filter(Boolean));
        return found;""")
    place = row.first_error
    assert at_error[0] == error[0] == place
    assert "first error: due was p1.left, in phase add" in at_error[1] and "≠ reference" in at_error[1]
    assert at_error[2] == ["▲p1=+", "▲p2=="]
    assert first[:2] == [0, f"token 0 of {len(row.tokens)} · prompt · prompt\n\n1\n\ngiven: not for the model to write"]
    assert stepped[0] == 19 and stepped[2] == ["▲p1 p2=1"]
    assert phase[0] == next(at for at, name in row.phases if name == "find_plus") and back[0] == 18
    assert last[0] == len(row.tokens) - 1 and clicked[0] == 18
    assert choices == [row.tokens[place], ">99.9%", "written", "p1.left", "<0.1%", "due"] or choices[1] == "99.9%"


@in_browser
@pytest.mark.parametrize("width", [500, 900, 1600])
def test_of_a_long_trace_only_what_is_visible_is_drawn(solved, tmp_path, width):
    row, count = solved[0], 100_000
    kinds = tuple(Kind.THOUGHT if i % 3 else Kind.PROMPT for i in range(count))
    shares = np.full(count, 0.9995, np.float32)
    shares[77_777] = 0.25
    best = np.full((count, 1), "7", dtype=object)
    row = dataclasses.replace(row, tokens=("1", "2") * (count // 2), kinds=kinds, memory=None,
                              phases=((10, "here"), (60_000, "there")),
                              confidence=Confidence(shares, shares, best, 1 - shares[:, None]))
    drawn, unsure, choices, inside, fits, size = driven(page(row), tmp_path, STATE + """
        press("u");
        const [chosen, box] = [".chosen", "#trace"].map(name => document.querySelector(name).getBoundingClientRect());
        const inside = box.top <= chosen.top && chosen.bottom <= box.bottom && chosen.right <= box.right;
        return [document.querySelectorAll("[data-at]").length, current, $("choices").innerText, inside,
                document.documentElement.scrollWidth <= innerWidth, document.querySelectorAll("*").length];""", width)
    assert drawn < 6000 and size < 8000 and unsure == 77_777 and inside and fits
    assert "25.0%" in choices and "75.0%" in choices


@in_browser
def test_nothing_of_the_data_is_run(solved, tmp_path):
    title, shown = driven(page(nasty(solved[1])), tmp_path, """return [document.title, $("question").innerText];""")
    assert title == NASTY.replace(" ", "␣") + " · rollout" and shown == NASTY.replace(" ", "␣")
