"""Makes lazy values real: normalise the graph, find or make its plan, run the plan.

`realize` is the one entry. Graphs that differ in their buffers alone have one plan: it is found in
memory by a key in which the buffers are numbered slots, else on disk by the graph in that form.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import NamedTuple

from dovetile import cache, environment
from dovetile.dtypes import DType
from dovetile.environment import settings
from dovetile.ir.held import attach, become, realized, storage
from dovetile.ir.ops import Op
from dovetile.ir.spec import check
from dovetile.ir.uop import UOp, toposort
from dovetile.plugins import default_device_name
from dovetile.plugins.passes import passes_key
from dovetile.profiling import stage
from dovetile.runtime import Buffer, get_device
from dovetile.schedule.keys import code_fingerprint, digest
from dovetile.schedule.make import make_plan
from dovetile.schedule.plan import Plan
from dovetile.schedule.run import LoadedPlan, load_plan, recording

_plans: dict[tuple, _Known] = {}
_lock = threading.RLock()
_runs = 0
_known_context: tuple[object, tuple] = (None, ())
_VIEWS = frozenset({Op.RESHAPE, Op.PERMUTE, Op.SHRINK, Op.FLIP, Op.EXPAND, Op.AFTER})
# Looking up a member of an Enum is slow before Python 3.12.
_AFTER, _BUFFER, _CONST, _STORE = Op.AFTER, Op.BUFFER, Op.CONST, Op.STORE
_READY = frozenset({Op.BUFFER, Op.CONST, Op.RESHAPE, Op.EXPAND, Op.PERMUTE, Op.SHRINK, Op.FLIP})
_NAMESPACE = "schedule"
_MOST_PLANS = 4096


def runs() -> int:
    """How many graphs have been run: while it stays, no node has become memory."""
    return _runs


def count_run() -> None:
    """A captured step has kept values that it computed of memory: what writes to that memory from
    now on must say so, as after any run of a graph."""
    global _runs
    _runs += 1


def memory_of(node: UOp) -> Buffer | None:
    """The memory that a value is, or is a view of; None where it is not computed yet."""
    node = realized(node)
    while node.op is not Op.BUFFER:
        if node.op not in _VIEWS:
            return None
        node = realized(node.src[0])
    return storage(node).memory


def whole_memory(node: UOp) -> Buffer | None:
    """The memory of a BUFFER, at most reshaped; None for other nodes."""
    while node.op is Op.RESHAPE:
        node = node.src[0]
    return storage(node).memory if node.op is Op.BUFFER else None


def buffer_of(node: UOp) -> Buffer:
    """The memory of a BUFFER node (or of a realised view of a whole one)."""
    node = strip(node)
    while node.op is Op.RESHAPE:
        node = node.src[0]
    return node.held.memory


def is_realized(node: UOp) -> bool:
    """Whether this is a BUFFER, at most reshaped."""
    while node.op is Op.RESHAPE:
        node = node.src[0]
    return node.op is Op.BUFFER


def is_constant(node: UOp) -> bool:
    """Whether this is one number, at most moved and repeated."""
    while node.op in (Op.RESHAPE, Op.EXPAND, Op.PERMUTE, Op.SHRINK, Op.FLIP):
        node = node.src[0]
    return node.op is Op.CONST


def strip(node: UOp) -> UOp:
    """A view of memory without the AFTERs that led to its state."""
    chain = []
    while node.op in (Op.RESHAPE, Op.AFTER):
        if node.op is Op.RESHAPE:
            chain.append(node)
        node = node.src[0]
    for move in reversed(chain):
        node = node.reshape(move.arg)
    return node


def realize(values: Sequence[UOp]) -> None:
    """Computes all of these values; `realized` then gives what they have become.

    Values that other live tensors still have to read from a buffer that is overwritten are
    computed along, so that they keep the content they were built on. Constants get no memory:
    every graph with that constant would then read it there.
    """
    with _lock:
        roots = [v for v in dict.fromkeys(values) if v.held is None and not _is_ready(v)]
        if roots:
            run(roots)


def _is_ready(node: UOp) -> bool:
    """Whether there is nothing to compute: a BUFFER, at most reshaped, or a constant."""
    op = node.op
    return op in _READY and (op is _CONST or is_realized(node) or is_constant(node))


class _Known(NamedTuple):
    """The plan of a graph, and for each value that is asked for: (number of its result, arguments
    of its BUFFER, shape), or None where it is no memory of its own."""

    plan: LoadedPlan
    made: list[tuple[int, tuple[int, DType, str], tuple[int, ...]] | None]


def run(roots: list[UOp]) -> None:
    global _runs
    _runs += 1
    key, slots, written, states = _read(roots)
    if written:
        record = recording.get()
        if record is not None:
            for buffer in written:
                if (memory := storage(buffer).memory) is not None:
                    record.add_written(memory)
        extra = pending_readers(written, roots)
        if extra:
            roots = roots + extra
            key, slots, written, states = _read(roots)
    known = _plans.get(key)
    if known is None:
        with stage("find plan"):
            known = _find(roots, slots)
        if len(_plans) >= _MOST_PLANS:
            _plans.clear()
        _plans[key] = known
    results = known.plan.run([b.held.memory for b in slots])
    for root, made in zip(roots, known.made):
        if made is None:
            become(root, _final(root))
        else:
            number, kind, shape = made
            buffer = UOp.buffer(*kind)
            attach(buffer, results[number])
            flat = len(shape) == 1
            become(root, buffer if flat else UOp(Op.RESHAPE, buffer.dtype, (buffer,), shape))
    for node in states:
        if node.held is None:
            final = _final(node)
            if is_realized(final):
                become(node, final)


def _final(node: UOp) -> UOp:
    """A chain of AFTER and RESHAPE with everything it waited for done."""
    chain = []
    while node.held is None and node.op in (Op.AFTER, Op.RESHAPE):
        if node.op is Op.RESHAPE:
            chain.append(node)
        node = node.src[0]
    node = realized(node)
    for move in reversed(chain):
        node = move.replace(src=(node, *move.src[1:]))
    return node


def _context() -> tuple:
    """What decides about plans beside graphs."""
    global _known_context
    version = environment.version()
    if _known_context[0] != version:
        _known_context = version, (default_device_name(), settings())
    return _known_context[1]


_Graph = tuple[tuple, list[UOp], set[UOp], list[UOp]]


def _read(roots: Sequence[UOp]) -> _Graph:
    """What there is to compute: (key, slots, written, states).

    key: what decides which plan this is: two graphs with one key have one normal form.
    slots: the BUFFERs it reads or writes, in order. written: those of them that STOREs write to.
    states: the AFTERs.

    Every eager operation pays for this: it is one pass, which makes no nodes.
    """
    key: list[object] = [_context()]
    numbers: dict[UOp, int] = {}  # of nodes by the length of the key that ends with them
    places: dict[UOp, int] = {}  # of BUFFERs among the slots
    written: set[UOp] = set()
    states: list[UOp] = []
    stack = list(reversed(roots))
    while stack:
        node = stack[-1]
        if node in numbers:
            stack.pop()
            continue
        op = node.op
        row: list[object] = [op, node.dtype, node.arg]
        for source in node.src:
            number = numbers.get(source)
            if number is None:
                view = source.held if source.src else source
                if view is None:
                    stack.append(source)
                    continue
                while view.op in _VIEWS:
                    key.append((view.op, view.arg, view.src[1:]))
                    view = view.src[0]
                if view.op is _BUFFER:
                    key += (places.setdefault(view, len(places)), view.dtype, view.arg[1:])
                else:
                    key.append(view)
                number = numbers[source] = len(key)
            row.append(number)
        if stack[-1] is node:
            stack.pop()
            key.append(tuple(row))
            numbers[node] = len(key)
            if op is _AFTER:
                states.append(node)
            elif op is _STORE:
                written.add(_base(node.src[0]))
    key += [numbers[root] for root in roots]
    return tuple(key), list(places), written, states


def _base(target: UOp) -> UOp:
    """The BUFFER whose memory a STORE's target is."""
    while target.op is not Op.BUFFER and target.src:
        target = target.src[0]
    return target


def normalize(roots: Sequence[UOp], buffers: Sequence[UOp] = ()) -> UOp:
    """SINK of the roots with BUFFERs as numbered slots: first those given, then as they come."""
    done: dict[UOp, UOp] = {}
    slots: dict[UOp, UOp] = {}

    def slotted(view: UOp) -> UOp:
        chain = []
        while view.op is not Op.BUFFER:
            chain.append(view)
            view = view.src[0]
        if view not in slots:
            slots[view] = view.replace(arg=view.arg._replace(slot=len(slots)))
        node = slots[view]
        for move in reversed(chain):
            node = move.replace(src=(node, *move.src[1:]))
        return node

    for buffer in buffers:
        slotted(buffer)
    for node in toposort(roots, enter=lambda n: n.held is None):
        if node.op is Op.BUFFER:
            done[node] = slotted(node)
        elif node.held is not None:
            done[node] = slotted(node.held)
        elif not node.src:
            done[node] = node
        elif node.op is Op.AFTER and len(node.src) == 1:
            done[node] = done[node.src[0]]  # it only tells gradients to stop
        else:
            done[node] = node.with_sources(tuple([done[s] for s in node.src]))
    return UOp.sink(*(done[r] for r in roots))


def pending_readers(written: set[UOp], roots: Sequence[UOp] = ()) -> list[UOp]:
    """Lazy values of live tensors, beside the roots, that read BUFFERs to be overwritten."""
    from dovetile.tensor import live_tensors

    chosen = set(roots)
    waiting = [
        u
        for t in live_tensors()
        if (u := t.uop) not in chosen and u.held is None and not is_realized(u)
    ]
    if not waiting:
        return []
    touches: dict[UOp, bool] = {}
    for node in toposort(waiting, enter=lambda n: n.held is None):
        known = realized(node)
        if known is not node:
            touches[node] = _base(known) in written
        else:
            touches[node] = node in written or any(touches[s] for s in node.src)
    return [u for u in dict.fromkeys(waiting) if touches[u]]


def _find(roots: Sequence[UOp], slots: Sequence[UOp]) -> _Known:
    """The plan of a graph, and what it makes of the roots."""
    loaded = _make(normalize(roots, slots))
    results = [(m.size, m.dtype, loaded.devices[m.device].name) for m in loaded.plan.results]
    return _Known(
        loaded,
        [
            None if number is None else (number, results[number], root.shape)
            for root, number in zip(roots, loaded.plan.outputs)
        ],
    )


def _make(sink: UOp) -> LoadedPlan:
    """The plan of a graph that this process has not run yet."""
    default = default_device_name()
    names = {default}
    for node in toposort(sink):
        if node.op is Op.COPY:
            names.add(node.arg)
        elif node.op is Op.BUFFER and node.arg.device:
            names.add(node.arg.device)
    devices = {name: get_device(name) for name in sorted(names)}
    check(sink, "tensor", "building the graph")
    context = [
        (
            name,
            d.capabilities,
            d.compiler.fingerprint(),
            d.compiler.language,
            passes_key(d.capabilities),
        )
        for name, d in devices.items()
    ]
    text = digest(sink, default, context, settings(), code_fingerprint())
    entry = cache.get(_NAMESPACE, text)
    plan = Plan.from_json(entry[1]) if entry is not None else None
    loaded = load_plan(plan, devices) if plan is not None else None
    if loaded is None:
        plan, programs = make_plan(sink, devices, default)
        loaded = LoadedPlan(plan, devices, programs)
        cache.put(_NAMESPACE, text, {}, json.dumps(plan.to_json()).encode())
    return loaded
