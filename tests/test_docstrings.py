"""Public names say what they do: modules, classes and functions by ruff's rules, methods also by what they override."""

import importlib
import inspect
import subprocess
import sys
import tomllib
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FOLDERS = ("lightning_modules", "datamodules", "tools")

PROGRAM = "length_gen.datamodules.judge_runner"
"""Runs what it is given where it is imported."""

WRAPPED = property, cached_property, classmethod, staticmethod


def test_public_modules_classes_and_functions_say_what_they_do():
    pytest.importorskip("ruff")
    rules = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]["select"]
    chosen = ",".join(rule for rule in rules if rule.startswith("D"))  # the others change with ruff's version
    found = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache", "--select", chosen, "."], cwd=ROOT,
                           capture_output=True, text=True)
    assert not found.returncode, found.stdout + found.stderr


@pytest.mark.parametrize("folder", FOLDERS)
def test_public_methods_say_what_they_do_or_what_they_override_does(folder):
    missing = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        name = "length_gen." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if name == PROGRAM:
            continue
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:  # Triton is there on Linux with CUDA alone
            assert error.name == "triton", name
            continue
        missing += [f"{name}.{cls.__name__}.{method}" for cls in vars(module).values()
                    if inspect.isclass(cls) and cls.__module__ == name and not cls.__name__.startswith("_")
                    for method, value in vars(cls).items() if not method.startswith("_")
                    and (inspect.isfunction(value) or isinstance(value, WRAPPED))
                    and not any(getattr(vars(base).get(method), "__doc__", None) for base in cls.__mro__)]
    assert not missing
