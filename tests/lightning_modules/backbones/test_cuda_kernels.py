"""What is compiled for GPUs, as far as no GPU is needed."""

import os
from pathlib import Path

import pytest

from length_gen.lightning_modules.backbones.cuda_kernels import ensure_triton_cache


def test_a_folder_for_triton(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", "")  # as if it were not set
    monkeypatch.setenv("TRITON_HOME", str(tmp_path))
    ensure_triton_cache()
    assert os.environ["TRITON_CACHE_DIR"] == "" and not list((tmp_path / ".triton/cache").iterdir())

    (tmp_path / "file").touch()
    monkeypatch.setenv("TRITON_HOME", str(tmp_path / "file"))  # where root, too, cannot write
    with pytest.warns(UserWarning, match=r"Triton's kernels are compiled again in every run: .*Not a directory"):
        ensure_triton_cache()
    folder = Path(os.environ["TRITON_CACHE_DIR"])
    assert folder.stat().st_mode & 0o777 == 0o700
    ensure_triton_cache()  # a process that this one starts finds it, and keeps it
    assert os.environ["TRITON_CACHE_DIR"] == str(folder)
