"""A process that builds and measures candidates, so that a bad one harms nobody.

A fresh interpreter, which reads requests from its standard input and answers on its standard
output. It never imports the user's program. When a request takes too long, or its parent is gone,
it ends itself; compilers that crash and kernels that hang end it too, and the parent sees the pipe
close.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import AddressSpace, AxisKind, Op
from dovetile.ir.uop import UOp, toposort
from dovetile.lower import lower
from dovetile.optimize.analysis import extent
from dovetile.optimize.bounds_check import require_in_bounds
from dovetile.optimize.opts import Opt, OptError, apply_opts
from dovetile.runtime import Buffer, Program, get_device

_MOST_COPIES = 1024
_LENGTH = struct.Struct("<Q")
_WARM_SECONDS = 0.01
# Inputs repeat after so many elements: a prime, so that no axis lines up with it.
_PERIOD = 1_000_003
# What rounding may change when sums are taken in another order, as a share of the largest value.
_TOLERANCE = {8: 1e-9, 4: 1e-4, 2: 3e-2}


# -- Requests and answers ----------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """The kernel that a search is about."""

    kernel: UOp
    device: str
    name: str
    reference: tuple[Opt, ...] = ()
    """Candidates must give the results of these Opts: none, unless that takes too long."""


@dataclass(frozen=True)
class Build:
    """Compile the kernel under these Opts. Answered by Built."""

    task: Task
    opts: tuple[Opt, ...]


@dataclass(frozen=True)
class Built:
    binary: bytes
    parts: int
    threads: int
    scalars: tuple[int, ...]


@dataclass(frozen=True)
class Reference:
    """Compute what candidates are compared with. Answered by the seconds of one run."""

    task: Task


@dataclass(frozen=True)
class Measure:
    """Run a candidate, compare its results, time it. Answered by seconds.

    best: the least seconds so far; a candidate that is hopeless against it is run but twice.
    """

    task: Task
    built: Built
    best: float
    runs: int = 10


@dataclass(frozen=True)
class Refused:
    """Why there is no other answer."""

    reason: str


Request = Build | Reference | Measure


# -- What a worker does ------------------------------------------------------------------------


class Bench:
    """One kernel on one device: builds candidates, runs and compares them."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.device = get_device(task.device)
        self._expected: dict[int, np.ndarray] | None = None

    def build(self, opts: Sequence[Opt]) -> Built:
        """The candidate's binary. Raises where it is not legal, too long, or out of bounds."""
        capabilities = self.device.capabilities
        kernel = apply_opts(self.task.kernel, opts)
        require_in_bounds(kernel, self.task.name)
        copies = max((_copies(n) for n in toposort(kernel)), default=1)
        if copies > _MOST_COPIES:
            raise OptError(f"[search] {copies} copies of one operation; at most {_MOST_COPIES}")
        linear = lower(kernel, capabilities, self.task.name)
        if linear.local_bytes > capabilities.local_bytes:
            raise OptError(
                f"[search] {linear.local_bytes} bytes of LOCAL memory; the device has "
                f"{capabilities.local_bytes}"
            )
        source = self.device.renderer.render(linear)
        scalars = tuple(int(v.maximum) for v in linear.variables)
        return Built(self.device.compiler.compile(source), linear.parts, linear.threads, scalars)

    def reference(self) -> float:
        """Seconds of one run of the reference; its results are what candidates must give."""
        built = self.build(self.task.reference)
        self._allocate()
        program = self.device.load(built.binary, self.task.name)
        seconds = self._run(program, built)
        self._expected = {slot: self.buffers[slot].to_numpy() for slot in self.contents}
        return seconds

    def measure(self, built: Built, best: float, runs: int) -> float:
        """Least seconds of several runs. Raises OptError where a result is wrong."""
        if self._expected is None:
            self.reference()
        assert self._expected is not None
        program = self.device.load(built.binary, self.task.name)
        for slot, content in self.contents.items():
            self.buffers[slot].copy_in(content)
        self._run(program, built)
        for slot, expected in self._expected.items():
            if not same(self.buffers[slot].to_numpy(), expected):
                raise OptError(f"[search] buffer {slot} has other content than the reference")
        self._warm_up(program, built)
        least, total = float("inf"), 0.0
        for run in range(max(runs, 2)):
            seconds = self._run(program, built)
            least, total = min(least, seconds), total + seconds
            if run >= 1 and (least > 2 * best or total > 0.25):
                break
        return least

    def _warm_up(self, program: Program, built: Built) -> None:
        """Runs until the clocks are those of a busy device: idle ones may be several times slower,
        and the first candidates of a round would look bad."""
        end = time.perf_counter() + _WARM_SECONDS
        while self._run(program, built) < _WARM_SECONDS and time.perf_counter() < end:
            pass

    def _allocate(self) -> None:
        nodes = toposort(self.task.kernel)
        nodes = [n for n in nodes if n.op is Op.BUFFER and n.arg.space is AddressSpace.GLOBAL]
        stores = (n for n in toposort(self.task.kernel) if n.op is Op.STORE)
        written = {n.src[0].src[0] for n in stores}
        random = np.random.default_rng(0)
        self.buffers: dict[int, Buffer] = {}
        self.contents: dict[int, np.ndarray] = {}
        for node in sorted(nodes, key=lambda n: n.arg.slot):
            content = numbers(random, node.dtype, node.arg.size)
            self.buffers[node.arg.slot] = Buffer.from_numpy(self.device, content)
            if node in written:
                self.contents[node.arg.slot] = content

    def _run(self, program: Program, built: Built) -> float:
        queue = self.device.queue
        start, stop = self.device.new_signal(), self.device.new_signal()
        queue.timestamp(start)
        buffers = tuple(self.buffers.values())
        queue.launch(program, buffers, built.scalars, (built.parts,), (built.threads,))
        queue.timestamp(stop)
        self.device.synchronize()
        return max(stop.value - start.value, 1) * 1e-9


def _copies(node: UOp) -> int:
    return extent(tuple(r for r in node.ranges if r.arg.kind is AxisKind.UNROLL))


def numbers(random: np.random.Generator, dtype: DType, count: int) -> np.ndarray:
    """`count` random numbers of a dtype, small ones; reproducible."""
    host = dtypes.to_numpy(dtype)
    if dtype.kind == "f":
        pattern = random.random(min(count, _PERIOD), np.float32) * 2 - 1
    else:
        low = {"b": 0, "u": 0, "i": -8}[dtype.kind]
        pattern = random.integers(low, 2 if dtype.kind == "b" else 32, min(count, _PERIOD))
    return np.resize(pattern.astype(host), count)


def same(got: np.ndarray, expected: np.ndarray) -> bool:
    """Whether two results agree: integers exactly, floats up to rounding."""
    size = got.dtype.itemsize
    if got.dtype.kind in "biu":
        return bool(np.array_equal(got, expected))
    got, expected = got.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(expected)
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True):
        return False
    got, expected = got[finite], expected[finite]
    scale = float(np.abs(expected).max(initial=0.0))
    return bool(np.all(np.abs(got - expected) <= _TOLERANCE[size] * scale))


# -- The process -------------------------------------------------------------------------------


def send(stream: IO[bytes], value: Any) -> None:
    """Write a value as one frame."""
    data = pickle.dumps(value)
    stream.write(_LENGTH.pack(len(data)) + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """The value of the next frame. Raises EOFError where the other side is gone."""
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(header)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return pickle.loads(data)


def answer(bench: Bench, request: Request) -> Any:
    """What a request asks for, or Refused with the reason."""
    try:
        if isinstance(request, Build):
            return bench.build(request.opts)
        if isinstance(request, Reference):
            return bench.reference()
        return bench.measure(request.built, request.best, request.runs)
    except Exception as error:
        return Refused(f"{type(error).__name__}: {error}")


def main() -> None:
    """Serve requests (seconds allowed, request) until standard input closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which then ends us
    # What plugins print must not get between the answers.
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    bench: Bench | None = None
    with open(os.devnull, "w") as nowhere:
        while True:
            try:
                seconds, request = receive(requests)
            except EOFError:
                return
            faulthandler.dump_traceback_later(seconds, exit=True, file=nowhere)
            try:
                if bench is None or bench.task != request.task:
                    bench = None
                    bench = Bench(request.task)
                reply = answer(bench, request)
            except Exception as error:
                reply = Refused(f"{type(error).__name__}: {error}")
            faulthandler.cancel_dump_traceback_later()
            send(answers, reply)
