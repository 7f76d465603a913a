import sys
from pathlib import Path

import pytest

from length_gen.lightning_modules.commands.main import main
from tests.commands import TINY, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a run, and the command that made it."""
    folder = tmp_path_factory.mktemp("trained")
    result = run("fit", *TINY, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command in this process, in an empty folder or another; gives the one line that it ends with."""
    monkeypatch.setattr(sys, "argv", ["run.py"])

    def line(*arguments, cwd: Path = tmp_path) -> str:
        monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:  # any other exception would be a traceback
            main([str(argument) for argument in arguments])
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert ended.value.code == 2 and said.startswith("error: ")
        return said

    return line
