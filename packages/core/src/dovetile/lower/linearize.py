"""The order of a program: a graph of effects and loops becomes a list.

A value stands in the innermost loop it depends on, which hoists everything else out. Inside a loop
the order is that of the graph: sources before users; a nested loop stands where its END does. A
loop that only adds to registers goes step by step: the order of the graph, one register after the
other, would have the operands of all steps wait in registers of their own.
"""

from __future__ import annotations

from dovetile.errors import GraphError
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.linear import buffer_of


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
    blocks = {loop: _step_by_step(block) for loop, block in blocks.items()}
    program: list[UOp] = []

    def emit(block: UOp | None) -> None:
        for node in blocks.get(block, ()):
            if node.op is Op.END:
                program.append(node.src[1])
                emit(node.src[1])
            program.append(node)

    emit(None)
    return program


def _step_by_step(block: list[UOp]) -> list[UOp]:
    """The nodes such that every register has its first update before any has its second; what does
    not depend on registers stands before its first use."""
    stores = [n for n in block if n.op is Op.STORE]
    if len(stores) < 2 or any(n.op is Op.END for n in block):
        return block
    if not all(buffer_of(n.src[0]).arg.space is AddressSpace.REG for n in stores):
        return block
    # How many nodes after the load of a register each one stands.
    step: dict[UOp, int] = {}
    for node in block:
        before = [step[s] for s in node.src if s in step]
        if before:
            step[node] = max(before) + 1
        elif node.op is Op.LOAD and buffer_of(node.src[0]).arg.space is AddressSpace.REG:
            step[node] = 0
    place = dict(step)
    for node in reversed(block):
        used = place.setdefault(node, 0)
        for s in node.src:
            if s not in step:
                place[s] = min(place.get(s, used), used)
    return sorted(block, key=place.__getitem__)


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
