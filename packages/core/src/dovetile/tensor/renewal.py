"""New BUFFERs for memory whose content changes behind the graph's back, as in a replay."""

from __future__ import annotations

from collections.abc import Iterable

from dovetile.ir.held import forget_origin, realized
from dovetile.ir.uop import UOp, toposort
from dovetile.tensor import base
from dovetile.tensor.base import TensorBase


def renew(tensors: Iterable[TensorBase]) -> None:
    """Let these Tensors and their aliases know their memory by new BUFFERs.

    What was computed from the old BUFFERs is then never taken for the same of the new content.
    """
    for buffer in dict.fromkeys(t._buffer for t in tensors if t._buffer is not None):
        forget_origin(buffer)
        base._renew(buffer)


def renew_all() -> None:
    """New BUFFERs for all Tensors: nothing built from now on has been computed already.

    Lazy values move to the new BUFFERs too, so that writes to the memory still find them.
    """
    tensors = list(base._live)
    before = [t._buffer for t in tensors]
    lazy = [t for t in tensors if t._buffer is None and realized(t.uop) is t.uop]
    renew(tensors)
    moved: dict[UOp, UOp] = {}
    for tensor, old in zip(tensors, before):
        new = tensor._buffer
        if old is not None and new is not None and new is not old:
            moved[old] = new
    if moved:
        _move(lazy, moved)


def _move(tensors: list[TensorBase], moved: dict[UOp, UOp]) -> None:
    """Puts new BUFFERs in the place of old ones in lazy values."""

    def is_lazy(node: UOp) -> bool:
        return realized(node) is node

    done: dict[UOp, UOp] = dict(moved)
    for node in toposort([t.uop for t in tensors], enter=is_lazy):
        if node in done:
            continue
        if not node.src or not is_lazy(node):
            done[node] = node
        else:
            src = tuple([done[s] for s in node.src])
            done[node] = node if src == node.src else UOp(node.op, node.dtype, src, node.arg)
    for tensor in tensors:
        tensor.uop = done[tensor.uop]
