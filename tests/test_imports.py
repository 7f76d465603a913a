"""The layout is the architecture: imports go one way, a module has one name, tests stand where the source does."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ORDER = ("tools", "datamodules", ("lightning_modules.provenance", "lightning_modules.errors"),
         "lightning_modules.backbones", "lightning_modules.decoding", "lightning_modules.evaluation",
         ("lightning_modules.model", "lightning_modules.training"),
         "lightning_modules.certification", "lightning_modules.runs",
         "lightning_modules.reporting", "lightning_modules.commands", "run")
"""Each imports those before it, and those in the same place; nothing after it."""

PLACES = {name: place for place, names in enumerate(ORDER) for name in ([names] if isinstance(names, str) else names)}


def place(module: str) -> int | None:
    """Where a module stands in the order; None if it is not the suite's."""
    parts = module.split(".")
    return next((PLACES[name] for n in range(len(parts), 0, -1) if (name := ".".join(parts[:n])) in PLACES), None)


def modules() -> dict[str, Path]:
    paths = [path for folder in ("tools", "datamodules", "lightning_modules") for path in (ROOT / folder).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
            for path in [*paths, ROOT / "run.py"]}


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Modules that a file imports anywhere, in functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.removeprefix("length_gen.") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module.removeprefix("length_gen.")
            found |= {name if (name := f"{module}.{alias.name}".removeprefix("length_gen.")) in MODULES else module
                      for alias in node.names}
    return found


def test_every_module_has_its_place():
    assert {module for module in MODULES if place(module) is None} <= {"lightning_modules"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_one_way(module):
    own = place(module)
    wrong = [other for other in imported(MODULES[module]) if own is not None and (place(other) or 0) > own]
    assert not wrong


@pytest.mark.parametrize("module", ["tools.errors", "datamodules.tokens", "lightning_modules.provenance"])
def test_no_module_has_a_second_name(module):
    room = module.partition(".")[0]
    code = f"import length_gen.{module}\ntry:\n    import {module}\nexcept ImportError as error:\n    print(error)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{room} is no package of its own: import length_gen.{room}\n"


def test_tests_stand_where_the_source_does():
    folders = {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("test_*.py")}
    assert len(folders) > 10 and not [folder for folder in folders if not (ROOT / folder).is_dir()]
