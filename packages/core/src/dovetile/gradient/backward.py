"""The reverse pass: from a loss through the graph to the nodes whose gradients are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dovetile.errors import GradientError
from dovetile.gradient.composed import composed
from dovetile.gradient.rules import RULES
from dovetile.gradient.store import written_gradients, written_values
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp

if TYPE_CHECKING:
    from dovetile.tensor.base import TensorBase


def gradients(loss: UOp, seed: UOp, targets: Sequence[UOp]) -> list[UOp | None]:
    """The gradient of sum(seed * loss) by each target node; None where the loss is independent."""
    wanted = set(targets)
    found = _propagate(loss, seed, lambda node: node in wanted)
    return [found.get(target) for target in targets]


def leaf_gradients(loss: UOp, seed: UOp) -> list[tuple[TensorBase, UOp]]:
    """(leaf Tensor, gradient of sum(seed * loss) by it) for every leaf that the loss depends on."""
    found = _propagate(loss, seed, lambda node: _leaf(node) is not None)
    totals: dict[int, tuple[TensorBase, UOp]] = {}
    for node, gradient in found.items():
        leaf = _leaf(node)
        if leaf is not None:  # several states of one buffer, before and after an assign
            known = totals.get(id(leaf))
            gradient = gradient.reshape(leaf.shape)
            totals[id(leaf)] = (leaf, gradient if known is None else known[1] + gradient)
    return list(totals.values())


def _leaf(node: UOp) -> TensorBase | None:
    """The leaf Tensor of which `node` is the memory."""
    from dovetile.tensor.base import buffer_of, is_detached, leaf_of

    if node.op is Op.BUFFER or node.op is Op.AFTER and not is_detached(node):
        buffer = buffer_of(node)
        return None if buffer is None else leaf_of(buffer)
    return None


def _sources(node: UOp) -> tuple[UOp, ...]:
    """The nodes that gradients flow to from `node`."""
    if node.op is Op.AFTER:
        if len(node.src) == 1 or _leaf(node) is not None:  # detached, or the value of a leaf
            return ()
        return (node.src[0], *written_values(node))
    shortcut = composed(node)
    return node.src if shortcut is None else shortcut.inputs


def _order(root: UOp) -> list[UOp]:
    """The float nodes that gradients may flow through, sources first; iterative."""
    order: list[UOp] = []
    seen = {root}
    stack = [root]
    waiting = [iter(_sources(root))]
    while stack:
        for source in waiting[-1]:
            if source not in seen and source.dtype.kind == "f":
                seen.add(source)
                stack.append(source)
                waiting.append(iter(_sources(source)))
                break
        else:
            order.append(stack.pop())
            waiting.pop()
    return order


def _propagate(loss: UOp, seed: UOp, is_target: Callable[[UOp], bool]) -> dict[UOp, UOp]:
    """The gradient by every target that the loss depends on."""
    order = _order(loss)
    needed: set[UOp] = set()
    targets: set[UOp] = set()
    for node in order:
        if is_target(node):
            targets.add(node)
            needed.add(node)
        elif not needed.isdisjoint(_sources(node)):
            needed.add(node)
    found: dict[UOp, UOp] = {}
    pending = {loss: seed} if loss in needed else {}
    for node in reversed(order):
        gradient = pending.pop(node, None)
        if gradient is None:
            continue
        if node in targets:
            found[node] = gradient
        sources = _sources(node)
        if needed.isdisjoint(sources):
            continue
        for source, part in zip(sources, _apply(node, gradient)):
            if part is not None and source in needed:
                known = pending.get(source)
                pending[source] = part if known is None else known + part
    return found


def _apply(node: UOp, gradient: UOp) -> Sequence[UOp | None]:
    """The gradients by the sources of `node`."""
    if node.op is Op.AFTER:
        return written_gradients(node, gradient)
    shortcut = composed(node)
    if shortcut is not None:
        return shortcut.rule(node, shortcut.inputs, gradient)
    rule = RULES.get(node.op)
    if rule is None:
        raise GradientError(f"[backward] {node.op.name} has no gradient; detach() its result")
    return rule(node, gradient)
