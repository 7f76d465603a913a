"""What is left of cgroups."""

import subprocess

import pytest

from length_gen.tools.sandbox import Sandbox, cgroup
from tests.agents import needs_bubblewrap
from tests.tools.sandbox.boxes import SMALL


@needs_bubblewrap
def test_what_killed_processes_have_left_is_removed():
    if (parent := cgroup._parent()) is None:
        pytest.skip("no cgroup can be made here")
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = parent / f"sandbox-{dead.pid}-0"
    left.mkdir()
    Sandbox(SMALL).close()
    assert not left.exists()
