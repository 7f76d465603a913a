"""Every benchmark finds what it imports, started from any folder, and keeps what others have measured."""

import json
import runpy
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


def test_rows_of_a_file_keep_the_run_that_measured_them(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    kept = runpy.run_path(str(FOLDER / "rollout.py"), run_name="benchmark")["kept"]
    assert kept(tmp_path / "none.json") == []
    (tmp_path / "some.json").write_text(json.dumps({"command": "a", "commit": "1", "targets": {}, "records": [
        {"what": "x"}, {"what": "y", "commit": "2"}]}))
    assert kept(tmp_path / "some.json") == [{"command": "a", "commit": "1", "what": "x"},
                                            {"command": "a", "commit": "2", "what": "y"}]
