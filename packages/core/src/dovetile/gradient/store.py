"""Gradients through memory: a state AFTER a STORE depends on the state before and on the value."""

from __future__ import annotations

from dovetile import dtypes
from dovetile.errors import GradientError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor import placement
from dovetile.tensor.nodes import constant, inverse


def written_values(node: UOp) -> list[UOp]:
    """The values that the STOREs of an AFTER write."""
    return [effect.src[1] for effect in node.src[1:] if effect.op is Op.STORE]


def written_gradients(node: UOp, g: UOp) -> list[UOp | None]:
    """Gradients by the state before and by each value written."""
    stores = [effect for effect in node.src[1:] if effect.op is Op.STORE]
    if len(stores) > 1:
        raise GradientError("[backward] several writes at once; their order is not known")
    (store,) = stores
    target, op = store.src[0], store.arg
    if op not in (None, Op.ADD):
        raise GradientError(f"[backward] a write with {op.name} has no gradient; detach() it")
    chain = []
    while target is not node.src[0]:
        chain.append(target)
        target = target.src[0]
    seen = g
    for link in reversed(chain):
        seen = link.replace(src=(seen, *link.src[1:]), dtype=seen.dtype)
    before = g if op is Op.ADD else _erased(g, chain)
    return [before, seen]


def held(value: UOp, device: str | None) -> UOp:
    """The state of a new flat buffer filled with `value`."""
    buffer = placement.reserve(value.size, value.dtype, device or placement.default_device_name())
    return buffer.after(buffer.reshape(value.shape).store(value))


def _erased(g: UOp, chain: list[UOp]) -> UOp | None:
    """`g` with 0 wherever the view `chain` (outermost link first) leads; None if everywhere."""
    if all(link.op in (Op.RESHAPE, Op.PERMUTE, Op.FLIP, Op.AFTER) for link in chain):
        return None
    if any(link.op is Op.INDEX for link in chain):
        copy = held(g, g.device)
        target = copy
        for link in reversed(chain):
            target = link.replace(src=(target, *link.src[1:]), dtype=g.dtype)
        return copy.after(target.store(constant(0.0, g.dtype, target.shape)))
    hit = constant(True, dtypes.bool_, chain[0].shape)
    for link in chain:
        shape = link.src[0].shape
        if link.op is Op.RESHAPE:
            hit = hit.reshape(shape)
        elif link.op is Op.PERMUTE:
            hit = hit.permute(inverse(link.arg))
        elif link.op is Op.FLIP:
            hit = hit.flip(link.arg)
        elif link.op is Op.SHRINK:
            hit = hit.pad(tuple((a, n - b) for (a, b), n in zip(link.arg, shape)))
    return hit.where(constant(0.0, g.dtype, g.shape), g)
