"""What the README and docs say of records and tests is so."""

import json
import re
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

from length_gen.datamodules.tasks import Addition

ROOT = Path(__file__).parent.parent


def test_ten_million_digits_are_told_as_they_were_measured():
    content = json.loads((ROOT / "results/benchmarks/verify.json").read_text())
    rows = {row["length"]: row for row in content["records"] if row["backbone"] == "mamba 2x128"}
    far, million, near = (rows[length] for length in (10_000_000, 1_000_000, 10_000))
    text = " ".join((ROOT / "README.md").read_text().split())
    assert far["exact"] and f"{far['tokens']:,} tokens, the one seed that was tried is exact" in text
    assert far["device"].startswith("NVIDIA H100") and f"in {far['seconds']:.0f} s on an H100" in text
    assert f"(a million: {million['seconds']:.1f} s; `results/benchmarks/verify.json`)" in text
    assert far["device_mib"] == near["device_mib"] and "in as much of its memory as at ten thousand digits" in text


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
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_own.py"))
    assert len(blocks) == 3 and all(block in tests for block in blocks)


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
