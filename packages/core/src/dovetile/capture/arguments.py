"""Trees of arguments and results: which parts are tensors, and what decides about a capture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dovetile.errors import JitError
from dovetile.tensor.base import TensorBase

_PLAIN = (int, str, bool, bytes, type(None), type(Ellipsis), complex)


class _Same:
    """An object as part of a key: equal to itself alone, and kept alive by the key."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)


class Arguments:
    """The arguments of a call.

    tensors: all Tensors in them, each once, in order. objects: those whose attributes the function
    may read. key: hashable; everything else that decides what the function does. is_plain: they
    are Tensors and immutable values, nothing that holds others.
    """

    def __init__(self, args: tuple, kwargs: Mapping[str, Any]) -> None:
        self.args = args
        self.kwargs = kwargs
        self.tensors: list[TensorBase] = []
        self.objects: list[object] = []
        self.is_plain = not kwargs and all(
            isinstance(value, TensorBase) or type(value) in _PLAIN or type(value) is float
            for value in args
        )
        self._numbers: dict[int, int] = {}
        key: list[object] = [self._key(value) for value in args]
        for name in sorted(kwargs) if len(kwargs) > 1 else kwargs:
            key += (name, self._key(kwargs[name]))
        self.key = (len(args), *key)

    def _key(self, value: Any) -> object:
        if isinstance(value, TensorBase):
            return self._tensor_key(value)
        kind = type(value)
        if kind in _PLAIN:
            return (kind, value)
        if kind is float:
            return (kind, repr(value))  # tells 0.0 from -0.0, and knows NaN again
        if isinstance(value, (tuple, list)):
            return (kind, *[self._key(item) for item in value])
        if isinstance(value, Mapping):
            return (kind, *[(self._key(k), self._key(v)) for k, v in value.items()])
        if isinstance(value, np.ndarray):
            raise JitError(
                f"[jit] an argument is a NumPy array of shape {value.shape}; pass Tensors: the "
                "captured step would go on using the values of the array at its capture"
            )
        if isinstance(value, np.generic):
            return (kind, repr(value))
        self.objects.append(value)
        return _Same(value)

    def _tensor_key(self, tensor: TensorBase) -> object:
        number = self._numbers.get(id(tensor))
        if number is not None:
            return number
        self._numbers[id(tensor)] = len(self.tensors)
        self.tensors.append(tensor)
        if tensor.requires_grad and not tensor.is_leaf:
            raise JitError(
                f"[jit] an argument of shape {tensor.shape} was computed from tensors that require "
                "gradients; pass it with .detach(): gradients do not flow into a captured function"
            )
        node = tensor.uop
        return (node.shape, node.dtype.name, node.device, tensor.requires_grad)

    def replaced(self, stand_ins: Mapping[int, TensorBase]) -> tuple[tuple, dict[str, Any]]:
        """(args, kwargs) with other Tensors in the place of some, which are given by identity."""

        def replace(leaf: Any) -> Any:
            return stand_ins.get(id(leaf), leaf)

        return (
            tuple(map_tree(replace, value) for value in self.args),
            {name: map_tree(replace, value) for name, value in self.kwargs.items()},
        )


def map_tree(change: Callable[[Any], Any], tree: Any) -> Any:
    """A tree of tuples, lists and dicts with its leaves changed."""
    if isinstance(tree, tuple):
        items = [map_tree(change, item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    if isinstance(tree, list):
        return [map_tree(change, item) for item in tree]
    if isinstance(tree, dict):
        return {key: map_tree(change, item) for key, item in tree.items()}
    return change(tree)


def result_tensors(result: Any) -> list[TensorBase]:
    """The Tensors of a result, each once. Raises JitError for other values than None."""
    found: dict[int, TensorBase] = {}

    def visit(leaf: Any) -> None:
        if isinstance(leaf, TensorBase):
            found[id(leaf)] = leaf
        elif leaf is not None:
            raise JitError(
                f"[jit] the function returns {type(leaf).__name__} {_shortened(leaf)}; it must "
                "return Tensors (or None, or tuples, lists and dicts of them): Python values are "
                "not computed again by a replay"
            )

    map_tree(visit, result)
    return list(found.values())


def detached(result: Any, made: set[int]) -> Any:
    """A result without the graphs of those of its Tensors that are given by identity."""

    def leaf(value: Any) -> Any:
        return value.detach() if id(value) in made and value.requires_grad else value

    return map_tree(leaf, result)


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
