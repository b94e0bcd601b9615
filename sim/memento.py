"""What Python objects hold, kept and put back in place: the software's half of a snapshot (`Machine.snapshot`)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, is_dataclass
from enum import Enum
from functools import cache, partial
from types import FunctionType, MethodType
from typing import Any

#: Objects of these packages are followed; what other packages make is a value to us.
PACKAGES = ("kprobes", "sim")

_UNSET = object()


class Memento:
    """The contents of everything that can be reached from some objects, by reference.

    Followed are these objects, lists, dicts, sets, deques, bytearrays, tuples, and instances of classes of `PACKAGES`, or
    derived from one, with what their bound methods and closures hold. Taken as values, that is, never changed in place: frozen
    dataclasses, enumerations, and objects of any other class. `restore` changes the objects themselves, so that whoever
    holds one sees the old contents. TypeError for an iterator, whose position nothing can put back.
    """

    def __init__(self, roots: Iterable[object], apart: Iterable[object] = ()):
        """`apart`: objects that are not followed."""
        self._kept: list[tuple[Any, Any]] = []
        seen = {id(item): item for item in apart}
        todo: list[object] = list(roots)
        own = {id(item) for item in todo if hasattr(item, "__dict__")}
        while todo:
            item = todo.pop()
            if id(item) in seen or (_is_value(type(item)) and id(item) not in own):
                continue
            seen[id(item)] = item
            held, content = _look(item)
            if content is not None:
                self._kept.append((item, content))
            todo.extend(held)

    def __len__(self) -> int:
        """Objects whose contents are kept."""
        return len(self._kept)

    def restore(self) -> None:
        """Put all contents back. It may be done any number of times."""
        for item, content in self._kept:
            if isinstance(item, (list, bytearray)):
                item[:] = content
            elif isinstance(item, deque):
                item.clear()
                item.extend(content)
            elif isinstance(item, (dict, set)):
                item.clear()
                item.update(content)
            else:
                _assign(item, *content)


@dataclass(frozen=True)
class Snapshot:
    """A machine at a moment: hardware and RAM as the engine saves them, and what the software around it holds."""

    cycle: int
    hardware: bytes
    software: Memento


@cache
def _is_value(kind: type) -> bool:
    """Whether instances of a class are taken as they are."""
    if issubclass(kind, (list, dict, set, deque, bytearray, tuple, frozenset, MethodType, FunctionType, partial)):
        return False
    if hasattr(kind, "__next__"):
        raise TypeError(f"the position of a {kind.__qualname__} cannot be kept; use a list or a number instead")
    ours = any(base.__module__.partition(".")[0] in PACKAGES for base in kind.__mro__)
    frozen = is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    return not ours or frozen or issubclass(kind, (Enum, type, BaseException))


def _look(item: Any) -> tuple[Iterable[object], Any]:
    """What an object holds, and what has to be kept of it; None if it cannot change."""
    if isinstance(item, (tuple, frozenset)):
        return item, None
    if isinstance(item, MethodType):
        return (item.__self__,), None
    if isinstance(item, partial):
        return (item.func, *item.args, *item.keywords.values()), None
    if isinstance(item, FunctionType):
        ours = item.__module__.partition(".")[0] in PACKAGES
        return [cell.cell_contents for cell in item.__closure__ or () if ours], None
    if isinstance(item, (list, deque)):
        return item, list(item)
    if isinstance(item, set):
        return item, set(item)
    if isinstance(item, dict):
        return [*item, *item.values()], dict(item)
    if isinstance(item, bytearray):
        return (), bytes(item)
    values = dict(getattr(item, "__dict__", {}))
    slots = {name: getattr(item, name, _UNSET) for name in _slots(type(item))}
    return [*values.values(), *slots.values()], (values, slots)


def _assign(item: Any, values: dict[str, object], slots: dict[str, object]) -> None:
    if hasattr(item, "__dict__"):
        item.__dict__.clear()
        item.__dict__.update(values)
    for name, value in slots.items():
        if value is not _UNSET:
            object.__setattr__(item, name, value)
        elif hasattr(item, name):
            object.__delattr__(item, name)


@cache
def _slots(kind: type) -> tuple[str, ...]:
    return tuple(_names(kind))


def _names(kind: type) -> Iterator[str]:
    for base in kind.__mro__:
        slots = base.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__"):
                yield f"_{base.__name__.lstrip('_')}{name}" if name.startswith("__") and name[-2:] != "__" else name
