"""Makes lazy values real: normalise the graph, find or make its plan, run the plan.

`realize` is the one entry. Graphs that differ in their buffers alone have one plan: it is found in
memory by a key in which the buffers are numbered slots, else on disk by the graph in that form.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Iterable, Sequence

from dovetile import cache
from dovetile.environment import settings
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

_realized: weakref.WeakKeyDictionary[UOp, UOp] = weakref.WeakKeyDictionary()
_memory: weakref.WeakKeyDictionary[UOp, Buffer] = weakref.WeakKeyDictionary()
_plans: dict[tuple, LoadedPlan] = {}
_lock = threading.RLock()
_runs = 0
_VIEWS = frozenset({Op.RESHAPE, Op.PERMUTE, Op.SHRINK, Op.FLIP, Op.EXPAND, Op.AFTER})
_NAMESPACE = "schedule"
_MOST_PLANS = 4096


def attach(buffer: UOp, memory: Buffer) -> None:
    """Makes `memory` the memory of a BUFFER node."""
    _memory[buffer] = memory


def runs() -> int:
    """How many graphs have been run: while it stays, no node has become memory."""
    return _runs


def memories() -> list[Buffer]:
    """All memory that nodes refer to."""
    return list(_memory.values())


def memory_of(node: UOp) -> Buffer | None:
    """The memory that a value is, or is a view of; None where it is not computed yet."""
    node = _realized.get(node, node)
    while node.op is not Op.BUFFER:
        if node.op not in _VIEWS:
            return None
        node = node.src[0]
        node = _realized.get(node, node)
    return _memory.get(node)


def whole_memory(node: UOp) -> Buffer | None:
    """The memory of a BUFFER, at most reshaped; None for other nodes."""
    while node.op is Op.RESHAPE:
        node = node.src[0]
    return _memory.get(node) if node.op is Op.BUFFER else None


def buffer_of(node: UOp) -> Buffer:
    """The memory of a BUFFER node (or of a realised view of a whole one)."""
    node = strip(node)
    while node.op is Op.RESHAPE:
        node = node.src[0]
    return _memory[node]


def realized(node: UOp) -> UOp:
    """The view of memory that `node` has become, or `node` itself."""
    return _realized.get(node, node)


def forget(node: UOp) -> None:
    """Compute `node` again when it is needed: what it has become is about to be overwritten."""
    _realized.pop(node, None)


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
        roots = [
            v for v in dict.fromkeys(values) if not is_realized(realized(v)) and not is_constant(v)
        ]
        if roots:
            run(roots)


def run(roots: list[UOp]) -> None:
    global _runs
    _runs += 1
    with stage("read"):
        key, slots, nodes = _read(roots)
    written = _written(nodes)
    if written:
        record = recording.get()
        if record is not None:
            for buffer in written:
                if (memory := _memory.get(buffer)) is not None:
                    record.add_written(memory)
        extra = pending_readers(written, roots)
        if extra:
            roots = roots + extra
            key, slots, nodes = _read(roots)
    with stage("find plan"):
        plan = _plans.get(key)
        if plan is None:
            plan = _make(normalize(roots, nodes)[0])
            if len(_plans) >= _MOST_PLANS:
                _plans.clear()
            _plans[key] = plan
    memory = [_memory[b] for b in slots]
    with stage("launch"):
        results = plan.run(memory)
    for root, number in zip(roots, plan.plan.outputs):
        if number is None:
            _realized[root] = _final(root)
        else:
            made = plan.plan.results[number]
            buffer = UOp.buffer(made.size, made.dtype, results[number].device.name)
            attach(buffer, results[number])
            _realized[root] = buffer.reshape(root.shape)
    for node in nodes:
        if node.op is Op.AFTER and node not in _realized:
            final = _final(node)
            if is_realized(final):
                _realized[node] = final


def _final(node: UOp) -> UOp:
    """A chain of AFTER and RESHAPE with everything it waited for done."""
    chain = []
    while node not in _realized and node.op in (Op.AFTER, Op.RESHAPE):
        if node.op is Op.RESHAPE:
            chain.append(node)
        node = node.src[0]
    node = _realized.get(node, node)
    for move in reversed(chain):
        node = move.replace(src=(node, *move.src[1:]))
    return node


def _read(roots: Sequence[UOp]) -> tuple[tuple, dict[UOp, int], list[UOp]]:
    """(what decides which plan this is, the BUFFERs in slot order, the nodes to compute).

    Two graphs with one key have one normal form. Every eager operation pays for this: it is one
    pass, which makes no nodes.
    """
    key: list[object] = [default_device_name(), settings()]
    numbers: dict[UOp, int] = {}
    slots: dict[UOp, int] = {}
    nodes: list[UOp] = []
    stack = list(reversed(roots))
    while stack:
        node = stack[-1]
        if node in numbers:
            stack.pop()
            continue
        op = node.op
        view = node if op is Op.BUFFER else _realized.get(node)
        if view is not None:
            while view.op is not Op.BUFFER:
                key.append((view.op, view.arg, view.src[1:]))
                view = view.src[0]
            slot = slots.setdefault(view, len(slots))
            key.append((slot, view.dtype, view.arg[1:]))
        elif not node.src:
            key.append(node)
        else:
            waiting = [s for s in node.src if s not in numbers]
            if waiting:
                stack += reversed(waiting)
                continue
            key.append((op, node.dtype, node.arg, *[numbers[s] for s in node.src]))
        numbers[node] = len(key)
        nodes.append(node)
        stack.pop()
    key += [numbers[root] for root in roots]
    return tuple(key), slots, nodes


def normalize(roots: Sequence[UOp], nodes: Iterable[UOp]) -> tuple[UOp, tuple[UOp, ...]]:
    """(SINK of the roots with BUFFERs as numbered slots, the BUFFERs in slot order)."""
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

    for node in nodes:
        known = _realized.get(node)
        if known is not None:
            done[node] = slotted(known)
        elif node.op is Op.BUFFER:
            done[node] = slotted(node)
        elif not node.src:
            done[node] = node
        elif node.op is Op.AFTER and len(node.src) == 1:
            done[node] = done[node.src[0]]  # it only tells gradients to stop
        else:
            done[node] = node.with_sources(tuple([done[s] for s in node.src]))
    return UOp.sink(*(done[r] for r in roots)), tuple(slots)


def _written(nodes: Iterable[UOp]) -> set[UOp]:
    """The BUFFERs that STOREs among the nodes write to."""
    written = set()
    for node in nodes:
        if node.op is Op.STORE:
            base = node.src[0]
            while base.op is not Op.BUFFER and base.src:
                base = base.src[0]
            written.add(base)
    return written


def pending_readers(written: set[UOp], roots: Sequence[UOp] = ()) -> list[UOp]:
    """Lazy values of live tensors, beside the roots, that read BUFFERs to be overwritten."""
    from dovetile.tensor import live_tensors

    chosen = set(roots)
    waiting = [
        u
        for t in live_tensors()
        if (u := t.uop) not in chosen and u not in _realized and not is_realized(u)
    ]
    if not waiting:
        return []
    touches: dict[UOp, bool] = {}
    for node in toposort(waiting, enter=lambda n: n not in _realized):
        known = _realized.get(node)
        if known is not None:
            base = known
            while base.src:
                base = base.src[0]
            touches[node] = base in written
        else:
            touches[node] = node in written or any(touches[s] for s in node.src)
    return [u for u in dict.fromkeys(waiting) if touches[u]]


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
