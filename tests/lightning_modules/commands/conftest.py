import pytest

from tests.commands import TINY, run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A folder with a run, and the command that made it. Who changes the run takes a copy of it."""
    folder = tmp_path_factory.mktemp("trained")
    result = run("fit", *TINY, cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder, result
