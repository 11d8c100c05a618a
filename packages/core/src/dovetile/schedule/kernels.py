"""Kernels from a placement: values get loops, kernels that share loops join, all get an order."""

from __future__ import annotations

import math
import zlib

from dovetile import dtypes
from dovetile.errors import GraphError
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.rewrite import substitute, substitute_ranges
from dovetile.ir.uop import UOp, nodes_of, toposort
from dovetile.lower.linear import plain
from dovetile.optimize.closed_nests import closable
from dovetile.optimize.opts import rewrite_listed
from dovetile.optimize.visible import compares, conditions
from dovetile.plugins.specs import Capabilities
from dovetile.schedule.dependencies import Dependencies, Kernel
from dovetile.schedule.layout import Layout
from dovetile.schedule.order import as_read, order_of, sums_along
from dovetile.schedule.place import Placement, followed
from dovetile.schedule.ranges import IndexMemo, Mask, RangeBuilder, conjunction


class StaysApart(Exception):
    """Reductions that were to be closed in one loop cannot be; the last of them."""

    def __init__(self, contraction: UOp) -> None:
        super().__init__(contraction)
        self.contraction = contraction


FAULT_SLOT = -1
# A reduction of fewer elements is computed inside its kernel even if that leaves few parallel rows.
_SMALL = 32768
# Elements that are computed for each of what is known of a row.
_LONG_ROW = 32
# Points of a reduction that copies are made for instead of a loop.
_FEW = 9
# A kernel may join one of so many that come just before it.
_NEAR = 24


class KernelMaker:
    """Builds all kernels of a placement, holding more values where loops show that it must be."""

    def __init__(
        self, placement: Placement, capabilities: dict[str, Capabilities], device: str
    ) -> None:
        self.placement = placement
        self.capabilities = capabilities
        self.default_device = device
        self.buffers: dict[UOp, UOp] = {}
        self.ordered: set[UOp] = set()
        """The BUFFERs whose axes lie in an order that is not row-major."""
        self.masks: dict[UOp, Mask] = {}
        self.memo = IndexMemo()
        self.kernels: list[Kernel] = []

    def run(self) -> list[Kernel]:
        """All kernels (a COPY has no ast), in an order that respects every dependency."""
        roots = [n for n in self.placement.nodes if n in self.placement.held or n.op is Op.STORE]
        for root in roots:
            self._buffer(root)
        made = {n for others in self.placement.beside.values() for n in others}
        waiting = list(reversed(roots))
        while waiting:
            root = waiting.pop()
            if root in made:
                continue
            more = self._attempt(root)
            if more:
                waiting += [root, *more]
            else:
                made.add(root)
        kernels = self._joined(self.kernels)
        return Dependencies(kernels).sorted()

    def _buffer(self, root: UOp) -> None:
        if root.op is not Op.STORE and root not in self.buffers:
            device = root.device or self.default_device
            self.buffers[root] = UOp.buffer(root.size, root.dtype, device)
            layout = self.placement.layouts.get(root)
            if layout is not None:
                self._lay_out(root, layout)

    def _attempt(self, root: UOp) -> list[UOp]:
        """Builds the kernel of a root; or says which values must be held before it can be."""
        if root.op is Op.COPY:
            self._copy(root)
            return []
        roots = [root, *self.placement.beside.get(root, ())]
        kernel = Kernel(roots, *self._shape_of(root))
        if 0 in kernel.shape:
            return []
        builder = self._in_order(kernel, self.build(kernel))
        evicted = self._evict(kernel, builder)
        if not evicted:
            self._close(kernel, builder)
        if root.op is Op.STORE and not evicted and self._overlaps(kernel):
            evicted = [root.src[1]]
        for node in evicted:
            self.placement.held[node] = None
            self._buffer(node)
        if evicted:
            if self.buffers.get(root) in self.ordered:  # it depends on what the kernel computes
                self.ordered.remove(self.buffers[root])
                del self.placement.layouts[root]
            return list(dict.fromkeys(evicted))
        kernel.prepares = root in self.placement.fixed
        self.kernels.append(kernel)
        layouts = self.placement.layouts
        for copy, buffer in builder.copies.items():
            self.buffers[copy] = buffer
            self.placement.held[copy] = None
            if copy.op is Op.PAD and copy.src[0] in layouts:
                self._lay_out(copy, layouts[copy.src[0]])
        for copy in builder.copies:
            nested = self._attempt(copy)
            if nested:
                raise GraphError("[schedule] a copy cannot be built in one kernel")
            self.kernels[-1].prepares = copy.op is Op.PERMUTE
        return []

    def _in_order(self, kernel: Kernel, builder: RangeBuilder) -> RangeBuilder:
        """Builds the kernel again where its value had better lie in another order."""
        (root, *beside) = kernel.roots
        if beside:
            return builder
        # A padded copy lies as what it is a copy of.
        if root in self.placement.layouts or not self.placement.only_kernels_read(root):
            return builder
        capabilities = self.capabilities[kernel.device]
        lanes = capabilities.vector_bytes // root.dtype.itemsize
        assert kernel.ast is not None
        order = order_of(kernel.ast, kernel.axes, kernel.contraction, self.ordered, lanes)
        order = order or as_read(self.placement.users.get(root, ()))
        if order is None:
            return builder
        self._lay_out(root, Layout(order))
        return self.build(kernel)

    def _lay_out(self, node: UOp, layout: Layout) -> None:
        self.placement.layouts[node] = layout
        if layout.is_order:
            self.ordered.add(self.buffers[node])

    def _shape_of(self, root: UOp) -> tuple[tuple[int, ...], str]:
        shape = root.src[1].shape if root.op is Op.STORE else root.shape
        device = (root.src[0] if root.op is Op.STORE else root).device or self.default_device
        return shape, device

    def _copy(self, root: UOp) -> None:
        kernel = Kernel([root], root.shape, root.arg)
        source, state = root.src[0], None
        while source not in self.buffers and source.op is not Op.BUFFER:
            state = state or (source if source.op is Op.AFTER else None)
            source = source.src[0]
        kernel.reads[self.buffers.get(source, source)] = {state}
        kernel.writes[self.buffers[root]] = root
        if root.size:
            self.kernels.append(kernel)

    # -- one kernel --------------------------------------------------------------------------------

    def build(self, kernel: Kernel) -> RangeBuilder:
        """Gives the kernel its loops: fills in ast, reads, writes and checks."""
        inline = frozenset(kernel.roots) | self._states(kernel.roots)
        contractions = [c for r in kernel.roots for c in self._contractions(r)]
        kernel.contraction = bool(contractions)
        layouts = self.placement.layouts
        relaid: dict[UOp, Layout] = {}
        for c in contractions:
            relaid.update(self.placement.relaid.get(c, {}))
        # Threads of a workgroup look at conditions where they fill its memory, not where they sum.
        groups = "GROUP" in self.capabilities[kernel.device].parallel_axes
        padded = kernel.contraction and not groups
        builder = RangeBuilder(
            self.buffers, inline, padded, layouts, relaid, self.masks, self.memo
        )  # fmt: skip
        layout, shape = layouts.get(kernel.roots[0]), kernel.shape
        if layout is not None:
            shape = layout.in_memory(layout.parts(shape))
        sequential = self._sequential_axes(kernel.roots[0])
        kernel.sequential = sequential > 0
        axes = []
        for i, n in enumerate(shape):
            kind = AxisKind.REDUCE if i < sequential else AxisKind.LOOP
            axes.append(builder.loop(n, kind))
        indices = kernel.axes = tuple(axes)
        if layout is not None:
            indices = builder.indices_at(kernel.shape, indices, layout)
        effects = []
        for root in kernel.roots:
            if root.op is Op.STORE:
                buffer, position, gate = builder.address(root.src[0], indices)
                value = builder.value(root.src[1], indices)
                address = buffer.index(position)
                if root.arg is not None:
                    guard = (value.const_like(0), conjunction(gate)) if gate else ()
                    value = address.load(*guard).alu(root.arg, value)
                effects.append(address.store(value, *([conjunction(gate)] if gate else [])))
                kernel.writes[buffer] = root
                if root.arg is not None or gate:
                    builder.reads.setdefault(buffer, set()).add(self._state_of(root.src[0]))
            else:
                buffer = self.buffers[root]
                own = builder.reshaped(kernel.shape, root.shape, indices)
                value = builder.value(root, own)
                place = builder.place(root.shape, own, layouts.get(root))
                effects.append(buffer.index(place).store(value))
                kernel.writes[buffer] = root
        fault = fault_buffer(kernel.device)
        for check in builder.checks:
            failed = check.holds.logical_not()
            # An index used inside a reduction is checked in a loop of its own.
            inner = sorted(failed.ranges.difference(axes), key=lambda r: r.arg.id)
            loops = {r: UOp.range(r.src[0], AxisKind.REDUCE) for r in inner}
            failed = substitute_ranges(failed, loops)
            code = UOp.const(fault_code(check.text), fault.dtype)
            effects.append(fault.index(0).store(code, failed).end(*loops.values()))
        kernel.reads, kernel.checks = builder.reads, builder.checks
        loops = [r for r in axes if r.op is Op.RANGE]
        body = UOp.group(*effects)
        if builder.reduced:
            if layout is None:
                loops = self._loop_order(loops, effects)
            body = _ordered_reductions(body)
            if kernel.contraction:
                body = sums_along(body, self.ordered)
        kernel.ast = UOp.sink(body.end(*loops))
        self._note_mask(kernel, indices)
        reductions = [n for n in nodes_of(kernel.ast) if n.op is Op.REDUCE]
        kernel.reductions = tuple(
            sorted(tuple(r.src[0].arg for r in n.src[1:]) for n in reductions)
        )
        return builder

    def _note_mask(self, kernel: Kernel, indices: tuple[UOp, ...]) -> None:
        """Notes where the value of the kernel is zero or minus infinity. Only sums of products are
        made shorter by that, and only where panels are not filled ahead of their loops."""
        assert kernel.ast is not None
        nodes = nodes_of(kernel.ast)
        stores = [n for n in nodes if n.op is Op.STORE]
        (root, *others) = kernel.roots
        self.masks.pop(root, None)
        ahead = "GROUP" in self.capabilities[kernel.device].parallel_axes
        single = root.op is not Op.STORE and not others and len(stores) == 1
        if single and root.dtype.kind == "f" and not ahead:
            for constant in (0.0, -math.inf):
                found = conditions(stores[0].src[1], constant)
                if found := tuple(c for c in found if compares(c) and c.ranges <= set(indices)):
                    self.masks[root] = Mask(indices, found, constant)
                    break
        if not kernel.contraction:
            known = {n: plain(n) for n in nodes if n.op is Op.LOAD and n.arg == "held"}
            kernel.ast = substitute(kernel.ast, known) if known else kernel.ast

    def _states(self, roots: list[UOp]) -> frozenset[UOp]:
        """The AFTER nodes whose value the STOREs among these roots have just computed."""
        found = set()
        for root in roots:
            if root.op is Op.STORE and root.arg is None and root.src[0].op is not Op.INDEX:
                for user in self.placement.users.get(root, ()):
                    if user.op is Op.AFTER and user.src == (_reshaped(root.src[0]), root):
                        found.add(user)
        return frozenset(found)

    def _contractions(self, root: UOp) -> list[UOp]:
        """The contractions that are computed inside this root's kernel."""
        stack, seen, found = [root.src[1] if root.op is Op.STORE else root], set(), []
        first = stack[0]
        while stack:
            node = stack.pop()
            if node in seen or (node is not first and node in self.placement.held):
                continue
            seen.add(node)
            if node in self.placement.contractions:
                found.append(node)
            if node.op not in (Op.AFTER, Op.BUFFER, Op.COPY):
                stack.extend(node.src)
        return found

    @staticmethod
    def _sequential_axes(root: UOp) -> int:
        """How many leading axes may write one element several times, and so run in order."""
        if root.op is Op.STORE and root.src[0].op is Op.INDEX and root.src[0].src[1].size > 1:
            return len(root.src[0].src[1].shape)
        return 0

    @staticmethod
    def _state_of(view: UOp) -> UOp | None:
        while view.op is not Op.BUFFER and view.src:
            if view.op is Op.AFTER:
                return view
            view = view.src[0]
        return None

    @staticmethod
    def _loop_order(loops: list[UOp], effects: list[UOp]) -> list[UOp]:
        """Loops that reductions inside depend on come first, so that each is computed once."""
        used = dict.fromkeys(loops, 0)
        for node in toposort(effects):
            if node.op is Op.REDUCE:
                for r in node.ranges:
                    if r in used:
                        used[r] += 1
        return sorted(loops, key=lambda r: -used[r]) if any(used.values()) else loops

    def _close(self, kernel: Kernel, builder: RangeBuilder) -> None:
        """Lets the reductions of rules 5 and 6 share one axis, or raises StaysApart."""
        known = self.placement.closed
        closed = [n for n in builder.reduced.values() if n in known]
        closed = [n for n in closed if all(n is m or n not in known[m] for m in closed)]
        if closed:
            assert kernel.ast is not None
            found = closable(kernel.ast, self.capabilities[kernel.device])
            if found is None or len(closed) > 1:
                raise StaysApart(closed[0])
            kernel.ast = found.kernel

    def _evict(self, kernel: Kernel, builder: RangeBuilder) -> list[UOp]:
        """Reductions that must not be computed inside this kernel (rule 4 of `place`)."""
        assert kernel.ast is not None
        end = kernel.ast.src[0]
        outer = set(end.src[1:]) if end.op is Op.END else set()
        inside = [n for n in nodes_of(kernel.ast) if n.op is Op.REDUCE and n in builder.reduced]
        own = {*kernel.roots}
        reduced = builder.reduced.values()
        together = frozenset[UOp]().union(*(self.placement.closed.get(n, ()) for n in reduced))
        evicted: list[UOp] = []
        chain: list[frozenset[UOp]] = []
        threads = self.capabilities[kernel.device].threads
        groups = "GROUP" in self.capabilities[kernel.device].parallel_axes
        loops = {r: n for n in nodes_of(kernel.ast) if n.op is Op.REDUCE for r in n.src[1:]}
        for node in sorted(inside, key=lambda n: -len(n.ranges & outer)):
            tensor = builder.reduced[node]
            if tensor in own or tensor in together:
                continue
            rows = frozenset(node.ranges & outer)
            # In the order in which the values lie, what it would be computed for comes again.
            scattered = kernel.roots[0] in self.placement.layouts and rows != set(
                end.src[1 : 1 + len(rows)]
            )
            times = math.prod(_extent(r) for r in _around(node, loops))
            if times * (tensor.src[0].size // max(tensor.size, 1)) <= _SMALL:
                times = math.prod(_extent(r) for r in node.ranges)
            complete = rows == outer
            too_often = times > tensor.size
            serial = (
                not complete
                and math.prod(_extent(r) for r in rows) < 4 * threads
                and tensor.src[0].size > _SMALL
            )
            crossing = any(not (rows <= c or c <= rows) for c in chain)
            mixed = (
                kernel.contraction
                and tensor not in self.placement.contractions
                and not (complete and len(inside) == 1)
            )
            # The threads of a workgroup share out one loop of a sum, not those inside of it.
            inner = groups and math.prod(_extent(r) for r in node.src[1:]) > _FEW
            nested = any(r not in outer for r in node.ranges) and (
                inner or tensor in self.placement.contractions
            )
            if too_often or serial or scattered or crossing or mixed or nested:
                evicted.append(tensor)
            else:
                chain.append(rows)
        left = self._of_rows(kernel.roots[0], set(evicted))
        evicted = [t for t in evicted if t not in left]
        # Where several of them meet, one kernel computes them and what they meet in.
        met = [followed(t, self.placement) for t in evicted]
        return [m if met.count(m) > 1 else t for t, m in zip(evicted, met)]

    def _of_rows(self, root: UOp, evicted: set[UOp]) -> set[UOp]:
        """Those of the evicted reductions that only help to compute others, and are so short that
        the kernels of these may do them again: what is known of a row, such as its norm."""
        held = self.placement.held
        largest: dict[UOp, int] = {}  # of the evicted ones that a value is computed for
        for node in reversed(toposort(root, lambda n: n is root or n not in held)):
            size = max(largest.get(node, 0), node.size if node in evicted else 0)
            for source in node.src:
                largest[source] = max(largest.get(source, 0), size)
        short = {t for t in evicted - self.placement.contractions.keys() if t.src[0].size <= _SMALL}
        return {t for t in short if _LONG_ROW * t.size <= largest.get(t, 0)}

    def _overlaps(self, kernel: Kernel) -> bool:
        """Whether a store reads its own buffer at other places than it writes."""
        assert kernel.ast is not None
        written: dict[UOp, set[UOp]] = {}
        for node in nodes_of(kernel.ast):
            if node.op is Op.STORE:
                written.setdefault(node.src[0].src[0], set()).add(node.src[0])
        return any(
            node.op is Op.LOAD
            and node.src[0].src[0] in written
            and {node.src[0]} != written[node.src[0].src[0]]
            for node in nodes_of(kernel.ast)
        )

    # -- several outputs in one kernel -------------------------------------------------------------

    def _joined(self, kernels: list[Kernel]) -> list[Kernel]:
        """Kernels over the same loops that share what they read become one."""
        graph = Dependencies(kernels)
        ordered = graph.sorted()
        groups: list[Kernel] = []
        for kernel in ordered:
            for group in reversed(groups[-_NEAR:]):
                if (
                    self._may_join(group, kernel)
                    and not graph.between(group, kernel)
                    and self._join(group, kernel)
                ):
                    graph.joined(group, kernel)
                    break
            else:
                groups.append(kernel)
        return groups

    def _may_join(self, a: Kernel, b: Kernel) -> bool:
        if a.ast is None or b.ast is None or a.shape != b.shape or a.device != b.device:
            return False
        if a.contraction or b.contraction or a.sequential or b.sequential:
            return False
        if len(a.roots) >= 16 or a.prepares or b.prepares:
            return False
        layouts = self.placement.layouts
        if layouts.get(a.roots[0]) != layouts.get(b.roots[0]):
            return False
        if sorted(set(a.reductions)) != sorted(set(b.reductions)):
            return False
        shared = set(a.reads) | set(a.writes)
        return any(buffer in shared for buffer in b.reads)

    def _join(self, a: Kernel, b: Kernel) -> bool:
        """Makes b a part of a, unless that would repeat work or read what it has just written."""
        joined = Kernel([*a.roots, *b.roots], a.shape, a.device)
        if set(a.writes) & set(b.writes):
            return False
        self.build(joined)
        if self._overlaps(joined) or any(len(s) > 1 for s in joined.reads.values()):
            return False
        # A value that one kernel read from memory may now be computed at other indices: no
        # reduction may be among what is computed again.
        if len(joined.reductions) > len(a.reductions) + len(b.reductions):
            return False
        if joined.reductions and len(set(joined.reductions)) > len(set(a.reductions)):
            return False
        # What one writes the other must have got as a value, never by reading it back.
        if any(w in joined.reads and w not in a.reads and w not in b.reads for w in joined.writes):
            return False
        if any(w in joined.reads for w, root in a.writes.items() if root.op is not Op.STORE):
            return False
        work = sum(len(nodes_of(k.ast)) for k in (a, b) if k.ast is not None)
        if len(nodes_of(joined.ast)) > work:  # something is now computed at several indices
            return False
        a.roots, a.ast, a.reads, a.writes = joined.roots, joined.ast, joined.reads, joined.writes
        a.reductions, a.checks = joined.reductions, joined.checks
        return True


def fault_buffer(device: str | None) -> UOp:
    """The word in which kernels of a device report a bad index."""
    return UOp.buffer(1, dtypes.uint32, device, slot=FAULT_SLOT)


def fault_code(text: str) -> int:
    """The number that stands for a report, the same in every process."""
    return zlib.crc32(text.encode()) or 1


def _around(node: UOp, sums: dict[UOp, UOp]) -> frozenset[UOp]:
    """The loops that a reduction stands in: those it depends on, and those around these, which are
    of the sums that they belong to."""
    found = node.ranges
    for r in node.ranges & sums.keys():
        found |= _around(sums[r], sums)
    return found


def _extent(r: UOp) -> int:
    return int(r.src[0].maximum)


def _ordered_reductions(body: UOp) -> UOp:
    """In every reduction the ranges that reductions inside it depend on come first."""
    changes = {}
    for node in toposort(body):
        if node.op is Op.REDUCE and len(node.src) > 2:
            used = dict.fromkeys(node.src[1:], 0)
            for inner in toposort(node.src[0]):
                if inner.op is Op.REDUCE:
                    for r in inner.ranges:
                        if r in used:
                            used[r] += 1
            if any(used.values()):
                ranges = sorted(node.src[1:], key=lambda r: -used[r])
                changes[node] = node.replace(src=(node.src[0], *ranges))
    return rewrite_listed(body, changes) if changes else body


def _reshaped(view: UOp) -> UOp:
    """What a view shows all elements of, in order."""
    while view.op is Op.RESHAPE:
        view = view.src[0]
    return view
