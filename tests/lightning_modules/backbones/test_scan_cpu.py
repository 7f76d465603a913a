"""The cache of what numba compiles: with it, without it and with a broken one the same function comes out."""

import importlib
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from numba.core import config

from length_gen.lightning_modules.backbones import scan_cpu

SOURCE = """
from numba import prange

from length_gen.lightning_modules.backbones.scan_cpu import compiled


@compiled
def square(x, y):
    for i in prange(x.shape[0]):
        y[i] = x[i] * x[i]
"""


@pytest.fixture
def square(tmp_path, monkeypatch):
    """Compiles a small function as a new process would: gives it, and what was warned of."""
    (tmp_path / "squares.py").write_text(SOURCE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(config, "CACHE_DIR", "")

    def compile_it():
        scan_cpu._warn.cache_clear()
        spec = importlib.util.spec_from_file_location("squares", tmp_path / "squares.py")
        module = importlib.util.module_from_spec(spec)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            spec.loader.exec_module(module)
            y = np.zeros(3, dtype=np.float32)
            module.square(np.arange(3, dtype=np.float32), y)
            assert y.tolist() == [0, 1, 4]
        return module.square, [str(w.message) for w in caught if "compiled again" in str(w.message)]

    return compile_it


def test_a_cache_is_used_where_there_is_one(square, tmp_path):
    assert square()[1] == [] and list((tmp_path / "__pycache__").glob("*.nbi"))
    again, warned = square()
    assert warned == [] and sum(again.stats.cache_hits.values()) == 1


def test_what_another_process_compiles_is_waited_for(monkeypatch, tmp_path):
    """Not compiled a second time; `other` holds the lock as a process does that compiles."""
    cache, loaded, ends = scan_cpu._Cache(scan_cpu.score.py_func), [], threading.Event()
    cache._cache_path = str(tmp_path)
    hold = (f"from pathlib import Path; from length_gen.tools import system; "
            f"held = system.lock(Path({str(tmp_path / '.score.lock')!r})); print(flush=True); input()")
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                             env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])})
    other.stdout.readline()

    def end():
        ends.set()
        other.communicate("\n")

    def load(self, *arguments):
        loaded.append(ends.is_set())
        if len(loaded) > 1:
            return "its code"
        threading.Timer(0.2, end).start()

    monkeypatch.setattr(scan_cpu.FunctionCache, "load_overload", load)
    monkeypatch.setattr(scan_cpu, "_compile_elsewhere", lambda *arguments: pytest.fail("compiled again"))
    assert cache.load_overload((), None) == "its code"
    assert loaded == [False, True]


GRADIENTS = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("length_gen.lightning_modules.backbones.scan_cpu", sys.argv[1])
sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)  # alone, not with all backbones
spec.loader.exec_module(module)
backward = module.backward
random, f = np.random.default_rng(0), np.float32
B, T, D, N = 2, 70, 32, 8
u, delta, z, dy = random.random((4, B, T, D)).astype(f)
b, c = random.random((2, B, T, N)).astype(f)
a, skip, kept = -random.random((N, D)).astype(f), random.random(D).astype(f), random.random((B, 3, N, D)).astype(f)
out = [np.zeros(shape, f) for shape in ((B, N, D), *((B, T, D),) * 2, (B, N, D), *((B, T, N),) * 2, (B, D), (B, T, D))]
backward(u, delta, a, b, c, skip, z, kept, dy, *out)
print(b"".join(map(np.ndarray.tobytes, out)).hex())
"""


@pytest.mark.slow
def test_the_first_run_computes_what_later_ones_do(tmp_path):
    """Bit for bit: with an empty cache, and with what it has left there."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[3])}
    first, later = (subprocess.run([sys.executable, "-c", GRADIENTS, scan_cpu.__file__], env=environment,
                                   capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == later and len(first) > 10_000


THREADS = """
import torch, numba
from length_gen.lightning_modules.backbones.selective_scan import selective_scan
before = torch.get_num_threads()
u, a, b = torch.rand(2, 8, 4), -torch.rand(4, 2), torch.rand(2, 8, 2)
selective_scan(u, u, a, b, b, torch.ones(4), u, torch.zeros(2, 4, 2))  # the first that is compiled
assert torch.get_num_threads() == before, (torch.get_num_threads(), before)
assert numba.get_num_threads() == min(before, numba.config.NUMBA_NUM_THREADS), numba.get_num_threads()
"""


@pytest.mark.slow
@pytest.mark.parametrize("threads", [{"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2", "NUMBA_NUM_THREADS": "1"}])
def test_the_scan_leaves_torch_its_threads(threads):
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")} | threads
    ended = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True,
                           env=environment | {"PYTHONPATH": str(Path(__file__).parents[3])})
    assert ended.returncode == 0, ended.stderr[-2000:]


def test_no_folder_for_the_cache(square, tmp_path):
    (tmp_path / "__pycache__").write_text("")  # a file where a folder is due: root, too, cannot write there
    (tmp_path / "home").write_text("")
    (warned,) = square()[1]
    assert "neither this folder nor the user's home can be written to" in warned and "NUMBA_CACHE_DIR" in warned


@pytest.mark.parametrize("pattern, content", [("*.nbi", b""), ("*.nbi", None), ("*.nbc", b"\x80")],
                         ids=["torn index", "unwritable", "torn code"])
def test_a_broken_cache(square, tmp_path, pattern, content):
    square()
    (file,) = (tmp_path / "__pycache__").glob(pattern)
    file.unlink()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    warned = square()[1]
    assert warned and all(str(file.parent) in line for line in warned)
    assert (square()[1] == []) == (content is not None)  # what was torn is whole again
