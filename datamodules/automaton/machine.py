"""A machine that takes the steps of `program`, whose whole state can be frozen into a value and thawed again."""

import builtins
import inspect
import operator
import types
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from length_gen.datamodules.automaton.program import GENERATOR, Code, Unsupported, code_of, is_python
from length_gen.datamodules.automaton.values import (
    ITERATOR,
    OWN,
    UNKNOWN,
    Handle,
    Name,
    Together,
    begun,
    copied_only,
    short,
)

MOST_STEPS = 1_000_000
"""Without a look at the tool."""


@dataclass(slots=True, eq=False)
class Scope:
    """Variables of a call. `root`: the Python function whose globals are seen; `code` says which names are kept."""

    code: Code
    root: types.FunctionType
    outer: "Scope | None"
    names: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Frame:
    """A call that has not returned: the next step, its variables, and what it holds on its stack."""

    scope: Scope
    place: int = 0
    stack: list[Any] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Closure:
    """A function that was made by the algorithm itself."""

    code: Code
    scope: Scope
    defaults: tuple
    named_defaults: dict

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Called by Python's own functions (`sorted`, say): without the tool."""
        machine = Machine([enter(self, arguments, named)], None)
        if machine.run():
            raise Unsupported(f"{self.code.file}:{self.code.line}: {self.code.name} asks the tool where Python calls "
                              f"it; write a loop")
        return machine.result


def enter(function: Any, arguments: Iterable, named: dict[str, Any]) -> Frame:
    """The frame of a call. Raises TypeError where the arguments do not fit."""
    if isinstance(function, Closure):
        scope = Scope(function.code, function.scope.root, function.scope)
        defaults, named_defaults = function.defaults, function.named_defaults
    else:
        if inspect.ismethod(function):
            arguments, function = (function.__self__, *arguments), function.__func__
        scope = Scope(code_of(function), function, None)
        defaults, named_defaults = function.__defaults__, function.__kwdefaults__
    binder = types.FunctionType(scope.code.binder, {"locals": builtins.locals}, "parameters", defaults)
    binder.__kwdefaults__ = named_defaults
    scope.names = binder(*arguments, **named)
    return Frame(scope)


@dataclass(slots=True)
class Request:
    """What the algorithm waits for: a call of a handle's own method, or the value of what is unknown (no handle)."""

    handle: Handle | None
    name: str
    arguments: tuple
    named: dict[str, Any]


class Machine:
    """Runs calls, the outermost first, until one needs the tool; its state is all in `frames`.

    constants: what tells constants from the algorithm's own, see `frozen.Constants`; None: nothing is frozen
    """

    def __init__(self, frames: list[Frame], constants: Any) -> None:
        self.frames, self.constants, self.result = frames, constants, None

    def site(self) -> tuple[tuple[str, int, int], ...]:
        """Where the algorithm stands: file, line and step of each call."""
        return tuple((frame.scope.code.file, frame.scope.code.line, frame.place) for frame in self.frames)

    def where(self) -> str:
        """File and line of the innermost call."""
        frame = self.frames[-1]
        return frame.scope.code.where(frame.place)

    def run(self) -> Request | None:
        """Up to the next request, whose step is not taken yet (see `answer`); None at the end.

        Raises what the algorithm raises by an error, and `Stopped` where it raises of its own will.
        """
        for _ in range(MOST_STEPS):
            if not self.frames:
                return None
            if request := self._step(self.frames[-1]):
                return request
        raise Unsupported(f"{self.where()}: {MOST_STEPS:,} steps without a look at the tool; does this loop end?")

    def answer(self, value: Any) -> None:
        """Take the step that was waited for: the call gives `value`; the condition or loop takes that way."""
        frame = self.frames[-1]
        step = frame.scope.code.steps[frame.place]
        if step.operation == "call":
            del frame.stack[-1 - len(step.argument[0]) - len(step.argument[1]) :]
            frame.stack.append(value)
            frame.place += 1
        elif step.operation == "jump_unless":
            frame.stack.pop()
            frame.place = frame.place + 1 if value else step.argument
        elif value:
            frame.stack.append(UNKNOWN)
            frame.place += 1
        else:
            frame.stack.pop()
            frame.place = step.argument

    def _step(self, frame: Frame) -> Request | None:
        scope, stack = frame.scope, frame.stack
        operation, argument = (step := scope.code.steps[frame.place]).operation, step.argument
        if operation == "call":
            return self._call(frame, *argument)
        if operation == "jump_unless":
            if stack[-1] is UNKNOWN:
                return Request(None, "condition", (), {})
            if stack.pop():
                frame.place += 1
            else:
                frame.place = argument
            return None
        if operation == "next":
            if stack[-1] is UNKNOWN:
                return Request(None, "loop", (), {})
            cursor = stack[-1]
            if cursor.place < len(cursor.items):
                stack.append(cursor.items[cursor.place])
                cursor.place += 1
                frame.place += 1
            else:
                stack.pop()
                frame.place = argument
            return None
        if operation == "jump":
            frame.place = argument
            return None
        if operation == "return":
            value = stack[-1]
            self.frames.pop()
            if self.frames:
                self.frames[-1].stack.append(value)
            else:
                self.result = value
            return None
        if operation == "raise":
            raise Stopped
        frame.place += 1
        if operation == "load":
            stack.append(_known(scope, argument))
        elif operation == "store":
            scope.names[argument] = stack.pop()
        elif operation == "constant":
            stack.append(argument)
        elif operation == "load_global":
            stack.append(self._global(scope.root, argument))
        elif operation in ("load_outer", "store_outer"):
            depth, name = argument
            for _ in range(depth):
                scope = scope.outer
            if operation == "load_outer":
                stack.append(_known(scope, name))
            else:
                scope.names[name] = stack.pop()
        elif operation == "attribute":
            value = stack.pop()
            stack.append(UNKNOWN if value is UNKNOWN else self._attribute(value, argument))
        elif operation == "binary":
            right, left = stack.pop(), stack.pop()
            if argument in (operator.is_, operator.is_not) and left is not None and right is not None:
                copied_only((left, right))
            stack.append(UNKNOWN if _unknown((left, right)) else argument(left, right))
        elif operation == "unary":
            value = stack.pop()
            stack.append(UNKNOWN if value is UNKNOWN else argument(value))
        elif operation == "pop":
            stack.pop()
        elif operation == "copy":
            stack += stack[-argument:]
        elif operation == "rotate":
            value = stack.pop(-3)
            stack.append(value)
        elif operation == "build":
            kind, starred = argument
            stack.append(kind(_spread(_take(stack, len(starred)), starred)))
        elif operation == "build_dict":
            parts, made = _take(stack, sum(1 if spread else 2 for spread in argument)), {}
            for spread in argument:
                key = parts.pop(0)
                made.update(key if spread else {key: parts.pop(0)})
            stack.append(made)
        elif operation == "collect":
            if argument is dict:
                value, key = stack.pop(), stack.pop()
                stack.pop()[key] = value
            else:
                value = stack.pop()
                (stack.pop().add if argument is set else stack.pop().append)(value)
        elif operation == "unpack":
            stack += _unpack(stack.pop(), *argument)
        elif operation == "iterate":
            stack.append(begun(stack.pop()))
        elif operation == "set_item":
            value, key, container = stack.pop(), stack.pop(), stack.pop()
            container[key] = value
        elif operation == "function":
            named_defaults, defaults = stack.pop(), stack.pop()
            stack.append(Closure(argument, scope, defaults, named_defaults))
        else:
            raise AssertionError(operation)
        return None

    def _global(self, root: types.FunctionType, name: str) -> Any:
        if name in root.__code__.co_freevars:
            value = root.__closure__[root.__code__.co_freevars.index(name)].cell_contents
        elif name in root.__globals__:
            value = root.__globals__[name]
        else:
            value = getattr(builtins, name)
        if self.constants is not None:
            self.constants.add(value)
        return value

    def _attribute(self, owner: Any, name: str) -> Any:
        copied_only((owner,))
        value = getattr(owner, name)
        if self.constants is not None and (isinstance(owner, type | types.ModuleType) or owner in self.constants):
            self.constants.add(value)
        return value

    def _call(self, frame: Frame, starred: tuple[bool, ...], names: tuple[str | None, ...]) -> Request | None:
        count = len(starred) + len(names)
        function, *given = frame.stack[len(frame.stack) - count - 1 :]
        arguments, named = _spread(given[: len(starred)], starred), {}
        for name, value in zip(names, given[len(starred) :], strict=True):
            named.update(value if name is None else {name: value})
        if any(frame.scope.code.name == GENERATOR for frame in self.frames) and not _is_plain(function):
            raise Unsupported(f"{self.where()}: a call in a generator expression; write a list or a loop")
        handle = getattr(function, "__self__", None)
        if isinstance(handle, Handle) and function.__name__ in handle.own:
            return Request(handle, function.__name__, tuple(arguments), named)
        everything = (function, *arguments, *named.values())
        if isinstance(function, Closure) or (is_python(function) and any(map(_is_explored, everything))):
            if any(isinstance(value, ITERATOR) for value in everything):
                raise Unsupported(f"{self.where()}: a generator expression is given away; write a list")
            frame.place += 1
            del frame.stack[len(frame.stack) - count - 1 :]
            self.frames.append(enter(function, arguments, named))
            return None
        if not isinstance(handle, list):  # which looks for what is equal, if at all
            copied_only(everything)
        if _unknown((*everything, handle)):
            value = UNKNOWN
        elif type(handle) is dict and function.__name__ in ("items", "values"):
            value = Together(function.__name__, (tuple(handle), handle))
        else:
            value = (OWN.get(function, function) if isinstance(function, type) else function)(*arguments, **named)
        frame.place += 1
        del frame.stack[len(frame.stack) - count - 1 :]
        frame.stack.append(value)
        return None


class Stopped(Exception):
    """The algorithm has raised an error of its own will: it has no trajectory for such a question."""


def _known(scope: Scope, name: str) -> Any:
    if name not in scope.names:
        raise UnboundLocalError(f"{name} has no value yet")
    return scope.names[name]


def _unknown(values: tuple) -> bool:
    """Whether what is made of these values is unknown.

    Raises Unsupported if it would have to change one of them, or might be what leads to the tool.
    """
    if not any(value is UNKNOWN for value in values):
        return False
    for value in values:
        if isinstance(value, list | dict | set) or _is_explored(value):
            raise Unsupported(f"what becomes of {short(value)} with {UNKNOWN!r} cannot be explored")
    return True


def _take(stack: list, count: int) -> list:
    taken = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    return taken


def _spread(values: list, starred: tuple[bool, ...]) -> list:
    """Values of a call or display, those with a star taken apart."""
    return [item for value, star in zip(values, starred, strict=True) for item in (value if star else (value,))]


def _unpack(value: Any, count: int, star: int | None) -> list:
    """The parts of a value, the first last, as they are stored."""
    if value is UNKNOWN:
        return [UNKNOWN] * count
    parts = list(value)
    if star is not None and len(parts) >= count - 1:
        rest = len(parts) - count + 1
        parts[star : star + rest] = [parts[star : star + rest]]
    if len(parts) != count:
        raise ValueError(f"{len(parts)} values for {count} names")
    return parts[::-1]


def _is_plain(function: Any) -> bool:
    """Whether a callable is one of Python's own that changes nothing."""
    if function in (next, setattr, delattr, exec, eval, map, filter):
        return False
    owner = getattr(function, "__self__", None)
    return isinstance(function, type) or (isinstance(function, types.BuiltinFunctionType)
                                          and isinstance(owner, types.ModuleType | str | tuple | int | frozenset))


def _is_explored(value: Any) -> bool:
    """Whether what a function is given makes it one to explore: it leads to the scribe, to a function of the
    algorithm's own, or to a name."""
    if isinstance(value, Handle | Closure | Name):
        return True
    if isinstance(value, Together):
        value = value.sources
    if isinstance(value, tuple | list | set | frozenset):
        return any(map(_is_explored, value))
    if isinstance(value, dict):
        return any(map(_is_explored, (*value.keys(), *value.values())))
    return isinstance(getattr(value, "__self__", None), Handle)
