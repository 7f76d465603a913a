"""A machine that takes the steps of `program`, whose whole state can be frozen into a value and thawed again."""

import builtins
import enum
import inspect
import itertools
import types
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from length_gen.datamodules.automaton.program import Code, Unsupported, code_of, is_python

MOST_ITEMS = 100_000
MOST_STEPS = 1_000_000
"""Of what is gone over without a look at the tool."""


class Looked(Exception):
    """What is unknown was asked for its value."""


class Unknown:
    """A value that depends on the question otherwise than through the tool: nothing is known of it.

    A call that takes one gives one, a condition on one is true and false, and a loop over one goes on and ends.
    """

    def __repr__(self) -> str:
        return "a value taken from the question"

    def _refuse(self, *_: Any) -> Any:
        raise Looked("an algorithm that looks at the question itself, not through its tool, cannot be explored")

    # Python's own functions, which get one inside a list, say, must not take it for a value.
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __iter__ = __len__ = __contains__ = __str__ = _refuse
    __hash__ = _refuse  # type: ignore[assignment]


UNKNOWN = Unknown()


class Handle:
    """What an algorithm holds of the scribe: the scribe itself, or one of its pointers, by number.

    The methods in `own` are carried out by the explorer; all others are explored like the algorithm's own functions.
    """

    own: frozenset[str] = frozenset()

    def __init__(self, number: int = 0) -> None:
        self.number = number


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
class Cursor:
    """Where a loop stands. A list is looked at anew each time, as Python does; what else there is, is there at once."""

    items: Any
    place: int = 0


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
        if machine.run() is not None:
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
    """Runs calls, the outermost first, until one needs the tool; its state is all in `frames`."""

    def __init__(self, frames: list[Frame], constants: "Constants | None") -> None:
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
                if spread:
                    made.update(parts.pop(0))
                else:
                    made[parts.pop(0)] = parts.pop(0)
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
            stack.append(_cursor(stack.pop()))
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
        handle = getattr(function, "__self__", None)
        if isinstance(handle, Handle) and function.__name__ in handle.own:
            return Request(handle, function.__name__, tuple(arguments), named)
        if self.constants is not None and is_python(function):
            self.constants.functions.add(getattr(function, "__func__", function))
        everything = (function, *arguments, *named.values())
        if isinstance(function, Closure) or (is_python(function) and any(map(_holds_handle, everything))):
            frame.place += 1
            del frame.stack[len(frame.stack) - count - 1 :]
            self.frames.append(enter(function, arguments, named))
            return None
        value = UNKNOWN if _unknown((*everything, handle)) else function(*arguments, **named)
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
        if isinstance(value, list | dict | set) or _holds_handle(value):
            raise Unsupported(f"what becomes of {_short(value)} with {UNKNOWN!r} cannot be explored")
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


_WHOLE = (tuple, str, bytes, range, list)
_ONCE = (dict, set, frozenset, type({}.keys()), type({}.values()), type({}.items()), zip, enumerate, reversed, map,
         filter, type(reversed([])), type(iter([])), type(iter(())), type(iter("")))


def _cursor(items: Any) -> Any:
    if items is UNKNOWN:
        return UNKNOWN
    if isinstance(items, _WHOLE):
        return Cursor(items)
    if isinstance(items, _ONCE):
        taken = tuple(itertools.islice(items, MOST_ITEMS + 1))
        if len(taken) <= MOST_ITEMS:
            return Cursor(taken)
        raise Unsupported(f"a loop over more than {MOST_ITEMS:,} items cannot be explored")
    raise Unsupported(f"a loop over {type(items).__name__} cannot be explored; make it a list")


def _holds_handle(value: Any) -> bool:
    """Whether something that a function is given leads to the scribe, or to a function of the algorithm's own."""
    if isinstance(value, Handle | Closure):
        return True
    if isinstance(value, tuple | list | set | frozenset):
        return any(map(_holds_handle, value))
    if isinstance(value, dict):
        return any(map(_holds_handle, (*value.keys(), *value.values())))
    return isinstance(getattr(value, "__self__", None), Handle)


class Constants:
    """What was there before the algorithm ran, which it may not change; it is told by its identity.

    Anything in it that can be changed is compared at the end. `functions` are those of Python that it called.
    """

    def __init__(self, *roots: Any) -> None:
        self.objects: dict[int, Any] = {}
        self.functions: set[types.FunctionType] = set()
        self._before: list[tuple[Any, str]] = []
        for root in roots:
            self.add(root)

    def add(self, value: Any) -> None:
        """Take in a value and all that it leads to."""
        todo = [value]
        while todo:
            found = todo.pop()
            if id(found) in self.objects or isinstance(found, _ATOMS + _FUNCTIONS):
                continue
            self.objects[id(found)] = found
            parts = _parts(found)
            self._before.append((found, self._state(found)))
            todo += parts

    def __contains__(self, value: Any) -> bool:
        return id(value) in self.objects

    def keep(self, value: Any) -> int:
        """A number by which an unchangeable object is found in `objects`."""
        self.objects[id(value)] = value
        return id(value)

    def check(self) -> None:
        """Raises Unsupported if one of them has changed."""
        for value, before in self._before:
            if self._state(value) != before:
                raise Unsupported(f"the algorithm changes {_short(value)}, which is not its own: keep what it works "
                                  f"with in its variables")

    @staticmethod
    def _state(value: Any) -> str:
        return " ".join(f"{id(part)}" if not isinstance(part, _ATOMS) else repr(part) for part in _parts(value))


_ATOMS = (type(None), bool, int, float, complex, str, bytes, range, type(...), enum.Enum, types.ModuleType, type)

_BUILT_IN = (types.BuiltinFunctionType, types.MethodWrapperType)
_FUNCTIONS = (types.FunctionType, types.MethodType, types.MethodDescriptorType, types.WrapperDescriptorType, *_BUILT_IN)


def _parts(value: Any) -> list[Any]:
    """What an object consists of."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, tuple | list | set | frozenset):
        return list(value)
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if hasattr(value, name)]
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, name) for name in slots)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


class Freezer:
    """Turns frames into a hashable value and back.

    Two states with the same value go on alike: it says everything that the machine looks at, but for variables that are
    stored before they are next read, and which of two equal, unchangeable values stands somewhere.
    """

    def __init__(self, constants: Constants) -> None:
        self.constants = constants

    def freeze(self, frames: list[Frame]) -> Hashable:
        """The value of a state. Raises Unsupported for one that holds what this does not know."""
        return _Frost(self.constants, frames).value

    def thaw(self, frozen: Any) -> list[Frame]:
        """A state like the one that was frozen, which nobody else holds."""
        made: list[Any] = []
        return [Frame(self._thaw_scope(scope, made), place, [self._thaw(value, made) for value in stack])
                for scope, place, stack in frozen]

    def _thaw_scope(self, frozen: Any, made: list[Any]) -> Scope | None:
        if frozen is None:
            return None
        if isinstance(frozen, _Again):
            return made[frozen.number]
        _, code, root, outer, names = frozen
        scope = Scope(code, root, None)
        made.append(scope)
        scope.outer = self._thaw_scope(outer, made)
        scope.names = {name: self._thaw(value, made) for name, value in names}
        return scope

    def _thaw(self, frozen: Any, made: list[Any]) -> Any:
        if frozen is None or type(frozen) is str:
            return frozen
        if isinstance(frozen, _Again):
            return made[frozen.number]
        kind, *parts = frozen
        if kind is _Atom:
            return parts[1]
        if kind is _Constant:
            return self.constants.objects[parts[0]]
        if kind is types.MethodType:
            return getattr(self._thaw(parts[1], made), parts[0])
        if kind is Handle:
            made.append(parts[0](parts[1]))
            return made[-1]
        if kind is tuple or kind is frozenset:
            return kind([self._thaw(part, made) for part in parts])
        if kind is slice:
            return slice(*(self._thaw(part, made) for part in parts))
        if kind is Cursor:
            cursor = Cursor((), parts[1])
            made.append(cursor)
            cursor.items = self._thaw(parts[0], made)
            return cursor
        if kind is Closure:
            closure = Closure(parts[0], None, (), {})
            made.append(closure)
            closure.scope = self._thaw_scope(parts[1], made)
            closure.defaults, closure.named_defaults = self._thaw(parts[2], made), self._thaw(parts[3], made)
            return closure
        container = kind()
        made.append(container)
        for part in parts:
            if kind is dict:
                key = self._thaw(part[0], made)
                container[key] = self._thaw(part[1], made)
            else:
                (container.add if kind is set else container.append)(self._thaw(part, made))
        return container


class _Frost:
    """One state on its way to a value. Objects that can be changed have numbers, in the order of first sight."""

    def __init__(self, constants: Constants, frames: list[Frame]) -> None:
        self.constants, self.seen = constants, {}
        self.places = {id(frame.scope): frame.place for frame in frames}
        self.value = tuple((self.scope(frame.scope), frame.place, tuple(map(self.freeze, frame.stack)))
                           for frame in frames)

    def again(self, value: Any) -> "_Again | None":
        """Says that it has been seen before; else gives it its number."""
        if id(value) in self.seen:
            return _Again(self.seen[id(value)])
        self.seen[id(value)] = len(self.seen)
        return None

    def scope(self, scope: Scope | None) -> Any:
        if scope is None:
            return None
        if again := self.again(scope):
            return again
        kept = scope.code.captured
        if id(scope) in self.places:  # still running: what it reads itself
            kept = kept | scope.code.live[self.places[id(scope)]]
        outer = self.scope(scope.outer)  # before the names, as when it is thawed
        names = tuple((name, self.freeze(scope.names[name])) for name in sorted(kept) if name in scope.names)
        return _Scope, scope.code, scope.root, outer, names

    def freeze(self, value: Any) -> Any:
        kind = type(value)
        if kind is str or value is None:
            return value
        if isinstance(value, _ATOMS):
            return _Atom, kind, value, repr(value) if kind in (float, complex) else ""  # 0.0 and -0.0 are equal
        if kind in (tuple, frozenset):
            return (kind, *map(self.freeze, _order(value)))
        if value is UNKNOWN or value in self.constants or isinstance(value, _UNBOUND) \
                or (isinstance(value, _BUILT_IN) and not _bound(value)):
            return _Constant, self.constants.keep(value)
        if isinstance(value, _FUNCTIONS):
            return types.MethodType, value.__name__, self.freeze(value.__self__)
        if kind is slice:
            return (slice, *map(self.freeze, (value.start, value.stop, value.step)))
        if kind not in _CHANGING and not isinstance(value, Handle):
            raise Unsupported(f"a variable that holds {_short(value)} cannot be explored; keep numbers, text, tuples, "
                              f"lists, sets, dictionaries and functions")
        if again := self.again(value):
            return again
        if kind is dict:
            return (dict, *((self.freeze(key), self.freeze(part)) for key, part in value.items()))
        if kind is Cursor:
            return Cursor, self.freeze(value.items), value.place
        if kind is Closure:
            return (Closure, value.code, self.scope(value.scope), self.freeze(value.defaults),
                    self.freeze(value.named_defaults))
        if isinstance(value, Handle):
            return Handle, kind, value.number
        return (kind, *map(self.freeze, _order(value)))


_CHANGING = (list, set, dict, Cursor, Closure)
_UNBOUND = (types.FunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)


@dataclass(frozen=True, slots=True)
class _Again:
    """An object that can be changed and has been seen before: its number, in the order of first sight."""

    number: int


class _Scope: ...


class _Atom: ...


class _Constant: ...


def _bound(value: Any) -> bool:
    """Whether a built-in function is a method of some object."""
    return value.__self__ is not None and not isinstance(value.__self__, types.ModuleType)


def _order(values: Any) -> Iterable:
    """A fixed order for what has none."""
    return sorted(values, key=repr) if isinstance(values, set | frozenset) else values
