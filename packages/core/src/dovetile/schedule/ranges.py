"""From a tensor-level value to a loop-level one: every axis gets a loop index.

Starting at what a kernel stores, indices flow from users to sources. Movement operations turn into
arithmetic on indices and vanish; a REDUCE opens new ranges; reading held memory becomes a LOAD.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field

from dovetile.errors import GraphError
from dovetile.ir.ops import MOVEMENT, AxisKind, Op
from dovetile.ir.rewrite import rewrite, substitute_ranges
from dovetile.ir.shape import groups_of_equal_extent
from dovetile.ir.symbolic import linear_form, simplify_index
from dovetile.ir.uop import UOp
from dovetile.schedule.layout import Layout

Indices = tuple[UOp, ...]
# What must hold for an element to exist, as separate conditions. Outside of it nothing may be
# read, and the PAD that introduced it makes the value zero.
Gate = frozenset[UOp]
_OPEN: Gate = frozenset()
_ZERO = UOp.const(0)


@dataclass
class Check:
    """A data-dependent index that may be out of bounds: what must hold, and what to report."""

    holds: UOp
    text: str


@dataclass(frozen=True)
class Mask:
    """What an element at these indices is where one of the conditions does not hold."""

    indices: Indices
    conditions: Indices
    constant: float


@dataclass
class IndexMemo:
    """Index arithmetic done before. All kernels of a schedule share it: their loops are numbered
    alike, so that layers of equal shapes ask for the very same nodes."""

    simplified: dict[UOp, UOp] = field(default_factory=dict)
    flat: dict[tuple[tuple[int, ...], Indices], UOp] = field(default_factory=dict)
    reshaped: dict[tuple[tuple[int, ...], tuple[int, ...], Indices], Indices] = field(
        default_factory=dict
    )


# Loops are numbered from here in every kernel, away from those of canonical kernels (from 0) and
# from those that are unique in the process.
_FIRST_LOOP = 1 << 31


@dataclass
class RangeBuilder:
    """Builds the values of one kernel.

    held: nodes that live in memory, and the BUFFER that holds their elements.
    layouts: of those whose elements are not in row-major order.
    relaid: nodes to read through a copy, and its layout.
    masks: of held nodes of whose elements many are known to be zero, say.
    pad_operands: read a gated operand through a zero-padded copy, which costs one pass over it but
    keeps conditions out of the inner loop of a contraction.
    """

    held: Mapping[UOp, UOp]
    inline: frozenset[UOp] = frozenset()
    pad_operands: bool = False
    layouts: Mapping[UOp, Layout] = field(default_factory=dict)
    relaid: Mapping[UOp, Layout] = field(default_factory=dict)
    masks: Mapping[UOp, Mask] = field(default_factory=dict)
    memo: IndexMemo = field(default_factory=IndexMemo)
    reads: dict[UOp, set[UOp | None]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    copies: dict[UOp, UOp] = field(default_factory=dict)
    reduced: dict[UOp, UOp] = field(default_factory=dict)
    _loops: Iterator[int] = field(default_factory=lambda: itertools.count(_FIRST_LOOP))
    _memo: dict[tuple, UOp] = field(default_factory=dict)
    _reduce_ranges: dict[tuple, tuple[UOp, ...]] = field(default_factory=dict)
    _zero_outside: dict[UOp, Gate] = field(default_factory=dict)

    # -- driving: the steps below are generators, so depth costs no Python recursion ---------------

    def value(self, node: UOp, indices: Indices) -> UOp:
        """The element of `node` at `indices`; `node` itself is computed, not read."""
        if node.op is Op.STAGE:
            node = node.src[0]
        return self._run((node, indices, _OPEN, None))

    def address(self, view: UOp, indices: Indices) -> tuple[UOp, UOp, Gate]:
        """(BUFFER, flat index, gate) of the element of a view of memory at `indices`.

        The BUFFER is that of the view also where the view's content is held elsewhere.
        """
        gate = _OPEN
        while True:
            if view.op is Op.BUFFER:
                return view, self.simplify(indices[0]), gate
            if view.op is Op.INDEX:
                view, indices, gate = self._through_index(view, indices, gate)
            elif view.op in (Op.AFTER, Op.STAGE):
                view = view.src[0]
            elif view.op in MOVEMENT and view.op is not Op.PAD:
                view, indices = view.src[0], self._moved(view, indices)
            else:
                raise GraphError(f"[STORE] to {view.op.name}; it must be a view of memory")

    def _run(self, key: tuple) -> UOp:
        memo = self._memo
        if key in memo:
            return memo[key]
        stack: list[tuple[tuple, Generator]] = [(key, self._build(*key))]
        answer: UOp | None = None
        while stack:
            current, steps = stack[-1]
            try:
                wanted = steps.send(answer)
            except StopIteration as finished:
                answer = memo[current] = finished.value
                stack.pop()
                continue
            answer = memo.get(wanted)
            if answer is None:
                stack.append((wanted, self._build(*wanted)))
        assert answer is not None
        return answer

    def simplify(self, index: UOp) -> UOp:
        if index.op in (Op.RANGE, Op.CONST):
            return index
        return rewrite(index, simplify_index, None, self.memo.simplified)

    def loop(self, size: int, kind: AxisKind) -> UOp:
        """A new loop of this kernel, as an index: 0 where there is but one iteration."""
        return UOp.range(size, kind, next(self._loops)) if size != 1 else _ZERO

    # -- one step per kind of node -----------------------------------------------------------------

    def _build(self, node: UOp, indices: Indices, gate: Gate, state: UOp | None) -> Generator:
        op = node.op
        if node in self.held and node not in self.inline:
            return self._read(node, self.held[node], indices, gate, state)
        if op is Op.RESHAPE and node.src[0].op is Op.BUFFER:
            return self._read(node, node.src[0], indices, gate, state)
        if op is Op.BUFFER:
            return self._read(node, node, indices, gate, state)
        if op is Op.CONST:
            return node
        if op is Op.IOTA:
            return indices[0]
        if node in self.inline and op is Op.AFTER:
            return (yield (node.src[1].src[1].reshape(node.shape), indices, gate, None))
        if op in (Op.AFTER, Op.STAGE):
            state = state or (node if op is Op.AFTER else None)
            return (yield (node.src[0], indices, gate, state))
        if op is Op.PAD:
            return (yield from self._pad(node, indices, gate, state))
        if op in MOVEMENT:
            return (yield (node.src[0], self._moved(node, indices), gate, state))
        if op is Op.REDUCE:
            kind, count = node.arg
            ranges = self._ranges_of(indices, node.src[0].shape[-count:])
            body = yield (node.src[0], indices + ranges, gate, None)
            loops = tuple(r for r in ranges if r.op is Op.RANGE)
            if not loops:
                return body
            result = UOp(Op.REDUCE, node.dtype, (body, *loops), kind)
            self.reduced[result] = node
            if kind is not Op.MUL and body in self._zero_outside:
                self._zero_outside[result] = self._zero_outside[body]
            return result
        if op is Op.INDEX:
            leading = indices[: len(node.src[1].shape)]
            positions = []
            for i in node.src[1:]:
                positions.append((yield (i, leading, gate, None)))
            source, moved, gate = self._positioned(node, positions, indices, gate)
            return (yield (source, moved, gate, None))
        sources = []
        for s in node.src:
            sources.append((yield (s, indices, gate, None)))
        result = UOp(op, node.dtype, tuple(sources), node.arg)
        self._note_zero(result)
        return result

    def _ranges_of(self, outer: Indices, sizes: tuple[int, ...]) -> Indices:
        """Loops for reduced axes; reductions of one shape under the same indices share them."""
        key = (outer, sizes)
        if key not in self._reduce_ranges:
            self._reduce_ranges[key] = tuple([self.loop(n, AxisKind.REDUCE) for n in sizes])
        return self._reduce_ranges[key]

    def _moved(self, node: UOp, indices: Indices) -> Indices:
        """The indices into the source of a movement op (all but PAD)."""
        op, arg, source = node.op, node.arg, node.src[0]
        if op is Op.RESHAPE:
            return self.reshaped(arg, source.shape, indices)
        if op is Op.PERMUTE:
            moved: list[UOp] = [_ZERO] * len(arg)
            for position, axis in enumerate(arg):
                moved[axis] = indices[position]
            return tuple(moved)
        if op is Op.EXPAND:
            return indices[: len(source.shape)]
        if op is Op.SHRINK:
            return tuple(
                self.simplify(i + start) if start else i for i, (start, _) in zip(indices, arg)
            )
        if op is Op.FLIP:
            return tuple(
                self.simplify(i * -1 + (n - 1)) if axis in arg else i
                for axis, (i, n) in enumerate(zip(indices, source.shape))
            )
        raise GraphError(f"[{op.name}] is not a movement operation")

    def place(self, shape: tuple[int, ...], indices: Indices, layout: Layout | None) -> UOp:
        """The place in memory of an element of something that is held."""
        if layout is None:
            return self._flat(shape, indices)
        parts = layout.parts(shape)
        indices = self.reshaped(shape, parts, indices)
        return self._flat(layout.in_memory(parts), layout.in_memory(indices))

    def indices_at(self, shape: tuple[int, ...], place: Indices, layout: Layout) -> Indices:
        """The indices of the element at a place, which has an index for each part in memory."""
        return self.reshaped(layout.parts(shape), shape, layout.from_memory(place))

    def _flat(self, shape: tuple[int, ...], indices: Indices) -> UOp:
        found = self.memo.flat.get((shape, indices))
        if found is None:
            flat, stride = _ZERO, 1
            for i, n in zip(reversed(indices), reversed(shape)):
                flat = i * stride + flat if stride != 1 else i + flat
                stride *= n
            found = self.memo.flat[shape, indices] = self.simplify(flat)
        return found

    def reshaped(self, new: tuple[int, ...], old: tuple[int, ...], indices: Indices) -> Indices:
        """Indices into `old` of an element of `new`."""
        key = (new, old, indices)
        found = self.memo.reshaped.get(key)
        if found is None:
            found = self.memo.reshaped[key] = tuple(self._regrouped(*key))
        return found

    def _regrouped(self, new: tuple[int, ...], old: tuple[int, ...], indices: Indices) -> list[UOp]:
        """What `_reshaped` says; groups of axes of equal extent go together."""
        result: list[UOp] = []
        for of_new, of_old in groups_of_equal_extent(new, old):
            group = old[of_old]
            if group == new[of_new]:
                result += indices[of_new]
                continue
            flat = self._flat(new[of_new], indices[of_new])
            stride = math.prod(group)
            for position, n in enumerate(group):
                stride //= max(n, 1)
                if n == 1:
                    result.append(_ZERO)
                    continue
                part = flat // stride if stride > 1 else flat
                result.append(self.simplify(part % n if position else part))
        return result

    def _pad(self, node: UOp, indices: Indices, gate: Gate, state: UOp | None) -> Generator:
        moved, clauses = [], set()
        for i, (before, _), n in zip(indices, node.arg, node.src[0].shape):
            i = self.simplify(i - before) if before else i
            moved.append(i)
            clauses |= self._inside(i, n)
        if any(c.is_const and not c.arg for c in clauses):
            return UOp.const(0, node.dtype)
        own = frozenset(clauses)
        value = yield (node.src[0], tuple(moved), gate | own, state)
        if own <= self._zero_outside.get(value, _OPEN):
            return value
        result = conjunction(own).where(value, UOp.const(0, value.dtype)) if own else value
        self._zero_outside[result] = self._zero_outside.get(value, _OPEN) | own
        return result

    def _inside(self, index: UOp, size: int) -> set[UOp]:
        """The conditions 0 <= index < size that bounds do not prove."""
        low, high = index.bounds
        terms, offset = linear_form(index)
        # The constant goes to the other side, so that equal conditions are equal nodes.
        base = self.simplify(index - offset) if offset else index
        clauses = set()
        if low < 0:
            clauses.add(self.simplify((base < -offset).logical_not()))
        if high >= size:
            clauses.add(self.simplify(base < size - offset))
        return clauses

    def _through_index(self, node: UOp, indices: Indices, gate: Gate) -> tuple[UOp, Indices, Gate]:
        leading = indices[: len(node.src[1].shape)]
        positions = [self._run((i, leading, gate, None)) for i in node.src[1:]]
        return self._positioned(node, positions, indices, gate)

    def _positioned(
        self, node: UOp, positions: list[UOp], indices: Indices, gate: Gate
    ) -> tuple[UOp, Indices, Gate]:
        source, rest = node.src[0], indices[len(node.src[1].shape) :]
        positions = [self.simplify(p) for p in positions]
        if node.arg is not None:
            inside: set[UOp] = set()
            for p, n in zip(positions, source.shape):
                inside |= self._inside(p, n)
            if inside:
                self.checks.append(Check(_implies(gate, conjunction(frozenset(inside))), node.arg))
                gate = gate | inside
        return source, (*positions, *rest), gate

    # -- reading memory ----------------------------------------------------------------------------

    def _read(self, node: UOp, buffer: UOp, indices: Indices, gate: Gate, state: UOp | None) -> UOp:
        outside = [self._inside(i, n) for i, n in zip(indices, node.shape)]
        needed: Gate = frozenset().union(*outside)
        if self.pad_operands and needed and needed <= gate and len(node.shape) > 1:
            address = self._in_padded_copy(node, indices, outside)
            if address is not None:
                self.reads.setdefault(address.src[0], set()).add(None)
                load = address.load()
                self._zero_outside[load] = needed
                return load
        if node in self.relaid and not needed and state is None:
            layout = self.relaid[node]
            copy = self._copy(layout.applied(node))
            self.reads.setdefault(copy, set()).add(None)
            return copy.index(self.place(node.shape, indices, layout)).load()
        self.reads.setdefault(buffer, set()).add(state)
        address = buffer.index(self.place(node.shape, indices, self.layouts.get(node)))
        if not needed:
            mask = self.masks.get(node) if state is None else None
            return self._masked(address.load(), indices, mask) if mask else address.load()
        # Only what concerns this index: other conditions would keep the load inside inner loops.
        ranges = address.ranges
        clauses = frozenset(c for c in gate if c.ranges & ranges or not c.ranges)
        if not clauses:
            return address.load()
        load = address.load(UOp.const(0, buffer.dtype), conjunction(clauses))
        self._zero_outside[load] = clauses
        return load

    def _masked(self, load: UOp, indices: Indices, mask: Mask) -> UOp:
        """The LOAD with a gate that says where memory holds a constant."""
        moved = dict(zip(mask.indices, indices))
        gate = [self.simplify(substitute_ranges(c, moved)) for c in mask.conditions]
        gate = [c for c in gate if not c.is_const]
        if not gate:
            return load
        other = UOp.const(mask.constant, load.dtype)
        return load.replace(src=(*load.src, other, conjunction(frozenset(gate))), arg="held")

    def _in_padded_copy(self, node: UOp, indices: Indices, outside: list[set[UOp]]) -> UOp | None:
        """The address in a zero-padded copy, which then is in `padded`; None for one too large."""
        amounts, moved = [], []
        for i, n, clauses in zip(indices, node.shape, outside):
            low, high = i.bounds if clauses else (0, n - 1)
            before, after = max(-low, 0), max(high - n + 1, 0)
            amounts.append((before, after))
            moved.append(i + before if before else i)
        padded = node.pad(tuple(amounts))
        if padded.size > 4 * node.size + 4096:
            return None
        places = tuple([self.simplify(i) for i in moved])
        return self._copy(padded).index(self.place(padded.shape, places, self.layouts.get(node)))

    def _copy(self, node: UOp) -> UOp:
        """The BUFFER of a copy that a kernel of its own makes."""
        copy = self.held.get(node) or self.copies.get(node)
        if copy is None:
            copy = self.copies[node] = UOp.buffer(node.size, node.dtype, node.device)
        return copy

    def _note_zero(self, result: UOp) -> None:
        """Where sources are zero outside of a gate, many operations keep it so."""
        known = [self._zero_outside.get(s, _OPEN) for s in result.src]
        if result.op is Op.MUL:
            zero = known[0] | known[1]
        elif result.op in _ZERO_FROM_ALL:
            zero = known[0].intersection(*known[1:])
        elif result.op is Op.WHERE:
            zero = known[1] & known[2]
        else:
            return
        if zero:
            self._zero_outside[result] = zero


_ZERO_FROM_ALL = frozenset(
    {Op.ADD, Op.CAST, Op.MAX, Op.MIN, Op.SQRT, Op.TRUNC, Op.SIN, Op.BITCAST, Op.AND, Op.OR}
)


def conjunction(clauses: Gate) -> UOp:
    """The conjunction, in an order that does not depend on hashing."""
    ordered = sorted(clauses, key=clause_key)
    result = ordered[0]
    for c in ordered[1:]:
        result = result & c
    return result


def _implies(gate: Gate, condition: UOp) -> UOp:
    return condition | conjunction(gate).logical_not() if gate else condition


def clause_key(clause: UOp) -> tuple:
    """A total order on conditions that is the same in every process."""
    ids = sorted(r.arg.id for r in clause.ranges)
    rest = [(n.op.name, repr(n.arg)) for n in clause.toposort() if n.op is not Op.RANGE]
    return (ids, clause.op is Op.XOR, rest)
