"""What a task's trajectories follow from, as a hash: a certificate holds for that and for nothing else."""

import ast
import hashlib
import inspect
import textwrap
import types
from collections.abc import Iterator, Sequence
from typing import Any

from length_gen.datamodules.automaton.build import parts_of
from length_gen.datamodules.tasks import Task, ToolTask
from length_gen.datamodules.trajectory import Pointer, Scribe

OWN = "length_gen"


def source_digest(task: Task, variants: Sequence[str] | None = None) -> str:
    """SHA-256, in hexadecimal, of the source of a task's algorithm, tool and setting, of the scribe, and of all that
    they name of the suite or of the task's own package; and of the task's tokens, questions and settings. Neither of
    comments and docstrings, nor of `max_length`: an automaton is of all lengths.

    variants: as of `automaton`
    """
    found: list[str] = [repr(task.vocabulary().tokens)]
    for part, questions in parts_of(task, variants):
        own = {name: value for name, value in vars(part).items() if name not in ("max_length", "_setting")}
        found += [part.name, _text(own), repr(questions), *_sources(part)]
    return hashlib.sha256("\0".join(found).encode()).hexdigest()


def _sources(task: ToolTask) -> list[str]:
    """Sources in the order of their names, each with its name."""
    packages = {OWN, type(task).__module__.partition(".")[0], type(task._setting).__module__.partition(".")[0]}
    kind, setting = type(task), type(task._setting)
    todo: list[Any] = [kind.solve, kind.memory, kind.asked, setting.solve, setting.tool, setting.shown, Scribe, Pointer,
                       *type(task.tool()).__mro__]
    found: dict[str, str] = {}
    while todo:
        part = todo.pop()
        name = f"{getattr(part, '__module__', '')}.{getattr(part, '__qualname__', '')}"
        if not isinstance(part, type | types.FunctionType) or name in found or name.partition(".")[0] not in packages:
            continue
        found[name] = _plain(part)
        for function in ([value for value in vars(part).values() if inspect.isfunction(value)]
                         if isinstance(part, type) else [part]):
            for called in _names(function.__code__):
                todo += [owner[called] for owner in (function.__globals__, *map(vars, type(task).__mro__))
                         if called in owner]
    return [f"{name}\n{found[name]}" for name in sorted(found)]


def _names(code: types.CodeType) -> Iterator[str]:
    """All names that are not local, in functions inside too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _plain(part: type | types.FunctionType) -> str:
    """Source without comments, docstrings and layout."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [line for line in body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]
            node.body = kept or [ast.Pass()]
    return ast.unparse(tree)


def _text(value: Any) -> str:
    """A value in words that are the same each time."""
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{_text(key)}: {_text(part)}' for key, part in value.items()))}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_text, value)))}}}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_text, value))})"
    if value is None or isinstance(value, str | int | float):
        return repr(value)
    slots = {name: getattr(value, name) for name in getattr(type(value), "__slots__", ())}
    return f"{type(value).__qualname__}{_text(getattr(value, '__dict__', {}) | slots)}"
