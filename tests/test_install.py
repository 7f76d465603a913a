"""The installed package, without the source folder: one import name with all files, one command that does the same."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.commands import ROOT, TINY

PARTS = ("length_gen", "tools", "datamodules", "lightning_modules", "configs")
DRIVER = """
import runpy, sys
for line in sys.stdin.read().splitlines():
    sys.argv = [sys.argv[0], *line.split()]
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, (line, ended.code)
    print("done:", line, flush=True)
import length_gen.tools
print(length_gen.tools.__file__)
"""


@pytest.mark.slow
def test_the_installed_command_does_the_same_in_an_empty_folder(tmp_path):
    source, site, work = (tmp_path / name for name in ("source", "site", "work"))
    for name in PARTS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("run.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    files = {path.relative_to(source / "length_gen" if part == "length_gen" else source)
             for part in PARTS for path in (source / part).rglob("*") if path.is_file()}
    install = "pip install --quiet --no-build-isolation --no-deps --no-index --no-compile --target"
    subprocess.run([sys.executable, "-m", *install.split(), site, source], check=True, timeout=120)
    package = site / "length_gen"
    assert {path.relative_to(package) for path in package.rglob("*") if path.is_file()} == files
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"length_gen", "bin"}
    assert [path.name for path in (site / "bin").iterdir()] == ["length-generalization"]

    work.mkdir()
    tiny = " ".join(["--config add --config=model/gru_small", *TINY[2:]])
    tiny = tiny.replace("max_steps 6", "max_steps 2")
    (work / "sweep.yaml").write_text(f"results: results/tiny\noptions: {tiny}\n")
    lines = [f"fit {tiny}", "test", "rollout --prompt 1+2 --html trace.html", "analyze --lengths [1,2] --problems 2",
             "collect --help", "sweep configs/sweeps/addition.yaml --dry_run true", "sweep sweep.yaml", "report"]
    command = [sys.executable, "-c", DRIVER.replace("sys.argv[0], ", f"{str(site / 'bin/length-generalization')!r}, ")]
    result = subprocess.run(command, cwd=work, input="\n".join(lines), capture_output=True, text=True, timeout=300,
                            env=os.environ | {"PYTHONPATH": str(site)})
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert [line[6:] for line in result.stdout.splitlines() if line.startswith("done: ")] == lines
    assert result.stdout.splitlines()[-1] == str(package / "tools/__init__.py")
    assert "1 trained model in `results/`" in (work / "docs/results.md").read_text()
    metrics = json.loads((work / "runs/add/version_0/metrics.json").read_text())
    assert "--config add --config=model/gru_small" in metrics["command"]
    assert metrics["commit"] is None or os.environ.get("GIT_COMMIT")
