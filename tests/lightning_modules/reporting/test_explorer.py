import base64
import json
import re
import shutil
import subprocess
import sys
import zlib
from collections import Counter
from html import unescape
from pathlib import Path

import pytest

from length_gen.lightning_modules.reporting import explorer
from length_gen.lightning_modules.reporting.report import report
from length_gen.tools import UserError

RESULTS = Path(__file__).parents[3] / "results"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def no_library(monkeypatch):
    """What draws the curves takes seconds to put together, and is not asked by every test."""
    monkeypatch.setattr(explorer, "library", lambda: "")


def unpacked(page, name):
    packed = re.search(rf'id="packed-{name}">([^<]*)</script>', page)[1]
    return zlib.decompress(base64.b64decode(packed)).decode()


def made(path, results=RESULTS):
    report(str(results), html=str(path))
    return path.read_text(encoding="utf-8")


def test_every_result_stands_in_the_page_as_it_is_and_every_record_in_one_curve(no_library, tmp_path):
    data = json.loads(unpacked(made(tmp_path / "results.html"), "data"))
    measured = {}
    for path in RESULTS.glob("*/*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        name = path.relative_to(RESULTS).as_posix()
        if path.parent.name == "certificates":
            assert data["files"].pop(name) == content | {"records": []} and name in data["certificates"]
        elif content.get("records") and {"task", "exact_match"} <= content["records"][0].keys():
            measured[name] = content
    assert data["files"] == measured
    shown = Counter((file, at) for curve in data["curves"] for one in curve["seeds"] for file, at in one["records"])
    assert shown == Counter((name, at) for name, content in measured.items() for at in range(len(content["records"])))
    for curve in data["curves"]:
        for one, reached in zip(curve["seeds"], curve["exact_to"], strict=True):
            found = [(measured[file], measured[file]["records"][at]) for file, at in one["records"]]
            assert {content.get("seed") for content, _ in found} == {one["seed"]}
            assert {(r["task"], r["setting"], r["style"]) for _, r in found} == {
                (curve["task"], curve["setting"], curve["style"])}
            if curve["task"] not in data["passes"]:  # a rollout is the truth where verify has judged too
                exact = {r["length"]: r["exact_match"] == 1 for evaluator in ("verify", "rollout")
                         for _, r in found if r["evaluator"] == evaluator}
                failed = min((n for n, whole in exact.items() if not whole), default=10**9)
                assert reached == max((n for n in exact if n < failed), default=0)



def test_the_paper_and_the_exceptions_of_the_horizon_are_those_of_the_results_page(no_library, tmp_path):
    data = json.loads(unpacked(made(tmp_path / "results.html"), "data"))
    page = (RESULTS.parent / "docs/results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?), (?:Figure|Table|ICLR|D).*? \| (\w+) \| (.*) \|.*\|.*\|$", page, re.M)
    assert [(row["backbone"], row["paper"]) for row in data["paper"]] == [row[1:] for row in rows]
    assert next(row["point"] for row in data["paper"] if row["paper"] == "10 -> 1,000 (98%)") == [1000, 0.98]
    for k, name in enumerate(data["kinds"]):
        said = re.search(rf"Horizon {re.escape(name)}: of (\d+) .*?, (\d+) are exact up", page)
        learnt, far = map(int, said.groups())
        found = [one for one in data["horizon"] if one["kind"] == k]
        assert sum(one["exact"] >= one["trained"] for one in found) == learnt
        assert sum(one["exception"] for one in found) == (far if name == "growing" else learnt - far)


def test_the_page_is_one_file_without_network(no_library, tmp_path):
    page = re.sub(r">[A-Za-z0-9+/=]{99,}<", "><", made(tmp_path / "results.html"))
    assert "default-src 'none'" in page and "{{" not in page
    assert not re.search(r"https?:|src=|href=\"[^#]|@import|url\(|fetch\(|innerHTML|eval\(|new Function", page)


def test_without_the_library_one_line_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UserError, match=r"--html needs .*vl-convert-python: pip install -e '\.\[html\]'"):
        made(tmp_path / "results.html")
    assert not list(tmp_path.iterdir())


def driven(page, folder, script, width):
    """What an async script returns in a browser, once the page has drawn itself or has said that it cannot."""
    own = f"""<script>(async () => {{
        const wait = async done => {{ while (!done()) await new Promise(go => setTimeout(go, 20)); }};
        await wait(() => document.body.dataset.ready || $("state").textContent.includes("could not"));
        document.body.dataset.found = JSON.stringify(await (async () => {{{script}}})());
    }})()</script>"""
    path = folder / f"page{width}.html"
    path.write_text(page.replace("</body>", f"{own}</body>"), encoding="utf-8")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
               f"--user-data-dir={folder}/profile", f"--window-size={width},800", "--virtual-time-budget=60000",
               "--dump-dom", path.as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return json.loads(unescape(re.search(r'data-found="(.*?)"', result.stdout)[1]))


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="there is no chromium: apt-get install chromium")
def test_a_browser_draws_it_and_a_seed_shows_its_command_and_errors(tmp_path):
    pytest.importorskip("vl_convert", reason="there is no Vega-Lite: pip install vl-convert-python")
    page = made(tmp_path / "results.html")
    assert "University of Washington" in unpacked(page, "licenses")
    found = driven(page, tmp_path, """
        const first = $("state").textContent, lines = document.querySelectorAll("#plot path").length;
        $("filter-style").value = "paper";
        $("filter-style").dispatchEvent(new Event("change"));
        await wait(() => $("state").textContent !== first);
        const button = [...document.querySelectorAll("#recipes button")].find(
            one => one.closest("tr").textContent.includes("130m_paper_longmemory"));
        button.focus();
        document.activeElement.click();
        return {first, second: $("state").textContent, lines, pressed: button.getAttribute("aria-pressed"),
                hash: location.hash, details: $("details").textContent,
                points: document.querySelectorAll("#horizon path").length,
                rows: document.querySelectorAll("#rows tbody tr").length,
                tallest: Math.max(...[...document.querySelectorAll("#rows tr, #certificates tr")].map(
                    row => row.offsetHeight)),
                proofs: $("certificates").textContent,
                wide: document.documentElement.scrollWidth - innerWidth,
                network: performance.getEntriesByType("resource").length};
    """, 500)
    name = "addition_5/130m_paper_longmemory_seed1"
    content = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    assert re.match(r"\d+ trained models of \d+ recipes are shown", found["first"])
    assert found["first"] != found["second"]
    assert found["pressed"] == "true" and found["hash"] == f"#{name}"
    assert content["command"] in found["details"] and content["commit"] in found["details"]
    wrong = next(record for record in content["records"] if record["exact_match"] < 1)
    assert all(f"{phase} {count}" in found["details"] for phase, count in wrong["first_error_phases"].items())
    assert min(found["lines"], found["points"], found["rows"]) > 10
    assert found["tallest"] < 200  # no column is squeezed to a word
    assert "n x 1" in found["proofs"] and "refuted" in found["proofs"]
    assert found["wide"] <= 0 and not found["network"]
