"""Makes the plan of a normalised graph: place, build kernels, optimise, lower, render, compile."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from dovetile.environment import settings
from dovetile.errors import GraphError
from dovetile.ir.ops import Op
from dovetile.ir.rewrite import substitute
from dovetile.ir.spec import check
from dovetile.ir.uop import UOp, toposort
from dovetile.lower import lower
from dovetile.optimize import optimize
from dovetile.plugins.passes import run_passes
from dovetile.profiling import stage
from dovetile.runtime import Device, Program
from dovetile.runtime.compile import binary_keys, compile_programs
from dovetile.schedule import blocks, channels, debug, unit_operands
from dovetile.schedule.dependencies import Kernel, NeedsCopy
from dovetile.schedule.kernels import FAULT_SLOT, KernelMaker, StaysApart, fault_code
from dovetile.schedule.keys import digest
from dovetile.schedule.loops import canonical
from dovetile.schedule.memory import Life
from dovetile.schedule.memory import plan as plan_memory
from dovetile.schedule.place import is_memory, place
from dovetile.schedule.plan import Memory, Plan, Reference, Step
from dovetile.schedule.simplify import simplify_tensors

# More threads than this find no more sources to compile.
_MOST_COMPILERS = 8
_SWITCH_SECONDS = 0.0005


def make_plan(sink: UOp, devices: Mapping[str, Device], default: str) -> tuple[Plan, list[Program]]:
    """The plan of a graph whose BUFFERs are slots, and its programs, compiled."""
    with _tuned_interpreter():
        return _make_plan(sink, devices, default)


@contextlib.contextmanager
def _tuned_interpreter() -> Iterator[None]:
    """Pauses the cyclic garbage collector: graphs have no cycles, but so many nodes that looking
    for some takes a third of the time. And lets threads that compile have the interpreter sooner:
    they need it for a moment now and then, and would wait 5 ms each time."""
    enabled, interval = gc.isenabled(), sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(min(interval, _SWITCH_SECONDS))
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        if enabled:
            gc.enable()


def _make_plan(
    sink: UOp, devices: Mapping[str, Device], default: str
) -> tuple[Plan, list[Program]]:
    started = time.perf_counter()
    kernels, maker, sink = schedule(sink, devices, default)
    debug.kernels(kernels, time.perf_counter() - started)
    plan = Plan()
    memory = _Memory(plan, sink, maker, kernels)
    written = {buffer for kernel in kernels for buffer in kernel.writes}
    code = _Code(devices)
    for kernel in kernels:
        if kernel.ast is None:
            (source,), (target,) = kernel.reads, kernel.writes
            plan.steps.append(
                Step(kernel.device, None, (memory.of(target), memory.of(source)), label="copy")
            )
            continue
        with stage("canonical"):
            ast, buffers = canonical(kernel.ast)
        check(ast, "loop", "canonical")
        # What no kernel writes is known before the first of them is complete.
        steady = frozenset(
            slot
            for slot, buffer in enumerate(buffers)
            if buffer not in written and buffer.arg.slot >= 0
        )
        number, grid = code.number_of(kernel.device, ast, steady)
        references = tuple(memory.of(b) for b in buffers)
        prepares = kernel.prepares and written.isdisjoint(kernel.reads)
        before = plan.steps[-1] if plan.steps else None
        early = (
            devices[kernel.device].capabilities.early_launches
            and before is not None
            and before.program is not None
            and before.device == kernel.device
            and before.parts > 0
            and not before.prepares
        )
        plan.steps.append(
            Step(kernel.device, number, references, *grid, *debug.figures(ast), prepares, early)
        )
        for c in kernel.checks:
            plan.faults[fault_code(c.text)] = c.text
    with stage("memory"):
        memory.place()
    with stage("wait for compilers"):
        programs = code.programs()
    plan.programs = code.names()
    debug.plan(plan, time.perf_counter() - started)
    return plan, programs


def schedule(
    sink: UOp, devices: Mapping[str, Device], default: str
) -> tuple[list[Kernel], KernelMaker, UOp]:
    """(the kernels in order, the maker that knows their buffers, the simplified graph)."""
    capabilities = {name: d.capabilities for name, d in devices.items()}
    with stage("simplify"):
        simplified = simplify_tensors(sink, capabilities[default])
        simplified = run_passes("tensor", simplified, capabilities[default])
        sink = _own_results(sink, simplified)
    check(sink, "tensor", "schedule.simplify")
    # Each round settles the readers of one state of one buffer, or one reduction, so that they are
    # soon all settled.
    unsettled = (Op.BUFFER, Op.AFTER, Op.REDUCE)
    apart: frozenset[UOp] = frozenset()
    for _ in range(1 + sum(n.op in unsettled for n in toposort(sink))):
        with stage("place"):
            placement = place(sink, capabilities[default], apart)
            if "GROUP" not in capabilities[default].parallel_axes:
                blocks.choose(placement, capabilities[default].vector_bytes)
            channels.choose(placement, capabilities[default])
            unit_operands.choose(placement, capabilities[default])
        maker = KernelMaker(placement, capabilities, default)
        try:
            with stage("kernels"):
                return maker.run(), maker, sink
        except NeedsCopy as conflict:
            sink = _copy_state(sink, conflict.state)
        except StaysApart as refused:
            apart |= {refused.contraction}
    raise GraphError("[schedule] copies of what is overwritten do not untangle its readers")


def _own_results(sink: UOp, simplified: UOp) -> UOp:
    """A result that turned out to be an input, such as x * 1, becomes a copy of it: otherwise it
    would change when the input is assigned to."""
    roots = [
        new.stage() if is_memory(new) and not is_memory(old) else new
        for old, new in zip(sink.src, simplified.src)
    ]
    return UOp.sink(*roots)


def _copy_state(sink: UOp, state: UOp) -> UOp:
    """The graph with reads of a buffer in some state going to a copy made in that state."""
    done: dict[UOp, UOp] = {}
    # Where a node stands for memory and not for a value, it goes on standing for that memory.
    places: dict[UOp, UOp] = {}
    for node in toposort(sink):
        if node.op in (Op.STORE, Op.AFTER):
            target = _place(node.src[0], places)
            made = node.replace(src=(target, *(done[s] for s in node.src[1:])))
        elif node is sink:
            made = node.replace(src=tuple(_root(s, done, places) for s in node.src))
        else:
            made = node.replace(src=tuple(done[s] for s in node.src))
        if node.op in (Op.BUFFER, Op.AFTER):
            places[node] = made
        done[node] = made.stage() if node is state else made
    return done[sink]


def _place(view: UOp, places: Mapping[UOp, UOp]) -> UOp:
    """A view of memory after the writes to it were rebuilt."""
    return substitute(view, {n: places[n] for n in toposort(view) if n in places})


def _root(root: UOp, done: Mapping[UOp, UOp], places: Mapping[UOp, UOp]) -> UOp:
    """A result: still in its buffer where it was."""
    base = root
    while base.op is Op.RESHAPE:
        base = base.src[0]
    return _place(root, places) if base.op is Op.AFTER else done[root]


# How many workgroups (or parts) a kernel is launched with, and threads in each.
Grid = tuple[int, int]


class _Code:
    """The distinct kernels of a plan. Each is compiled in the background as soon as its source is
    known, while the next ones are still being made."""

    def __init__(self, devices: Mapping[str, Device]) -> None:
        self.devices = devices
        self.numbers: dict[tuple[str, UOp, frozenset[int]], int] = {}
        self.kernels: list[tuple[str, str, str, Grid]] = []  # device, name, source, grid
        self.pending: list[Future[Program]] = []
        # One core is for this thread, which makes the sources.
        workers = max(1, min((os.cpu_count() or 2) - 1, _MOST_COMPILERS))
        self.pool = ThreadPoolExecutor(workers, thread_name_prefix="compile")

    def number_of(
        self, device: str, ast: UOp, steady: frozenset[int] = frozenset()
    ) -> tuple[int, Grid]:
        """(number of the kernel among those of the plan, its grid).

        steady: slots of buffers that no kernel of the plan writes.
        """
        if steady and not self.devices[device].capabilities.early_launches:
            steady = frozenset()
        if (device, ast, steady) not in self.numbers:
            number = self.numbers[device, ast, steady] = len(self.kernels)
            name, source, grid = _source_of(self.devices[device], ast, steady)
            self.kernels.append((device, name, source, grid))
            self.pending.append(self.pool.submit(self.compile, number))
        number = self.numbers[device, ast, steady]
        return number, self.kernels[number][3]

    def programs(self) -> list[Program]:
        """All programs, once they are compiled. Raises CompileError."""
        try:
            # From the end, while the pool goes on from the front: this thread is free now.
            mine = {n: self.compile(n) for n, p in _last_first(self.pending) if p.cancel()}
            return [mine[n] if n in mine else p.result() for n, p in enumerate(self.pending)]
        finally:
            self.pool.shutdown(wait=False, cancel_futures=True)

    def compile(self, number: int) -> Program:
        """The program of a kernel, from the cache or the compiler."""
        device, name, source, _ = self.kernels[number]
        return compile_programs(self.devices[device], [(name, source)])[0]

    def names(self) -> list[tuple[str, str, str]]:
        """(device, name, key of the compiled code) of each."""
        return [
            (d, name, binary_keys(self.devices[d].compiler, [source])[0])
            for d, name, source, _ in self.kernels
        ]


def _last_first(pending: list[Future[Program]]) -> Iterator[tuple[int, Future[Program]]]:
    return zip(reversed(range(len(pending))), reversed(pending))


# Sources of kernels made before: other graphs of this process have many kernels in common.
_sources: OrderedDict[tuple, tuple[str, str, Grid]] = OrderedDict()
_MOST_SOURCES = 2048


def _source_of(device: Device, ast: UOp, steady: frozenset[int]) -> tuple[str, str, Grid]:
    """(name, source, grid) of a canonical kernel on a device."""
    key = (device.capabilities, device.renderer.language, settings(), ast, steady)
    found = _sources.get(key)
    if found is None:
        name = f"kernel_{digest(ast, *sorted(steady))[:16]}"
        with stage("optimize"):
            scheduled = run_passes("schedule", ast, device.capabilities)
            optimized = optimize(scheduled, device.capabilities, name, device)
            optimized = run_passes("optimize", optimized, device.capabilities)
        with stage("lower"):
            linear = lower(optimized, device.capabilities, name, steady)
        with stage("render"):
            source = device.renderer.render(linear)
        debug.source(name, optimized, source)
        found = _sources[key] = (name, source, (linear.parts, linear.threads))
        while len(_sources) > _MOST_SOURCES:
            _sources.popitem(last=False)
    return found


class _Memory:
    """Turns the BUFFERs of kernels into references, and plans where temporaries lie."""

    def __init__(self, plan: Plan, sink: UOp, maker: KernelMaker, kernels: list[Kernel]) -> None:
        self.plan = plan
        self.kernels = kernels
        self.known: dict[UOp, Reference] = {}
        self.temporaries: list[UOp] = []
        held = {buffer: node for node, buffer in maker.buffers.items()}
        results: dict[UOp, int] = {}
        for root in sink.src:
            base = root
            while base not in maker.buffers and base.op in (Op.RESHAPE, Op.AFTER):
                base = base.src[0]
            if base.op is Op.BUFFER:
                plan.outputs.append(None)
                continue
            buffer = maker.buffers[base]
            if buffer not in results:
                results[buffer] = len(results)
                device = buffer.arg.device or maker.default_device
                plan.results.append(Memory(device, buffer.arg.size, buffer.dtype))
                self.known[buffer] = Reference("result", results[buffer])
            plan.outputs.append(results[buffer])
        self.held = held
        self.default = maker.default_device

    def of(self, buffer: UOp) -> Reference:
        """The reference to a BUFFER of a kernel."""
        if buffer not in self.known:
            if buffer.arg.slot == FAULT_SLOT:
                self.known[buffer] = Reference("fault")
            elif buffer in self.held:
                self.known[buffer] = Reference("temporary", len(self.temporaries))
                self.temporaries.append(buffer)
            else:
                self.known[buffer] = Reference("input", buffer.arg.slot)
        return self.known[buffer]

    def place(self) -> None:
        """Gives every temporary its place in its device's arena."""
        first: dict[int, int] = {}
        last: dict[int, int] = {}
        kept: set[int] = set()
        for i, step in enumerate(self.plan.steps):
            for r in step.memory:
                if r.kind == "temporary":
                    first.setdefault(r.number, 0 if step.prepares else i)
                    last[r.number] = i
                    if step.prepares:
                        kept.add(r.number)
        last.update(dict.fromkeys(kept, len(self.plan.steps)))
        self.plan.temporaries = [
            Memory(b.arg.device or self.default, b.arg.size, b.dtype) for b in self.temporaries
        ]
        for device in {m.device for m in self.plan.temporaries}:
            mine = [i for i, m in enumerate(self.plan.temporaries) if m.device == device]
            lives = [Life(self.plan.temporaries[i].nbytes, first[i], last[i]) for i in mine]
            offsets, total = plan_memory(lives)
            for i, offset in zip(mine, offsets):
                self.plan.temporaries[i].offset = offset
            self.plan.arenas[device] = total
