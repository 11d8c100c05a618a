"""Heuristics for contractions on targets of workgroups.

A workgroup computes a block of the output, each thread a tile of it in registers: a few vectors
along an axis that only operand B depends on by as many elements along one that only A does. For
some steps of the sum at a time, the blocks of both operands lie in LOCAL memory, which all threads
fill together; every element that comes from far is then used as often as the block is wide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import UOp
from dovetile.optimize.analysis import Analysis, access, extent, power_of_two_up_to, size
from dovetile.optimize.nest import Nest
from dovetile.optimize.opts import Bind, Opt, Order, Stage, contracted_product
from dovetile.optimize.pad import Pad
from dovetile.plugins.specs import Capabilities

# Elements of a block along each side, and of them those of one thread.
_SIDES = ((128, 8), (64, 8), (64, 4), (32, 4), (16, 2))
# Steps of the sum for which LOCAL memory holds both blocks.
_STEPS = 16
# Of these, how many are copies, so that elements are read while others are multiplied; and how many
# blocks LOCAL memory holds where they can be copied there ahead.
_COPIES, _DEPTH = 4, 3
# Threads of a warp beside each other, the others above.
_BESIDE = 8
# Sums shorter than this, and products of fewer points, are not worth filling LOCAL memory for.
_LEAST_STEPS, _LEAST_WORK = 8, 1 << 16


@dataclass(frozen=True)
class Block:
    """The rows of A and columns of B that a workgroup multiplies, and of these those of a thread.

    operand: which side of the product is B.
    """

    operand: int
    row: UOp
    column: UOp
    rows: int
    columns: int
    down: int
    across: int

    @property
    def threads(self) -> int:
        return self.rows // self.down * (self.columns // self.across)


def group_tile_opts(facts: Analysis, capabilities: Capabilities) -> list[Opt] | None:
    """The schedule of a contraction, or None where the kernel is none (or too small to matter)."""
    product = contracted_product(facts.kernel)
    if product is None or not facts.idempotent or len(facts.reductions) != 1:
        return None
    reduced = facts.reductions[0].src[1:]
    constant = all(r.src[0].is_const for r in (*facts.outputs, *reduced))
    if not constant or extent(product.ranges) < _LEAST_WORK or extent(reduced) < _LEAST_STEPS:
        return None
    best = min(
        _blocks(facts, capabilities, product), key=lambda b: _price(b, facts, capabilities),
        default=None,
    )  # fmt: skip
    return None if best is None else _BlockNest(facts, capabilities, product, best).opts()


def _blocks(facts: Analysis, capabilities: Capabilities, product: UOp) -> Iterator[Block]:
    for operand in (0, 1):
        a, b = product.src[1 - operand], product.src[operand]
        rows = [r for r in facts.free if r in a.ranges and r not in b.ranges]
        columns = [r for r in facts.free if r in b.ranges and r not in a.ranges]
        # Neighbouring threads write neighbouring elements.
        along = [r for r in columns if any(s.stride(r) == 1 for s in facts.stores)]
        for row in rows:
            for column in along or columns:
                for m, down in _SIDES:
                    for n, across in _SIDES:
                        block = Block(operand, row, column, m, n, down, across)
                        fits = m <= size(row) and n <= size(column)
                        if fits and block.threads <= capabilities.group_threads:
                            yield block


def _price(block: Block, facts: Analysis, capabilities: Capabilities) -> float:
    """Time for each step of the sum, in multiply-adds of all threads of a worker."""
    groups = extent(facts.outputs) // (size(block.row) * size(block.column))
    groups *= -(-size(block.row) // block.rows) * -(-size(block.column) // block.columns)
    rounds = -(-groups // capabilities.threads)
    # A thread reads down + across elements for down * across products; the block comes from afar.
    area = block.rows * block.columns
    reads = area * (1 / block.down + 1 / block.across)
    few = max(1.0, 128 / block.threads)
    # Results that do not lie side by side are written one by one.
    single = 0 if any(s.stride(block.column) == 1 for s in facts.stores) else 4 * area
    once = single / extent(facts.reductions[0].src[1:])
    return rounds * (area * few + reads + 4 * (block.rows + block.columns) + once)


class _BlockNest(Nest):
    """The loops around and inside of a block."""

    def __init__(
        self, facts: Analysis, capabilities: Capabilities, product: UOp, block: Block
    ) -> None:
        super().__init__(facts, capabilities)
        self.product, self.block = product, block
        self.reduced = facts.reductions[0].src[1:]
        self.loops: list[int] = []
        """The loops around what LOCAL memory holds."""
        self.copied: list[int] = []
        """Steps of the sum that are copies, not a loop."""

    def opts(self) -> list[Opt]:
        block = self.block
        row, column = block.row.arg.id, block.column.arg.id
        lanes = min(self.capabilities.vector_bytes // self.facts.itemsize, block.across)
        columns = self.split(column, block.columns)
        vectors = self.split(column, lanes)
        across = self.group(vectors, block.columns // block.across)
        rows = self.split(row, block.rows)
        near = min(lanes, block.down)
        pieces = self.split(row, near)
        down = self.group(pieces, block.rows // block.down)
        # A warp is a block as well, so that few different elements are read at a time.
        beside = self.group(vectors, _BESIDE)
        above = self.group(pieces, max(self.capabilities.warp // _BESIDE, 1))
        steps = self._steps()

        tile = [x for x in (down, row, across, column) if x is not None]
        threads = [x for x in (above, beside, pieces, vectors) if x is not None]
        others = [r.arg.id for r in self.facts.outputs if r not in (block.row, block.column)]
        grid = [*others, rows, columns]
        opts: list[Opt] = [*self.splits, Order((*grid, *threads, *tile))]
        opts += [Bind(x, AxisKind.GROUP) for x in grid]
        opts += [Bind(x, AxisKind.LOCAL) for x in threads]
        opts += [Bind(x, AxisKind.UNROLL) for x in tile if x != column]
        opts += [Bind(x, AxisKind.UNROLL) for x in self.copied]
        opts.append(Bind(column, AxisKind.VECTOR))
        of_a = [x for x in (down, above, pieces, row) if x is not None]
        of_b = [x for x in (across, beside, vectors, column) if x is not None]
        for operand, axes in ((1 - block.operand, of_a), (block.operand, of_b)):
            value = self.product.src[operand]
            held = [x for x, r in steps.items() if r in value.ranges]
            opts.append(Stage(operand, (*held, *axes), depth=self._depth()))
        return opts

    def _steps(self) -> dict[int, UOp]:
        """The axes of the steps that LOCAL memory holds, and those of the sum that they are of:
        along the axis that an operand has contiguous first."""
        held: dict[int, UOp] = {}
        left = _STEPS
        loads = [access(n) for n in self.facts.nodes if n in self._loads()]
        order = sorted(self.reduced, key=lambda r: (all(a.stride(r) != 1 for a in loads), -size(r)))
        for r in order:
            each = min(left, power_of_two_up_to(size(r)))
            if each < 2:
                self.loops += [r.arg.id] if size(r) > 1 else []
                continue
            if rest := -size(r) % each:
                self.splits.append(Pad(r.arg.id, each))
                self.sizes[r.arg.id] += rest
            outer = self.group(r.arg.id, each)
            self.loops += [] if outer is None else [outer]
            if each > _COPIES and not self.copied:
                held[self.split(r.arg.id, _COPIES)] = r
                self.copied.append(r.arg.id)
            held[r.arg.id] = r
            left //= each
        return held

    def _depth(self) -> int:
        """For how many steps of the only loop around a block LOCAL memory holds the operands, which
        are copied there ahead, as they are."""
        plain = all(s.op is Op.LOAD and s.dtype.itemsize >= 4 for s in self.product.src)
        ahead = plain and len(self.loops) == 1 and self.capabilities.asynchronous_copies
        return _DEPTH if ahead else 1

    def _loads(self) -> set[UOp]:
        return {a.node for a in self.facts.loads if a.node.ranges & {*self.reduced}}
