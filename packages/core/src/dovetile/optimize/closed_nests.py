"""Heuristics for dependent reductions that share a loop: attention, say.

Lanes run along the rows, for which everything is held: maxima, corrections and sums are then
elementwise work on vectors, and of keys and values each element is used for a whole vector, without
being packed. A nest that sums up products is a register tile, as in `contraction`: a few vectors of
rows by a few keys, or columns.
"""

from __future__ import annotations

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp, nodes_of, toposort
from dovetile.optimize.analysis import Analysis, size
from dovetile.optimize.online import Online
from dovetile.optimize.opts import Bind, Opt, Order, Split, apply_opts, next_id, output_axes
from dovetile.optimize.rescale import Closing, closing
from dovetile.plugins.specs import Capabilities

_PARALLEL_WORK = 200_000
# Vectors of rows in a register tile, and in a nest of elementwise work.
_VECTORS, _COPIES = 4, 2
_ROWS, _BLOCK = 64, 64


def closable(kernel: UOp, capabilities: Capabilities) -> Closing | None:
    """How the reductions of a kernel share one loop where that suits the target: where there are
    rows for the lanes of a vector. None elsewhere."""
    found = closing(kernel) if capabilities.vector_bytes else None
    rows = _rows(found) if found is not None else None
    fits = rows is not None and size(rows) * found.score.dtype.itemsize >= capabilities.vector_bytes
    return found if fits else None


def closed_opts(facts: Analysis, capabilities: Capabilities) -> list[Opt] | None:
    """The schedule of a kernel whose reductions can share a loop, or None for any other kernel."""
    if not facts.idempotent or all(n.arg is not Op.MAX for n in facts.reductions):
        return None
    found = closable(facts.kernel, capabilities)
    rows = _rows(found) if found is not None else None
    if found is None or rows is None:
        return None
    lanes = capabilities.vector_bytes // facts.itemsize
    held = min(_ROWS, size(rows) // lanes * lanes)
    opts: list[Opt] = []
    loops = [r.arg.id for r in facts.outputs if r in found.rows and r is not rows]
    if held < size(rows):
        loops.append(next_id(facts.kernel))
        opts.append(Split(rows.arg.id, held))
    columns = [r.arg.id for r in facts.outputs if r not in found.rows]
    opts.append(Order((*loops, rows.arg.id, *columns)))
    opts.append(Online(rows.arg.id, _block(size(found.axis))))
    opts += _nests(apply_opts(facts.kernel, opts), lanes, capabilities)
    if facts.worth_sharing(capabilities, _PARALLEL_WORK):
        opts += _share(apply_opts(facts.kernel, opts), loops, capabilities)
    return opts


def _rows(found: Closing) -> UOp | None:
    """The longest of the output axes that the scores depend on, and not what they are weights of:
    for each of its points the same values are read."""
    columns = frozenset(output_axes(found.kernel)) - found.rows
    values = [n.ranges for n in nodes_of(found.kernel) if n.op is Op.LOAD and n.ranges & columns]
    free = [r for r in found.rows if r.src[0].is_const and not any(r in v for v in values)]
    return max(free, key=lambda r: (size(r), -r.arg.id), default=None)


def _block(n: int) -> int:
    """A divisor of the reduced axis near the usual size, where there is one."""
    near = range(min(_BLOCK * 3 // 2, n), _BLOCK * 2 // 3, -1)
    return next((b for b in near if n % b == 0), min(_BLOCK, n))


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
    if not loops:
        return []
    named = {r.arg.id: r for r in output_axes(kernel)}
    best = next((i for i in loops if size(named[i]) >= 4 * threads), None)
    best = best if best is not None else max(loops, key=lambda i: size(named[i]))
    return [Bind(best, AxisKind.THREAD)] if size(named[best]) > 1 else []
