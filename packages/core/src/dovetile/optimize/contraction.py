"""Heuristics for sums of products: matrix products, convolutions and their gradients.

The shape of the code is always the same. One output axis that only operand B depends on becomes
vectors, one that only A depends on a column of a register tile: for every step of the sum the tile
loads a few vectors of B and multiplies each with elements of A, one accumulator per pair. B is
packed into a LOCAL panel where its elements are not contiguous or are read often enough. Which axes
and sizes: the least cycles by the model in `_cycles`, from the target's vector width and registers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp
from dovetile.optimize.analysis import Access, Analysis, access, extent, power_of_two_up_to, size
from dovetile.optimize.opts import Bind, Opt, Order, Split, Stage, contracted_product
from dovetile.plugins.specs import Capabilities

_LEAST_WORK = 16384


@dataclass(frozen=True)
class Tile:
    """A choice of axes and sizes."""

    operand: int
    vector: UOp
    lanes: int
    vectors: int
    column: UOp | None
    rows: int
    packed: bool
    cycles: float


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
    if not tiles:
        return None
    return _schedule(facts, capabilities, product, reduced, min(tiles, key=lambda t: t.cycles))


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
    inner = _loads_of(b)
    contiguous = all(x.stride(vector) == 1 for x in inner if vector in x.node.ranges)
    plain = b.op is Op.LOAD and len(b.src) == 1
    width = lanes * vectors
    blocks_v = -(-size(vector) // width)
    blocks_c = -(-size(column) // rows)
    steps = extent(tuple(r for r in product.ranges if r not in (vector, column)))
    # Two multiply-adds, two loads a cycle; four cycles until a sum can be added to again.
    per_step = max(rows * vectors / 2, (rows + vectors) / 2, 4.0) + 0.5
    cycles = steps * blocks_v * blocks_c * per_step
    reuse = blocks_c * extent(tuple(r for r in facts.free if r not in b.ranges and r is not column))
    panel = extent(reduced) * width * b.dtype.itemsize
    packed = (not contiguous or not plain or (reuse >= 6 and panel > 8192)) and (
        panel <= capabilities.local_bytes
    )
    elements = extent(tuple(b.ranges)) / size(vector) * blocks_v * width
    if packed:
        cycles += elements * (0.25 if contiguous and plain else 2.0)
    elif not contiguous:
        cycles += steps * blocks_v * blocks_c * vectors * lanes * 1.5
    outside = extent(facts.outputs)
    for s in facts.stores:
        cycles += outside * (2 / lanes if s.stride(vector) == 1 else 2.0)
    # Accesses of the column operand: near each other is better than far apart.
    far = any((x.stride(column) or 64) > 16 for x in _loads_of(product.src[1 - operand]))
    cycles *= 1.05 if far else 1.0
    return Tile(operand, vector, lanes, vectors, column, rows, packed, cycles)


def _loads_of(value: UOp) -> list[Access]:
    return [access(n) for n in value.toposort() if n.op is Op.LOAD]


def _schedule(
    facts: Analysis, capabilities: Capabilities, product: UOp, reduced: tuple[UOp, ...], tile: Tile
) -> list[Opt]:
    assert tile.column is not None
    b = product.src[tile.operand]
    v, c = tile.vector.arg.id, tile.column.arg.id
    fresh = max(r.arg.id for r in (*facts.outputs, *reduced)) + 1
    opts: list[Opt] = []

    def split(axis: int, n: int, into: int, ragged: str = "overlap") -> tuple[int, int]:
        """(outer size, outer id) after splitting an axis; the axis itself keeps `into`."""
        nonlocal fresh
        opts.append(Split(axis, into, ragged))
        fresh += 1
        return -(-n // into), fresh - 1

    panels, panel = split(v, size(tile.vector), tile.lanes * tile.vectors)
    _, unrolled = split(v, tile.lanes * tile.vectors, tile.lanes)
    blocks, block = split(c, size(tile.column), tile.rows)
    batch = [r for r in facts.free if r in b.ranges and r is not tile.vector]
    others = [r for r in facts.free if r not in b.ranges and r is not tile.column]
    sizes = {r.arg.id: size(r) for r in (*batch, *others)}
    sizes[panel], sizes[block] = panels, blocks
    loops = [*(r.arg.id for r in batch), panel, *(r.arg.id for r in others), block]
    parallel = _parallel_axis(loops, sizes, batch, capabilities, facts.work)
    shared: int | None = None
    if parallel is not None:
        axis, parts = parallel
        n = sizes[axis]
        if parts < n:
            _, outer = split(axis, n, -(-n // parts), "short")
            loops.insert(0, outer)
            axis = outer
        else:
            loops.remove(axis)
            loops.insert(0, axis)
        shared = axis
    opts.append(Order((*loops, c, unrolled, v)))
    opts.append(Bind(v, AxisKind.VECTOR))
    opts.append(Bind(unrolled, AxisKind.UNROLL))
    opts.append(Bind(c, AxisKind.UNROLL))
    last = reduced[-1]
    if tile.rows * tile.vectors * size(last) <= 48 and len(reduced) > 1:
        opts.append(Bind(last.arg.id, AxisKind.UNROLL))
    if tile.packed:
        held = tuple(r.arg.id for r in reduced if r in b.ranges)
        opts.append(Stage(tile.operand, (*held, unrolled, v)))
    if shared is not None:
        opts.append(Bind(shared, AxisKind.THREAD))
    return opts


def _parallel_axis(
    loops: list[int], sizes: dict[int, int], batch: list[UOp], capabilities: Capabilities, work: int
) -> tuple[int, int] | None:
    """(axis, number of parts) to run on several workers."""
    threads = capabilities.threads
    if "THREAD" not in capabilities.parallel_axes or threads == 1 or work < 200_000:
        return None
    named = [r.arg.id for r in batch]

    def balance(axis: int) -> float:
        """The share of time in which all workers are busy."""
        n = sizes[axis]
        return n / (math.ceil(n / threads) * threads)

    order = [*named, *(x for x in loops if x not in named)]
    best = max(order, key=lambda x: (round(balance(x), 1), x in named, sizes[x] >= 4 * threads))
    if sizes[best] < 2:
        return None
    parts = min(sizes[best], threads * (4 if best in named and sizes[best] >= 8 * threads else 1))
    return best, parts
