"""Quotients and powers that need not be exact.

What is rounded to float16 or bfloat16 keeps less than half of float32's digits. Where only such
results come of a DIV or an EXP2, it is marked "approximate", and a target with a faster instruction
for it than for the exact operation takes that.
"""

from __future__ import annotations

from dovetile import dtypes
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.linear import buffer_of

_SMALL = (dtypes.float16, dtypes.bfloat16)
# Operations that pass on errors of a few units in the last place about as they are.
_PASSING = frozenset(
    {Op.ADD, Op.MUL, Op.DIV, Op.WHERE, Op.MAX, Op.MIN, Op.EXP2, Op.VECTOR, Op.EXTRACT, Op.REDUCE,
     Op.COMBINE, Op.GROUP, Op.MATMUL, Op.SHUFFLE}
)  # fmt: skip
_MARKED = (Op.DIV, Op.EXP2)


def loosen(sink: UOp) -> UOp:
    """`sink` with every DIV and EXP2 marked of which only small floats come."""
    nodes = nodes_of(sink)
    if not any(node.op in _MARKED for node in nodes):
        return sink
    exact: set[UOp] = set()
    # What goes through registers comes out where they are read.
    memory, found = None, frozenset()
    while memory != found:
        memory = found
        for node in reversed(nodes):
            passing = node.op in _PASSING and node not in exact
            if node.op is Op.STORE and buffer_of(node.src[0]).arg.space is AddressSpace.REG:
                passing = buffer_of(node.src[0]) not in memory
            if not passing and node.dtype.scalar not in _SMALL:
                exact.update(node.src)
        found = frozenset(buffer_of(n.src[0]) for n in exact if n.op is Op.LOAD)
    done: dict[UOp, UOp] = {}
    for node in nodes:
        new = node.with_sources(tuple([done[s] for s in node.src]))
        single = node.dtype.scalar is dtypes.float32 and node not in exact
        if node.op in _MARKED and (single or node.dtype.scalar in _SMALL):
            new = new.replace(arg="approximate")
        done[node] = new
    return done[sink]
