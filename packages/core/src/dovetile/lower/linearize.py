"""The order of a program: a graph of effects and loops becomes a list.

A value stands in the innermost loop it depends on, which hoists everything else out. Inside a loop
the order is that of the graph: sources before users; a nested loop stands where its END does.
"""

from __future__ import annotations

from dovetile.errors import GraphError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, nodes_of


def linearize(sink: UOp) -> list[UOp]:
    """The nodes in order of execution; every RANGE is closed by an END (effect, range)."""
    nodes = nodes_of(_one_loop_each(sink))
    depth = _nesting(nodes)
    # Nearly all nodes inside a loop have the same set of ranges.
    innermost: dict[frozenset[UOp], list[UOp]] = {}
    blocks: dict[UOp | None, list[UOp]] = {None: []}
    for node in nodes:
        if node.op is Op.RANGE:
            continue
        block = innermost.get(node.ranges)
        if block is None:
            block = blocks.setdefault(_deepest(node, depth), [])
            innermost[node.ranges] = block
        block.append(node)
    program: list[UOp] = []

    def emit(block: UOp | None) -> None:
        for node in blocks.get(block, ()):
            if node.op is Op.END:
                program.append(node.src[1])
                emit(node.src[1])
            program.append(node)

    emit(None)
    return program


def _one_loop_each(sink: UOp) -> UOp:
    """The graph with an END for each RANGE: END(x, a, b) becomes END(END(x, b), a)."""
    done: dict[UOp, UOp] = {}
    for node in nodes_of(sink):
        src = tuple([done[s] for s in node.src])
        if node.op is Op.END and len(src) > 2:
            closed = src[0]
            for r in reversed(src[1:]):
                closed = closed.end(r)
            done[node] = closed
        else:
            done[node] = node.with_sources(src)
    return done[sink]


def _deepest(node: UOp, depth: dict[UOp, int]) -> UOp | None:
    return max(node.ranges, key=depth.__getitem__, default=None)


def _nesting(nodes: list[UOp]) -> dict[UOp, int]:
    """How many loops every RANGE stands in."""
    depth: dict[UOp, int] = {}
    for node in reversed(nodes):
        if node.op is not Op.END:
            continue
        outer = _deepest(node, depth)
        if node.src[1] in depth:
            raise GraphError("[linearize] a RANGE is closed by two ENDs")
        depth[node.src[1]] = depth[outer] + 1 if outer is not None else 0
    return depth
