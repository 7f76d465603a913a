"""Every benchmark finds what it imports, started from any folder."""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "benchmarks"
LOAD = """
import runpy, sys
before = sys.path[1:]
for path in sys.argv[2:]:
    sys.path[:] = [sys.argv[1], *before]
    runpy.run_path(path, run_name="benchmark")
    for name in [name for name in sys.modules if name.split(".")[0] == "benchmarks"]:
        del sys.modules[name]
"""


def test_benchmarks_find_what_they_import(tmp_path):
    paths = sorted(FOLDER.glob("*.py"))
    assert len(paths) > 10
    ended = subprocess.run([sys.executable, "-c", LOAD, FOLDER, *paths], cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
