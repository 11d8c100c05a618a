"""Heuristics for sums of products: matrix products, convolutions and their gradients.

The shape of the code is always the same. One output axis that only operand B depends on becomes
vectors, one that only A depends on a column of a register tile: for every step of the sum the tile
loads a few vectors of B and multiplies each with elements of A, one accumulator per pair. B is
packed into a LOCAL panel where its elements are not contiguous or are read often enough. Which axes
and sizes: the least cycles by the model in `_priced`, from the target's vector width and registers.
The loops around the tile, which keep its operands in the caches, are those of `blocking`.
"""

from __future__ import annotations

from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import reads_memory
from dovetile.optimize.analysis import (
    PAGE,
    Access,
    Analysis,
    access,
    extent,
    power_of_two_up_to,
    size,
)
from dovetile.optimize.blocking import Tile, schedule
from dovetile.optimize.opts import Opt, contracted_product
from dovetile.optimize.unit_tiles import unit_opts, unit_tiles
from dovetile.plugins.specs import Capabilities

# Multiply-adds from which on a tile pays for its compilation: plain loops add to one sum after the
# other, which at this size takes three times as long, and longer than the launch.
_LEAST_WORK = 4096
# Cycles to get a cache line from the next cache, while others are on their way.
_LINE = 0.5
# What the first access to a page costs, in cache lines.
_PAGE_LINES = 16


def contraction_opts(facts: Analysis, capabilities: Capabilities) -> list[Opt] | None:
    """The schedule of a contraction, or None where the kernel is none (or too small to matter)."""
    product = contracted_product(facts.kernel)
    if product is None or not facts.idempotent or capabilities.vector_bytes == 0:
        return None
    sums = [r for r in facts.reductions if product.ranges & set(r.src[1:])]
    if len(facts.reductions) != 1 or extent(product.ranges) < _LEAST_WORK:
        return None
    reduced = sums[0].src[1:]
    tiles = [
        tile
        for operand in (0, 1)
        for vector in facts.free
        for tile in _tiles(facts, capabilities, product, reduced, operand, vector)
    ]
    units = list(unit_tiles(facts, capabilities, product, reduced))
    if units:
        best = min(units, key=lambda t: t.cycles)
        if all(best.cycles < tile.cycles for tile in tiles):
            return unit_opts(facts, capabilities, best)
    if not tiles:
        return None
    return schedule(facts, capabilities, product, reduced, min(tiles, key=lambda t: t.cycles))


def _tiles(
    facts: Analysis,
    capabilities: Capabilities,
    product: UOp,
    reduced: tuple[UOp, ...],
    operand: int,
    vector: UOp,
) -> list[Tile]:
    b, a = product.src[operand], product.src[1 - operand]
    if vector not in b.ranges or vector in a.ranges:
        return []
    columns = [r for r in facts.free if r in a.ranges and r not in b.ranges]
    if not columns:
        return []
    lanes_most = capabilities.vector_bytes // facts.itemsize
    lanes = min(lanes_most, power_of_two_up_to(size(vector)))
    found = []
    for vectors in (1, 2, 3, 4):
        if vectors * lanes > size(vector):
            break
        for column in columns:
            most = max((capabilities.vector_registers - vectors - 2) // vectors, 1)
            for rows in _row_choices(size(column), most):
                found.append(
                    _priced(facts, capabilities, product, reduced, operand, vector, lanes,
                            vectors, column, rows)
                )  # fmt: skip
    return found


def _row_choices(n: int, most: int) -> list[int]:
    divisors = [d for d in range(1, min(n, most) + 1) if n % d == 0]
    return sorted({max(divisors), min(n, most)})


def _priced(
    facts: Analysis, capabilities: Capabilities, product: UOp, reduced: tuple[UOp, ...],
    operand: int, vector: UOp, lanes: int, vectors: int, column: UOp, rows: int,
) -> Tile:  # fmt: skip
    b = product.src[operand]
    width = lanes * vectors
    blocks_c = -(-size(column) // rows)
    inner = _loads_of(b)
    contiguous = all(x.stride(vector) == 1 for x in inner if vector in x.node.ranges)
    source = b.src[0] if b.op is Op.CAST else b
    # A cast is done where an element is read, if that happens but once.
    plain = reads_memory(source) and (source is b or blocks_c == 1)
    panel = extent(reduced) * width * b.dtype.itemsize
    blocks_v = -(-size(vector) // width)
    steps = extent(tuple(r for r in product.ranges if r not in (vector, column)))
    # Two multiply-adds, somewhat less than two loads a cycle, and each load takes some of the front
    # end's slots from products; four cycles until a sum can be added to again.
    loads = rows + vectors
    per_step = max(rows * vectors / 2 + loads / 4, loads / 1.7, 4.0)
    cycles = steps * blocks_v * blocks_c * per_step
    reuse = blocks_c * extent(tuple(r for r in facts.free if r not in b.ranges and r is not column))
    dense = contiguous and plain and _is_panel(inner[0], reduced, width)
    packed = (not contiguous or not plain or (reuse >= 6 and panel > 8192 and not dense)) and (
        panel <= capabilities.local_bytes // 2
    )
    elements = extent(tuple(b.ranges)) / size(vector) * blocks_v * width
    if packed:
        cycles += elements * (0.25 if contiguous and plain else 2.0)
    elif not contiguous:
        cycles += steps * blocks_v * blocks_c * vectors * lanes * 1.5
    outside = extent(facts.outputs)
    for s in facts.stores:
        cycles += outside * (2 / lanes if s.stride(vector) == 1 else 6.0)
    columns = _loads_of(product.src[1 - operand])
    lines = max((_lines(x, column, reduced[-1], rows, capabilities) for x in columns), default=0.0)
    cycles += steps * blocks_v * blocks_c * lines * _LINE
    return Tile(operand, vector, lanes, vectors, column, rows, packed, cycles)


def _is_panel(load: Access, reduced: tuple[UOp, ...], width: int) -> bool:
    """Whether the steps of the sum follow each other in memory, vector after vector."""
    steps = sorted((load.stride(r) or 0, size(r)) for r in reduced if r in load.node.ranges)
    for stride, count in steps:
        if stride != width:
            return False
        width *= count
    return True


def _lines(
    load: Access, column: UOp, innermost: UOp, rows: int, capabilities: Capabilities
) -> float:
    """Cache lines that a step of the sum is the first to touch, for a column of `rows` elements:
    of each line, the innermost loop uses as many neighbours as it has."""
    in_line = max(capabilities.line_bytes // load.node.dtype.itemsize, 1)
    down, along = load.stride(column), load.stride(innermost)
    touched = rows if down is None else min(1 + rows * abs(down) / in_line, rows)
    far = down is not None and abs(down) * load.node.dtype.itemsize >= PAGE
    shared = 1.0 if along is None else min(max(abs(along) / in_line, 1 / size(innermost)), 1.0)
    if far:
        # Every line on a page of its own: prefetchers start anew, and each row needs an entry of
        # the small table of pages, with every pass of the innermost loop.
        return touched * (2 * shared + min(0.5, _PAGE_LINES / size(innermost)))
    return touched * shared * (2 if down is None else 1)


def _loads_of(value: UOp) -> list[Access]:
    return [access(n) for n in value.toposort() if n.op is Op.LOAD]
