"""Every benchmark finds what it imports, started from any folder; what is drawn is held against what is expected."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"
LOAD = """
import runpy, sys
before = sys.path[1:]
for path in sys.argv[2:]:
    sys.path[:] = [sys.argv[1], *before]
    runpy.run_path(path, run_name="benchmark")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
"""


@pytest.mark.slow
def test_benchmarks_find_what_they_import(tmp_path):
    paths = sorted(FOLDER.glob("*.py"))
    assert len(paths) > 10
    ended = subprocess.run([sys.executable, "-c", LOAD, FOLDER, *paths], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_draws_are_counted_and_held_against_what_is_expected():
    from benchmarks.sampling import drawn, p_value, probabilities

    chances = probabilities()
    counts = drawn(chances, 60_000, 0.7, torch.device("cpu"), rows=256)
    assert counts.sum() >= 60_000 and not counts[:4].any()
    assert all(p_value(int(count), int(counts.sum()), float(chance)) > 1e-4
               for count, chance in zip(counts, chances, strict=True))
    binomial = [math.comb(20, k) * 0.03**k * 0.97 ** (20 - k) for k in range(21)]
    assert p_value(3, 20, 0.03) == pytest.approx(2 * sum(binomial[3:]), rel=0.15)
    assert p_value(50_400, 100_000, 0.5) == pytest.approx(math.erfc(400 / math.sqrt(2 * 25_000)))
    assert p_value(1, 100, 0.0) == 0 and p_value(0, 100, 0.0) == 1
