"""What the README and the documents say is what the records say."""

import json
import re
from collections import defaultdict
from pathlib import Path
from textwrap import indent
from xml.etree import ElementTree

from length_gen.datamodules.tasks import Addition
from length_gen.lightning_modules.reporting.report import report

ROOT = Path(__file__).parent.parent


def test_every_number_of_the_documents_has_its_record(monkeypatch):
    """If this fails, `python run.py report` says what is missing, and fills in what has a record."""
    monkeypatch.chdir(ROOT)
    report(check=True)


def test_every_test_that_is_named_is_there():
    functions = set(re.findall(r"def (test_\w+)", "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py"))))
    names = set()
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text()
        paths = set(re.findall(r"`(tests/[\w/.]+)", text))
        assert not [path for path in paths if not (ROOT / path).exists()], page.name
        names |= set(re.findall(r"[`:](test_\w+)`", text))
    assert len(names) > 20 and names <= functions


def test_code_that_docs_show_is_that_of_tests():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(blocks) > 3
    assert not [block for block in blocks if block not in tests and indent(block, "    ") not in tests]


def test_pictures_of_trajectories_show_what_is_recorded():
    recorded = {style: Addition(5, style).record(Addition(5).parse("7+5")).tokens for style in ("paper", "local")}
    for name, styles, runs in (("loop", ["paper"], 3), ("styles", ["paper", "local"], 4)):
        picture = ElementTree.parse(ROOT / f"docs/figures/{name}.svg")
        rows = defaultdict(list)
        for text in picture.iter("{http://www.w3.org/2000/svg}text"):
            if text.get("class", "").startswith("token"):
                rows[text.get("y")].append(text.text)
        assert len(rows) >= runs
        for row in list(rows.values())[-runs:]:
            assert any(row == tokens[i : i + len(row)] for tokens in map(recorded.get, styles)
                       for i in range(len(tokens)))


def test_the_results_page_is_short():
    assert len((ROOT / "docs/results.md").read_text().splitlines()) <= 400


def test_ten_million_digits_take_no_more_memory_than_ten_thousand():
    records = json.loads((ROOT / "results/benchmarks/verify.json").read_text())["records"]
    memory = {row["length"]: row["device_mib"] for row in records if row["backbone"] == "mamba 2x128"}
    assert memory[10_000_000] == memory[10_000]
    assert "in as much of its memory as at ten thousand digits" in " ".join((ROOT / "README.md").read_text().split())


def test_every_picture_of_results_is_on_a_page():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    shown = {(page.parent / target).resolve() for page in pages
             for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text())}
    pictures = [path for path in (ROOT / "docs").rglob("*.*") if path.suffix in (".png", ".svg")]
    assert {path.resolve() for path in pictures} <= shown
