"""Heuristics for dependent reductions that share a loop: attention, say.

Lanes run along the rows, for which everything is held: maxima, corrections and sums are then
elementwise work on vectors, and of keys and values each element is used for a whole vector, without
being packed. A nest that sums up products is a register tile, as in `contraction`: a few vectors of
rows by a few keys, or columns.
"""

from __future__ import annotations

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp, nodes_of, toposort
from dovetile.optimize.analysis import TILE_SPEED, Analysis, extent, size
from dovetile.optimize.closed_units import closed_units
from dovetile.optimize.online import Online
from dovetile.optimize.opts import Bind, Opt, Order, Split, apply_opts, next_id, output_axes
from dovetile.optimize.rescale import Closing, closing
from dovetile.plugins.specs import Capabilities

# Vectors of rows in a register tile.
_VECTORS = 4
# Rows that one loop holds everything for, and points of the reduced axis in a round: tiles of
# scores and weights, and blocks of both operands, stay in the first cache in turn.
_HELD, _BLOCK = 64, 64


def closable(kernel: UOp, capabilities: Capabilities) -> Closing | None:
    """How the reductions of a kernel share one loop, where that suits the target. None elsewhere:
    where scores are no sums, reading them again costs little; and lanes need as many rows."""
    if "GROUP" in capabilities.parallel_axes:
        found = closing(kernel)
        return None if found is None or closed_units(found, capabilities) is None else found
    vectors = capabilities.vector_bytes and "THREAD" in capabilities.parallel_axes
    found = closing(kernel) if vectors else None
    if found is None or found.top is None or not found.axis.src[0].is_const:
        return None
    inner = [n for n in toposort(found.score) if n.op is Op.REDUCE]
    rows = _rows(found)
    if not inner or rows is None:
        return None
    itemsize = found.score.dtype.itemsize
    columns = [r for r in output_axes(found.kernel) if r not in found.rows]
    widths = (extent(inner[-1].src[1:]), extent(tuple(columns)), 2 * _BLOCK)
    fits = _HELD * sum(widths) * itemsize <= capabilities.local_bytes
    return found if fits and size(rows) * itemsize >= capabilities.vector_bytes else None


def closed_opts(facts: Analysis, capabilities: Capabilities) -> list[Opt] | None:
    """The schedule of a kernel whose reductions can share a loop, or None for any other kernel."""
    if not facts.idempotent or all(n.arg is not Op.MAX for n in facts.reductions):
        return None
    found = closable(facts.kernel, capabilities)
    rows = _rows(found) if found is not None else None
    if found is None or rows is None:
        return None
    lanes = capabilities.vector_bytes // facts.itemsize
    held = min(_HELD, size(rows) // lanes * lanes)
    opts: list[Opt] = []
    loops = {r.arg.id: size(r) for r in facts.outputs if r in found.rows and r is not rows}
    if held < size(rows):
        loops[next_id(facts.kernel)] = -(-size(rows) // held)
        opts.append(Split(rows.arg.id, held))
    columns = [r.arg.id for r in facts.outputs if r not in found.rows]
    opts.append(Order((*loops, rows.arg.id, *columns)))
    opts.append(Online(rows.arg.id, _block(size(found.axis))))
    opts += _nests(apply_opts(facts.kernel, opts), lanes, capabilities)
    if facts.worth_sharing(capabilities, TILE_SPEED):
        opts += _share(loops, capabilities.threads)
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
    """Vectors along the rows for each nest around a store to held memory, and register tiles for
    those that sum up products."""
    opts: list[Opt] = []
    fresh = next_id(kernel)
    for end in nodes_of(kernel):
        if end.op is not Op.END or end is kernel.src[0] or end.src[1].arg.kind is AxisKind.REDUCE:
            continue
        *others, rows = end.src[1:]
        blocks = size(rows) // lanes
        vectors = max(n for n in range(1, _VECTORS + 1) if blocks % n == 0)
        if vectors < blocks:
            opts.append(Split(rows.arg.id, vectors * lanes))
            fresh += 1
        if vectors > 1:
            opts += [Split(rows.arg.id, lanes), Bind(fresh, AxisKind.UNROLL)]
            fresh += 1
        opts.append(Bind(rows.arg.id, AxisKind.VECTOR))
        inside = toposort(end.src[0], lambda n: n.op not in (Op.AFTER, Op.STAGE))
        if not others or not any(n.op is Op.REDUCE and n.arg is Op.ADD for n in inside):
            continue
        # As many points of the other axis as there are registers for; each once, so a divisor.
        most, column = (capabilities.vector_registers - vectors - 2) // vectors, others[-1]
        n = max(d for d in range(1, max(most, 1) + 1) if size(column) % d == 0)
        if 1 < n < size(column):
            opts.append(Split(column.arg.id, n))
            fresh += 1
        if n > 1:
            opts.append(Bind(column.arg.id, AxisKind.UNROLL))
    return opts


def _share(loops: dict[int, int], threads: int) -> list[Opt]:
    """Shares out the first of the loops with enough parts for all workers, or else the longest."""
    enough = [i for i, parts in loops.items() if parts >= 4 * threads]
    best = enough[0] if enough else max(loops, key=loops.__getitem__, default=None)
    return [] if best is None or loops[best] < 2 else [Bind(best, AxisKind.THREAD)]
