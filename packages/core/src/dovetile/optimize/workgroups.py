"""Heuristics for targets of workgroups: elementwise work, movement, and reductions of any axis.

Memory decides. Neighbouring threads get neighbouring elements, each a vector of them, along the
axis that most accesses have contiguous. Where that axis is reduced, the threads of a workgroup
reduce a row together, and what else is computed for the row they share out in the same way. Where
it is not, threads side by side reduce a column each, and others the further parts of the columns.
What remains of the output's axes are workgroups.
"""

from __future__ import annotations

from collections.abc import Iterable

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp
from dovetile.optimize.analysis import Access, Analysis, extent, power_of_two_up_to, size
from dovetile.optimize.nest import Nest
from dovetile.optimize.opts import Bind, GroupReduce, Opt, Order
from dovetile.plugins.specs import Capabilities

# Threads of a workgroup where nothing asks for more or fewer.
_THREADS = 256
# Vectors of a row that each thread reduces, and elements of a column.
_VECTORS, _ALONE = 2, 16
# Rounds of a loop that become copies, so that their loads are on their way together.
_ROUNDS = 8
# Points of all reduced axes that are copied instead.
_SMALL = 9
# A reduction that is so many times less work than the others is done again by every workgroup.
_AGAIN = 16
# Rows that a thread reduces together where they share what they are multiplied with, and vectors of
# each.
_SHARED_ROWS, _SHARED_VECTORS = 2, 8


def workgroup_opts(facts: Analysis, capabilities: Capabilities) -> list[Opt]:
    """The schedule of a kernel that is no contraction."""
    return _Workgroup(facts, capabilities).opts()


class _Workgroup(Nest):
    """The loops of a kernel. Axes are named by their ids.

    local: axes of the output bound to threads. inner: those inside of these, lanes and copies.
    grouped: parts of the reduced axes that are reduced after all others. serial: whether there are
    others.
    """

    def __init__(self, facts: Analysis, capabilities: Capabilities) -> None:
        super().__init__(facts, capabilities)
        self.axes = {r.arg.id: r for r in facts.nodes if r.op is Op.RANGE}
        self.binds: list[Opt] = []
        self.local: list[int] = []
        self.inner: list[int] = []
        self.grouped: list[int] = []
        self.serial = False
        self.new: list[int] = []
        """What is left of split axes of the output: workgroups, or loops of each thread."""
        self.loops: list[int] = []

    def opts(self) -> list[Opt]:
        facts = self.facts
        free = [r for r in facts.free if r.src[0].is_const]
        large = [n for n in facts.reductions if extent(n.src[1:]) > _SMALL]
        for r in dict.fromkeys(r for n in facts.reductions for r in n.src[1:]):
            if r.src[0].is_const and all(r not in n.src[1:] for n in large):
                self.binds.append(Bind(r.arg.id, AxisKind.UNROLL))
        reduced = list(
            dict.fromkeys(r for n in large for r in n.src[1:] if r.src[0].is_const and size(r) > 1)
        )
        # The axes for every point of which the reductions are done, but for those of little work.
        points = {n: extent(n.ranges | frozenset(n.src[1:])) for n in large}
        most = max(points.values(), default=0)
        main = [n for n in large if points[n] * _AGAIN >= most]
        rows = [r for r in free if all(r in n.ranges for n in main)]
        rest = [r for r in free if r not in rows]
        along = self._contiguous([*reduced, *rows]) if reduced else None
        if not reduced:
            self._elements(free)
        elif along is None or along in reduced:
            self._rows(large, reduced, rows, rest)
        else:
            self._columns(along, large, rows)
        taken = {*self.local, *self.inner}
        ids = [r.arg.id for r in rows] + self.new
        grid = [x for x in dict.fromkeys(ids) if x not in taken]
        order = dict.fromkeys(grid)
        order.update(dict.fromkeys(r.arg.id for r in facts.outputs if r.arg.id not in taken))
        order.update(dict.fromkeys((*self.loops, *self.local, *self.inner)))
        opts: list[Opt] = [*self.splits]
        if self.grouped and self.serial:
            opts.append(GroupReduce(tuple(self.grouped)))
        if order:
            opts.append(Order(tuple(order)))
        opts += [Bind(x, AxisKind.GROUP) for x in grid if self._is_loop(x)]
        return opts + self.binds

    def _is_loop(self, axis: int) -> bool:
        """Whether an axis may be bound: one that was there, and has no order."""
        known = self.axes.get(axis)
        return known is None or known in self.facts.free

    # -- The three shapes --------------------------------------------------------------------------

    def _elements(self, free: list[UOp]) -> None:
        """Threads along the contiguous axis first, then along the others, the last ones first."""
        along = self._contiguous(free)
        short = [r for r in free if r is not along and self._is_one_store(r)][:1]
        for r in short:
            self.inner.append(r.arg.id)
            self.binds.append(Bind(r.arg.id, AxisKind.VECTOR))
        others = [r for r in reversed(free) if r is not along and r not in short]
        left = min(_THREADS, self.capabilities.group_threads)
        for r in ([along] if along is not None else []) + others:
            rest = self._vectors(r) if r is along else r.arg.id
            left //= self._threads(rest, left)

    def _is_one_store(self, axis: UOp) -> bool:
        """Whether an axis is so short that a thread stores all of it at once, whatever the places
        that its elements come from."""
        n, most = size(axis), self.capabilities.vector_bytes
        together = all(s.stride(axis) == 1 for s in self.facts.stores)
        nbytes = n * max(_itemsize(s) for s in self.facts.stores)
        return together and n > 1 and n & (n - 1) == 0 and nbytes <= most

    def _rows(self, large: list[UOp], reduced: list[UOp], rows: list[UOp], rest: list[UOp]) -> None:
        """A row is reduced by as many threads as leaves each a few vectors."""
        along = self._along(large, reduced)
        self.serial = any(r not in along for r in reduced)
        longest = max(extent(n.src[1:]) for n in large)
        lanes = max(self._lanes(r) for r in along)
        # Where rows share what they are multiplied with, a thread does some of them together.
        shared = not rest and self._sharing(rows)
        vectors = _SHARED_VECTORS if shared else _VECTORS
        wanted = power_of_two_up_to(max(longest // (lanes * vectors), 1))
        if shared and self.capabilities.vector_bytes:
            # Neighbours read a line together: such rows may lie far apart.
            line = self.capabilities.line_bytes // self.capabilities.vector_bytes
            wanted = max(wanted, power_of_two_up_to(min(longest // lanes, line)))
        threads = min(wanted, 2 * _THREADS, self.capabilities.group_threads)
        for r in along:
            self._row(r, threads)
        if rest:
            contiguous = self._contiguous(rest) or rest[-1]
            chunks = self._vectors(contiguous)
            self._threads(chunks, threads, inside=True)
        if shared:
            row = rows[-1].arg.id
            self.new.append(self.split(row, _SHARED_ROWS))
            self.inner.append(row)
            self.binds.append(Bind(row, AxisKind.UNROLL))
        # Threads of several warps meet at barriers, where they should wait for their own row alone.
        if rows and (shared or threads <= max(self.capabilities.warp, 1)):
            most = min(_THREADS, self.capabilities.group_threads) // threads
            self._threads(self.new[-1] if shared else rows[-1].arg.id, most)

    def _along(self, large: list[UOp], reduced: list[UOp]) -> dict[UOp, None]:
        """Of each reduction the axis that threads share out."""
        return dict.fromkeys(
            self._contiguous([r for r in n.src[1:] if r in reduced], n) or max(n.src[1:], key=size)
            for n in large
        )

    def _row(self, axis: UOp, threads: int) -> None:
        """Shares a reduced axis out among threads that are neighbours."""
        n = self._lanes(axis)
        chunks = axis.arg.id
        if n > 1:
            chunks = self.split(axis.arg.id, n)
            self.grouped.append(axis.arg.id)
            self.binds.append(Bind(axis.arg.id, AxisKind.VECTOR))
        each = min(threads, power_of_two_up_to(self.sizes[chunks]))
        if each < 2:
            self.serial = True
            return
        rounds = self.group(chunks, each, "masked")
        self.grouped.append(chunks)
        self.binds.append(Bind(chunks, AxisKind.LOCAL))
        if rounds is not None and self.sizes[rounds] <= _ROUNDS:
            self.grouped.append(rounds)
            self.binds.append(Bind(rounds, AxisKind.UNROLL))
        elif rounds is not None:
            self.serial = True

    def _sharing(self, rows: list[UOp]) -> bool:
        """Whether neighbouring rows read something in common, and are enough for all workers to
        have some when threads take several each."""
        if not rows or size(rows[-1]) % _SHARED_ROWS or not self._is_loop(rows[-1].arg.id):
            return False
        reads = [rows[-1] in a.node.ranges for a in self.facts.loads]
        least = _SHARED_ROWS * self.capabilities.threads
        return any(reads) and not all(reads) and extent(tuple(rows)) >= least

    def _columns(self, along: UOp, large: list[UOp], rows: list[UOp]) -> None:
        """Threads side by side along the contiguous axis, others along the longest reduced one.
        What does not depend on the contiguous axis all of them reduce together."""
        most = min(2 * _THREADS, self.capabilities.group_threads)
        others = [n for n in large if along not in n.ranges]
        reduced = list(dict.fromkeys(r for n in large if n not in others for r in n.src[1:]))
        side = self._threads(self._vectors(along), max(self.capabilities.warp, 1))
        if side < self.capabilities.warp:
            left = self.capabilities.warp // side
            for r in reversed(rows):
                if r is not along and left > 1 and not others:
                    left //= self._threads(r.arg.id, left)
            side = self.capabilities.warp // left if not others else side
        longest = max(reduced, key=size)
        parts = min(power_of_two_up_to(max(size(longest) // _ALONE, 1)), most // side)
        if parts > 1:
            left = self.group(longest.arg.id, parts, "masked")
            self.serial = left is not None or len(reduced) > 1
            self.grouped.append(longest.arg.id)
            self.binds.append(Bind(longest.arg.id, AxisKind.LOCAL))
        for r in self._along(others, list(dict.fromkeys(r for n in others for r in n.src[1:]))):
            self._row(r, side * max(parts, 1))

    # -- Binding an axis of the output -------------------------------------------------------------

    def _vectors(self, axis: UOp) -> int:
        """Lanes along an axis of the output; returns the axis of its vectors."""
        lanes = self._lanes(axis)
        if lanes == 1:
            return axis.arg.id
        self.inner.append(axis.arg.id)
        self.binds.append(Bind(axis.arg.id, AxisKind.VECTOR))
        chunks = self.split(axis.arg.id, lanes)
        self.new.append(chunks)
        return chunks

    def _threads(self, axis: int, most: int, inside: bool = False) -> int:
        """Binds as much of an axis to threads as it has, up to `most` of them; returns how many.

        inside: whether what is left is a loop of each thread.
        """
        threads = min(most, power_of_two_up_to(self.sizes[axis]))
        if threads < 2:
            if inside and axis in self.new:
                self.new.remove(axis)
                self.loops.append(axis)
            return 1
        left = self.group(axis, threads, "masked")
        if axis in self.new:
            self.new.remove(axis)
        if left is not None and not inside:
            self.new.append(left)
        elif left is not None and self.sizes[left] <= _ROUNDS:
            self.inner.append(left)
            self.binds.append(Bind(left, AxisKind.UNROLL))
        elif left is not None:
            self.loops.append(left)
        self.local.insert(0, axis)
        self.binds.append(Bind(axis, AxisKind.LOCAL))
        return threads

    # -- What the accesses want --------------------------------------------------------------------

    def _contiguous(self, axes: Iterable[UOp], node: UOp | None = None) -> UOp | None:
        """The axis along which most bytes lie next to each other (of what a node reads)."""
        inside = None if node is None else set(node.toposort())
        best: tuple[int, UOp] | None = None
        for r in axes:
            accesses = [
                a for a in self.facts.accesses
                if a.stride(r) == 1 and (inside is None or a.node in inside)
            ]  # fmt: skip
            weight = sum(a.count * _itemsize(a) for a in accesses)
            if weight and (best is None or weight > best[0]):
                best = (weight, r)
        return None if best is None else best[1]

    def _lanes(self, axis: UOp) -> int:
        """Elements of a vector along an axis: whole vectors, that begin where vectors can."""
        along = [a for a in self.facts.accesses if axis in a.node.ranges]
        near = [a for a in along if a.stride(axis) == 1]
        if not near or any(a.stride(axis) not in (0, 1) for a in along):
            return 1
        # The elements of which most bytes move decide.
        moved: dict[int, int] = {}
        for a in near:
            moved[_itemsize(a)] = moved.get(_itemsize(a), 0) + a.count * _itemsize(a)
        lanes = self.capabilities.vector_bytes // max(moved, key=lambda n: (moved[n], n))
        while lanes > 1 and (size(axis) % lanes or not all(_aligned(a, axis, lanes) for a in near)):
            lanes //= 2
        return max(lanes, 1)


def _itemsize(access: Access) -> int:
    return access.buffer.dtype.itemsize


def _aligned(access: Access, axis: UOp, lanes: int) -> bool:
    """Whether an access begins at a multiple of `lanes` for all points of the other axes, and for
    whatever rows it looks up."""
    terms, constant = linear_form(access.node.src[0].src[1])
    steps = (s for t, s in terms.items() if t is not axis)
    return constant % lanes == 0 and all(s % lanes == 0 for s in steps)
