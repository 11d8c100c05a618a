"""The Python values that a function sees beside its arguments, and whether they have changed.

A replay runs no Python, so a captured step holds only as long as everything its Python code read
is as it was: variables of the enclosing function, globals, attributes of objects reached through
them. `Surroundings` finds the places that hold such values, and compares them by identity at each
call, which costs about 20 ns a place.

An object may name attributes (or a dict keys) whose values its code does not compute with, in
`untracked_by_jit`. Objects of classes from the standard library and from other installed packages
count where Tensors are found in them.
"""

from __future__ import annotations

import operator
import os
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from dovetile.runtime import Device
from dovetile.tensor.base import TensorBase

_SCALARS = (bool, int, float, complex, str, bytes, type(None))
_MISSING = object()
_LARGEST_CONTAINER = 4096  # larger ones count by identity and length alone
_MOST_PLACES = 100_000
_DEEPEST = 40
_PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})


@dataclass
class Holder:
    """Something that holds values: how to read them all, and how to set one."""

    label: str
    read: Callable[[], Iterable[Any]]
    write: Callable[[int, Any], None]
    names: Sequence[str]
    count: int


class Surroundings:
    """The places where a function and some objects lead to, with what they hold now.

    Args:
        function: its variables, globals and defaults are followed.
        objects: whose attributes are followed too.
        leaves: Tensors whose `grad` counts beside that of the Tensors that are found.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        objects: Iterable[object],
        leaves: Iterable[TensorBase] = (),
    ) -> None:
        self.tensors: dict[int, TensorBase] = {}
        self._holders: list[Holder] = []
        self._seen: dict[int, object] = {}
        self._places = 0
        self._root = getattr(function, "__func__", function)
        self._walk(function, getattr(function, "__name__", "function"), 0)
        for value in objects:
            self._walk(value, f"<{type(value).__name__}>", 0)
        for tensor in leaves:
            self.tensors[id(tensor)] = tensor
        self._add_gradients()
        self._seen.clear()
        self._reads = [holder.read for holder in self._holders]
        self.values = self.read()

    def read(self) -> list[Any]:
        """What the places hold."""
        values: list[Any] = []
        for read in self._reads:
            values += read()
        return values

    def same_sizes(self) -> str | None:
        """None where every place is still there, else a text about one that is not."""
        for holder in self._holders:
            if len(list(holder.read())) != holder.count:
                return f"{holder.label} has changed its size"
        return None

    def label(self, place: int) -> str:
        """Where a place is, for messages."""
        holder, index = self._find(place)
        return holder.names[index] if index < len(holder.names) else holder.label

    def setter(self, place: int) -> Callable[[Any], None]:
        """Sets the value of a place."""
        holder, index = self._find(place)
        return partial(holder.write, index)

    def _find(self, place: int) -> tuple[Holder, int]:
        for holder in self._holders:
            if place < holder.count:
                return holder, place
            place -= holder.count
        raise IndexError(place)

    # -- finding the places --------------------------------------------------------------------

    def _add(
        self,
        label: str,
        read: Callable[[], Iterable[Any]],
        write: Callable[[int, Any], None],
        names: Sequence[str] = (),
    ) -> list[Any]:
        values = list(read())
        self._holders.append(Holder(label, read, write, names, len(values)))
        self._places += len(values)
        return values

    def _walk(self, value: Any, label: str, depth: int) -> bool:
        """Follows a value; returns whether Tensors were found in it."""
        if isinstance(value, _SCALARS) or self._places > _MOST_PLACES or depth > _DEEPEST:
            return False
        if isinstance(value, TensorBase):
            self.tensors[id(value)] = value
            return True
        if id(value) in self._seen:
            return True  # decided where it was met first
        self._seen[id(value)] = value
        mark = len(self._holders), self._places
        found = self._walk_inside(value, label, depth + 1)
        if not found and _is_foreign(type(value)) and not isinstance(value, _PLAIN_CONTAINERS):
            del self._holders[mark[0] :]
            self._places = mark[1]
        return found

    def _walk_all(self, values: Sequence[Any], labels: Sequence[str], depth: int) -> bool:
        found = False
        for value, label in zip(values, labels):
            found = self._walk(value, label, depth) or found
        return found

    def _walk_inside(self, value: Any, label: str, depth: int) -> bool:
        if isinstance(value, types.FunctionType):
            return self._walk_function(value, label, depth)
        if isinstance(value, types.MethodType):
            inside = self._walk(value.__self__, f"{label}.__self__", depth)
            return self._walk(value.__func__, label, depth) or inside
        if isinstance(value, partial):
            parts = (value.func, value.args, value.keywords)
            return self._walk_all(parts, [label] * len(parts), depth)
        if isinstance(value, type):
            return not _is_foreign(value) and self._walk_namespace(value, label, depth)
        if isinstance(value, (types.ModuleType, types.BuiltinFunctionType, Device)):
            return False
        found = False
        if isinstance(value, dict):
            found = self._walk_dict(value, value, label, depth)
        elif isinstance(value, (list, tuple)):
            found = self._walk_sequence(value, label, depth)
        attributes = getattr(value, "__dict__", None)
        if isinstance(attributes, dict):
            found = self._walk_dict(attributes, value, label, depth) or found
        elif not isinstance(value, _PLAIN_CONTAINERS):
            found = self._walk_slots(value, label, depth) or found
        if not _is_foreign(type(value)) and not isinstance(value, _PLAIN_CONTAINERS):
            for base in type(value).__mro__:
                if not _is_foreign(base):
                    for name, method in list(vars(base).items()):
                        if isinstance(method, types.FunctionType):
                            self._walk(method, f"{base.__name__}.{name}", depth)
        return found

    def _walk_dict(self, table: dict, owner: object, label: str, depth: int) -> bool:
        untracked = getattr(type(owner), "untracked_by_jit", ())
        if len(table) > _LARGEST_CONTAINER:
            return False
        if not untracked and not any(_is_ours(v) for v in table.values()):
            keys = list(table)
            read: Callable[[], Iterable[Any]] = table.values
        else:
            keys = [k for k, v in table.items() if k not in untracked and not _is_ours(v)]
            read = partial(_read_keys_and_size, table, keys)
        dotted = table is not owner
        names = [f"{label}.{k}" if dotted else f"{label}[{k!r}]" for k in keys]
        values = self._add(label, read, lambda i, v: operator.setitem(table, keys[i], v), names)
        return self._walk_all(values, names, depth)

    def _walk_sequence(self, items: list | tuple, label: str, depth: int) -> bool:
        if len(items) > _LARGEST_CONTAINER:
            if isinstance(items, list):
                self._add(label, lambda: (len(items),), _refuse)
            return False
        if isinstance(items, list):
            names = [f"{label}[{i}]" for i in range(len(items))]
            self._add(label, lambda: items, lambda i, v: operator.setitem(items, i, v), names)
        return self._walk_all(items, [f"{label}[{i}]" for i in range(len(items))], depth)

    def _walk_slots(self, value: object, label: str, depth: int) -> bool:
        names = [
            name
            for base in type(value).__mro__
            if not _is_foreign(base)
            for name in _slots(base)
            if not name.startswith("__")
        ]
        if not names:
            return False
        values = self._add(
            label,
            lambda: [getattr(value, name, _MISSING) for name in names],
            lambda i, v: setattr(value, names[i], v),
            [f"{label}.{name}" for name in names],
        )
        return self._walk_all(values, [f"{label}.{name}" for name in names], depth)

    def _walk_namespace(self, value: Any, label: str, depth: int) -> bool:
        names = [
            name
            for name, held in vars(value).items()
            if not name.startswith("__")
            and not callable(held)
            and not hasattr(type(held), "__get__")
        ]
        table = vars(value)
        values = self._add(
            label,
            lambda: [table.get(name, _MISSING) for name in names],
            lambda i, v: setattr(value, names[i], v),
            [f"{label}.{name}" for name in names],
        )
        return self._walk_all(values, [f"{label}.{name}" for name in names], depth)

    def _walk_function(self, function: types.FunctionType, label: str, depth: int) -> bool:
        if function is not self._root and _is_foreign_module(function.__module__):
            return False
        found = False
        cells = function.__closure__ or ()
        if cells:
            names = function.__code__.co_freevars
            values = self._add(
                f"variables of {label}",
                lambda: [_content(cell) for cell in cells],
                lambda i, v: setattr(cells[i], "cell_contents", v),
                names,
            )
            found = self._walk_all(values, names, depth)
        found = self._walk_globals(function, label, depth) or found
        for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            found = self._walk(default, f"a default of {label}", depth) or found
        return found

    def _walk_globals(self, function: types.FunctionType, label: str, depth: int) -> bool:
        table = function.__globals__
        used = _names_of(function.__code__)
        names = sorted(name for name in used if name in table and not _is_ours(table[name]))
        if not names:
            return False
        values = self._add(
            f"globals of {label}",
            lambda: [table.get(name, _MISSING) for name in names],
            lambda i, v: operator.setitem(table, names[i], v),
            names,
        )
        for value, name in zip(values, names):
            if isinstance(value, types.ModuleType) and not _is_foreign_module(value.__name__):
                held = [n for n in sorted(used) if n in vars(value)]
                inside = self._add(
                    name, partial(_read_keys, vars(value), held), partial(_set_in, value, held)
                )
                for item, attribute in zip(inside, held):
                    self._walk(item, f"{name}.{attribute}", depth)
        return self._walk_all(values, names, depth)

    def _add_gradients(self) -> None:
        leaves = [t for t in self.tensors.values() if t.requires_grad]
        for tensor in leaves:
            if tensor.grad is not None:
                self.tensors[id(tensor.grad)] = tensor.grad
        if leaves:
            self._add(
                "gradients of tensors that it sees",
                lambda: [tensor.grad for tensor in leaves],
                lambda i, v: setattr(leaves[i], "grad", v),
            )


_PLAIN_CONTAINERS = (dict, list, tuple, types.FunctionType, types.MethodType, partial, type)


def _names_of(code: types.CodeType) -> set[str]:
    """Names of globals and attributes in a function and in those defined in it."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names_of(constant)
    return names


def _read_keys(table: Any, keys: list[Any]) -> list[Any]:
    return [table.get(key, _MISSING) for key in keys]


def _read_keys_and_size(table: dict, keys: list[Any]) -> list[Any]:
    return [*_read_keys(table, keys), len(table)]


def _set_in(module: types.ModuleType, names: list[str], index: int, value: Any) -> None:
    setattr(module, names[index], value)


def _refuse(index: int, value: Any) -> None:
    raise IndexError(index)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet set
        return _MISSING


def _slots(kind: type) -> tuple[str, ...]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _is_ours(value: object) -> bool:
    """Whether this is a captured function: its calls are captured along, or have changed nothing
    that this function sees."""
    from dovetile.capture.decorator import JitFunction

    return isinstance(value, JitFunction)


def _is_foreign(kind: type) -> bool:
    """Whether a class comes from elsewhere than the user's program or our packages."""
    return _is_foreign_module(kind.__module__)


@cache
def _is_foreign_module(name: str | None) -> bool:
    root = (name or "").partition(".")[0]
    if root == "__main__":
        return False
    if not root or root == "dovetile" or root in sys.stdlib_module_names:
        return True
    if root.startswith("dovetile_"):
        return False
    path = getattr(sys.modules.get(root), "__file__", None) or ""
    return not _PACKAGE_FOLDERS.isdisjoint(path.split(os.sep))
