import pytest

from length_gen.tools.sandbox import Sandbox
from tests.tools.sandbox.boxes import SMALL


@pytest.fixture(scope="module")
def shared():
    with Sandbox(SMALL) as box:
        yield box


@pytest.fixture
def box(shared):
    """The same sandbox for all tests: it must survive what each of them does."""
    shared.clear()
    shared.write({"main.py": b"print('hello')\n"})
    yield shared
    result = shared.run("cat main.py; exit 3")
    assert (result.output, result.returncode, result.exceeded) == ("print('hello')\n", 3, "")
