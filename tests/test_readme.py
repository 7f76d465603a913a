"""What the README says of a record is what the record says."""

import json
from pathlib import Path

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
