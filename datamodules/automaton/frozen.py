"""States of the machine as values: what makes two states one, and brings a state back."""

import enum
import types
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Any

from length_gen.datamodules.automaton.machine import Closure, Frame, Scope
from length_gen.datamodules.automaton.program import Unsupported
from length_gen.datamodules.automaton.values import UNKNOWN, Cursor, Handle, Name, Together, short

_ATOMS = (type(None), bool, int, float, complex, str, bytes, range, type(...), enum.Enum, types.ModuleType, type)

_BUILT_IN = (types.BuiltinFunctionType, types.MethodWrapperType)
_FUNCTIONS = (types.FunctionType, types.MethodType, types.MethodDescriptorType, types.WrapperDescriptorType, *_BUILT_IN)


_UNBOUND = (types.FunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
_CHANGING = (list, set, dict, Cursor, Closure)


class Constants:
    """What was there before the algorithm ran, which it may not change; it is told by its identity.

    Anything in it that can be changed is compared at the end.
    """

    def __init__(self, *roots: Any) -> None:
        self.objects: dict[int, Any] = {}
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
                raise Unsupported(f"the algorithm changes {short(value)}, which is not its own: keep what it works "
                                  f"with in its variables")

    @staticmethod
    def _state(value: Any) -> str:
        return " ".join(f"{id(part)}" if not isinstance(part, _ATOMS) else repr(part) for part in _parts(value))


def _parts(value: Any) -> list[Any]:
    """What an object consists of."""
    if isinstance(value, dict):
        return [*value.keys(), *value.values()]
    if isinstance(value, tuple | list | set | frozenset):
        return list(value)
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ()) if hasattr(value, name)]
    return [*getattr(value, "__dict__", {}).values(), *(getattr(value, name) for name in slots)]


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
        if kind is Name:
            return Name(*parts)
        if kind is Handle:
            made.append(parts[0](parts[1]))
            return made[-1]
        if kind is tuple or kind is frozenset:
            return kind([self._thaw(part, made) for part in parts])
        if kind is slice:
            return slice(*(self._thaw(part, made) for part in parts))
        if kind is Together:
            return Together(parts[0], self._thaw(parts[1], made), parts[2])
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
        if kind is Name:
            return Name, value.token, value.among
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
        if kind is Together:
            return Together, value.kind, self.freeze(value.sources), value.count
        if kind not in _CHANGING and not isinstance(value, Handle):
            raise Unsupported(f"a variable that holds {short(value)} cannot be explored; keep numbers, text, tuples, "
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
