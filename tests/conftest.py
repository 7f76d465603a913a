import gc
import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path

# Several processes that each spin on every core slow each other down many times over.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import hypothesis
import jsonargparse._common
import pytest

from benchmarks.processes import Command
from length_gen.datamodules.collection import Collection, start_collection
from length_gen.lightning_modules.commands.main import main
from tests.agents import UNSANDBOXED

# The same examples on every machine, however busy it is.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None, database=None, max_examples=50,
                                     suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("same")


def pytest_collection_finish():
    """The garbage collector need not look again and again at what was imported."""
    gc.freeze()


@pytest.fixture(scope="session")
def trajectories(tmp_path_factory):
    """A folder with a few trajectories of each scripted agent, in folders of its name."""
    folder = tmp_path_factory.mktemp("trajectories")
    for agent in ("interactive", "single_turn"):
        collection = Collection(agent=agent, lengths=(4, 8), shard_size=4, unsandboxed=UNSANDBOXED)
        start_collection(str(folder / agent), collection)
        for number in range(2):
            collection.shard(str(folder / agent), number, 8)
    return folder


class Clock:
    """Seconds that go by only where a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    """Stands for `time.perf_counter`."""
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


@pytest.fixture(scope="session")
def certified(tmp_path_factory):
    """The path of a certificate of a model that copies; the weights are beside it."""
    from length_gen.lightning_modules.certification.certify import certify
    from tests.exact import automaton, exact_copy, task

    path = tmp_path_factory.mktemp("certificate") / "copy.npz"
    verdict = certify(exact_copy(), task(), task().vocabulary(), automaton, [2.0**-20], order=6, path=path)
    assert verdict.outcome == "certified"
    return path


@pytest.fixture(autouse=True)
def no_command_is_left():
    """A run that hangs fails its test, and must not hang the others."""
    yield
    Command.kill_all()


@pytest.fixture(autouse=True)
def imports_are_one_commands_own(monkeypatch):
    """What a command may import it settles for its whole process, which here has many."""
    monkeypatch.setattr(jsonargparse._common, "parsing_settings", dict(jsonargparse._common.parsing_settings))


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


@pytest.fixture
def guarded(monkeypatch):
    """Takes the name of a module of lightning_modules, whose `device_guard` it replaces; gives the list of the devices
    that are the current ones because of it, the innermost last."""
    def of(module):
        entered = []

        @contextmanager
        def guard(device):
            entered.append(device)
            try:
                yield
            finally:
                entered.pop()

        monkeypatch.setattr(f"length_gen.lightning_modules.{module}.device_guard", guard)
        return entered

    return of
