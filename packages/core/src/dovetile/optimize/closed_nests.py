"""Heuristics for dependent reductions that share a loop: attention, say.

Lanes run along the rows, for which everything is held: maxima, corrections and sums are then
elementwise work on vectors, and of keys and values each element is used for a whole vector, without
being packed. A nest that sums up products is a register tile, as in `contraction`: a few vectors of
rows by a few keys, or columns.
"""

from __future__ import annotations

from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.uop import UOp, nodes_of, toposort
from dovetile.lower.linear import buffer_of
from dovetile.optimize.analysis import Analysis, extent, size
from dovetile.optimize.online import Online
from dovetile.optimize.opts import Bind, Opt, Order, Split, apply_opts, next_id, output_axes
from dovetile.optimize.rescale import Closing, closing
from dovetile.plugins.specs import Capabilities

_PARALLEL_WORK = 200_000
# Vectors of rows in a register tile, and in a nest of elementwise work.
_VECTORS, _COPIES = 4, 2
_ROWS, _BLOCK = 64, 64


def closed_opts(facts: Analysis, capabilities: Capabilities) -> list[Opt] | None:
    """The schedule of a kernel whose reductions can share a loop, or None for any other kernel."""
    if sum(n.arg is Op.MAX for n in facts.reductions) == 0 or capabilities.vector_bytes == 0:
        return None
    found = closing(facts.kernel)
    if found is None:
        return None
    lanes = capabilities.vector_bytes // facts.itemsize
    rows = rows_of(found, facts.free)
    if rows is None or size(rows) < lanes:
        return None
    columns = [r for r in facts.free if r not in found.rows]
    outside = [r for r in facts.free if r in found.rows and r is not rows]
    opts: list[Opt] = []
    held = min(_ROWS, size(rows) // lanes * lanes)
    blocks = None
    if held < size(rows):
        blocks = next_id(facts.kernel)
        opts.append(Split(rows.arg.id, held))
    loops = [r.arg.id for r in outside] + ([blocks] if blocks is not None else [])
    opts.append(Order((*loops, rows.arg.id, *(r.arg.id for r in columns))))
    opts.append(Online(rows.arg.id, _block(size(found.axis))))
    opts += _nests(apply_opts(facts.kernel, opts), lanes, capabilities)
    share = _share(apply_opts(facts.kernel, opts), loops, capabilities)
    return opts + share


def rows_of(found: Closing, outputs: tuple[UOp, ...]) -> UOp | None:
    """The longest of the axes that only the scores depend on, not the values they weigh."""
    free = [r for r in outputs if r in found.rows and r.src[0].is_const]
    columns = frozenset(outputs) - found.rows
    shared = [
        n.ranges for n in nodes_of(found.kernel) if n.op is Op.LOAD and n.ranges & columns
    ]
    return max((r for r in free if not any(r in s for s in shared)), key=size, default=None)


def _block(n: int) -> int:
    """A divisor of the reduced axis near the usual size, where there is one."""
    if n <= _BLOCK:
        return n
    return next((b for b in range(_BLOCK * 3 // 2, _BLOCK * 2 // 3, -1) if n % b == 0), _BLOCK)


def _nests(kernel: UOp, lanes: int, capabilities: Capabilities) -> list[Opt]:
    """Vectors and register tiles for each nest around stores to held memory."""
    opts: list[Opt] = []
    fresh = next_id(kernel)
    for end in nodes_of(kernel):
        if end.op is not Op.END or len(end.src) < 2 or end.src[1].arg.kind is not AxisKind.LOOP:
            continue
        if end is kernel.src[0]:
            continue
        *others, rows = end.src[1:]
        inside = toposort(end.src[0], lambda n: n.op not in (Op.AFTER, Op.STAGE))
        products = any(n.op is Op.REDUCE and n.src[0].op is Op.MUL for n in inside)
        vectors = min(_VECTORS if others else 4, size(rows) // lanes)
        while size(rows) % (vectors * lanes):
            vectors -= 1
        if vectors * lanes < size(rows):
            opts.append(Split(rows.arg.id, vectors * lanes))
            fresh += 1
        if vectors > 1:
            opts += [Split(rows.arg.id, lanes), Bind(fresh, AxisKind.UNROLL)]
            fresh += 1
        opts.append(Bind(rows.arg.id, AxisKind.VECTOR))
        if others and products:
            most = (capabilities.vector_registers - vectors - 2) // vectors
            column = others[-1]
            n = max(d for d in range(1, min(most, size(column)) + 1) if size(column) % d == 0)
            if n > 1:
                if n < size(column):
                    opts.append(Split(column.arg.id, n))
                    fresh += 1
                opts.append(Bind(column.arg.id, AxisKind.UNROLL))
    return opts


def _share(kernel: UOp, loops: list[int], capabilities: Capabilities) -> list[Opt]:
    """The loop that is shared out among the workers."""
    threads = capabilities.threads
    if "THREAD" not in capabilities.parallel_axes or threads < 2 or not loops:
        return []
    named = {r.arg.id: r for r in output_axes(kernel)}
    best = next((i for i in loops if size(named[i]) >= 4 * threads), None)
    best = best if best is not None else max(loops, key=lambda i: size(named[i]))
    return [Bind(best, AxisKind.THREAD)] if size(named[best]) > 1 else []
