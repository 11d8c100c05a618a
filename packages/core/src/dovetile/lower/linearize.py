"""The order of a program: a graph of effects and loops becomes a list.

A value stands in the innermost loop it depends on, which hoists everything else out. Inside a loop
the order is that of the graph: sources before users; a nested loop stands where its END does.
"""

from __future__ import annotations

from dovetile.errors import GraphError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort


def linearize(sink: UOp) -> list[UOp]:
    """The nodes in order of execution; every RANGE is closed by an END (last effect, range)."""
    nodes = toposort(sink)
    depth, parent = _nesting(nodes)
    blocks: dict[UOp | None, list[UOp]] = {None: []}
    for node in nodes:
        if node.op is Op.RANGE:
            continue
        blocks.setdefault(_deepest(node, depth), []).append(node)
    program: list[UOp] = []

    def emit(block: UOp | None) -> None:
        for node in blocks.get(block, ()):
            if node.op is not Op.END:
                program.append(node)
                continue
            ranges = node.src[1:]
            program.append(ranges[0])
            for outer, inner in zip(ranges, ranges[1:]):
                emit(outer)
                program.append(inner)
            emit(ranges[-1])
            for r in reversed(ranges):
                program.append(UOp(Op.END, node.dtype, (node.src[0], r)))

    emit(None)
    return program


def _deepest(node: UOp, depth: dict[UOp, int]) -> UOp | None:
    return max(node.ranges, key=depth.__getitem__, default=None)


def _nesting(nodes: list[UOp]) -> tuple[dict[UOp, int], dict[UOp, UOp | None]]:
    depth: dict[UOp, int] = {}
    parent: dict[UOp, UOp | None] = {}
    for node in reversed(nodes):
        if node.op is not Op.END:
            continue
        outer = _deepest(node, depth)
        for r in node.src[1:]:
            if r in depth:
                raise GraphError("[linearize] a RANGE is closed by two ENDs")
            parent[r] = outer
            depth[r] = depth[outer] + 1 if outer is not None else 0
            outer = r
    return depth, parent
