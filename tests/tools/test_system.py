import os
import subprocess
import sys

import pytest

from length_gen.tools.system import cores, lock

OTHER = "import sys; from length_gen.tools.system import lock; print(lock(sys.argv[1], inherited=len(sys.argv) > 2))"


@pytest.mark.parametrize("inherited", [False, True])
def test_a_lock_is_one_processs_until_it_closes_it(inherited, tmp_path):
    command = [sys.executable, "-c", OTHER, str(tmp_path / "lock"), *(["inherited"] if inherited else [])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    seen = []
    with lock(tmp_path / "lock", inherited=inherited):
        seen.append(subprocess.check_output(command, text=True, env=environment))
    seen.append(subprocess.check_output(command, text=True, env=environment))
    assert seen[0] == "None\n" and "BufferedWriter" in seen[1]


def test_a_process_that_is_given_a_lock_keeps_it(tmp_path):
    taken = lock(tmp_path / "lock", inherited=True)
    other = subprocess.Popen(["sleep", "20"], pass_fds=[taken.fileno()])
    taken.close()
    try:
        assert lock(tmp_path / "lock", inherited=True) is None
    finally:
        other.kill()
        other.wait()
    assert lock(tmp_path / "lock", wait=True, inherited=True)


def test_cores_are_those_of_the_process():
    assert 1 <= cores() <= os.cpu_count()
