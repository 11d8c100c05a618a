"""What launches and copies cost on a GPU: ours against PyTorch's, in one process, in turns.

    python benchmarks/gpu_runtime.py [ROW ...]      rows by the beginning of their names

A row is one figure of the runtime: an operation of 1024 numbers and the wait for it, the host's
part of such an operation, kernels of a replayed list (a CUDA graph for PyTorch), copies between
pinned memory and the GPU's. Replays are timed by the GPU's own clock where it has one. Needs
PyTorch with CUDA and the NVIDIA device.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from dovetile import Tensor
from dovetile.runtime import Buffer, Launch, Program, Timestamp, compile_programs, get_device

_KERNELS = 1000  # of a replayed list
_COPY_BYTES = 256 << 20
_TURNS = 7
_SECONDS = 0.02  # of a turn

# PyTorch's counterparts add one to as many numbers: it has no empty kernel.
SOURCE = """
extern "C" __global__ void __launch_bounds__(256) empty(float* x) {}
extern "C" __global__ void __launch_bounds__(256) add_one(float* x) {
  x[blockIdx.x * 256 + threadIdx.x] += 1.0f;
}
"""


@dataclass(frozen=True)
class Row:
    """One figure. ours, theirs: measure it once."""

    name: str
    unit: str
    ours: Callable[[], float]
    theirs: Callable[[], float]
    more_is_better: bool = False


def per_call(run: Callable[[], object], wait: Callable[[], object]) -> float:
    """Microseconds of `run`, with one wait behind all of them."""
    run()
    wait()
    count, start = 0, time.perf_counter()
    while count < 1000 and time.perf_counter() - start < _SECONDS:
        run()
        count += 1
    spent = time.perf_counter() - start
    wait()
    return spent / count * 1e6


def waited(run: Callable[[], object], wait: Callable[[], object]) -> float:
    """Microseconds of `run` and the wait for it: the median."""
    times = []
    end = time.perf_counter() + _SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6


@cache
def programs() -> dict[str, Program]:
    names = ("empty", "add_one")
    return dict(zip(names, compile_programs(get_device(), [(name, SOURCE) for name in names])))


def our_launch() -> float:
    device = get_device()
    buffer = Buffer.from_numpy(device, np.zeros(256, np.float32))
    queue, program = device.queue, programs()["empty"]
    return waited(lambda: queue.launch(program, (buffer,), (), (1,), (256,)), queue.synchronize)


def their_launch() -> float:
    x = torch.zeros(256, device="cuda")
    return waited(lambda: x.add_(1), torch.cuda.synchronize)


def our_operation(measure: Callable[..., float]) -> float:
    a, b = (Tensor(np.ones(1024, np.float32)).realize() for _ in range(2))
    return measure(lambda: (a + b).realize(), get_device().synchronize)


def their_operation(measure: Callable[..., float]) -> float:
    a, b = (torch.ones(1024, device="cuda") for _ in range(2))
    return measure(lambda: a + b, torch.cuda.synchronize)


def our_replay(kernel: str, groups: int) -> float:
    device = get_device()
    content = np.zeros(groups * 256, np.float32)
    buffer = Buffer.from_numpy(device, content)
    first, last = device.new_signal(), device.new_signal()
    launch = Launch(programs()[kernel], (buffer,), (), (groups,), (256,))
    replay = device.queue.capture([Timestamp(first), *[launch] * _KERNELS, Timestamp(last)])
    times = []
    for _ in range(_TURNS):
        replay.submit()
        device.synchronize()
        times.append((last.value - first.value) / 1e3 / _KERNELS)
    if kernel == "add_one":
        assert (buffer.to_numpy() == _TURNS * _KERNELS).all(), "launches are missing"
    return statistics.median(times)


def their_replay(kernel: str, groups: int) -> float:
    x = torch.zeros(groups * 256, device="cuda")
    with torch.cuda.stream(torch.cuda.Stream()):
        x.add_(1)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(_KERNELS):
            x.add_(1)
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(_TURNS):
        first.record()
        graph.replay()
        last.record()
        torch.cuda.synchronize()
        times.append(first.elapsed_time(last) * 1e3 / _KERNELS)
    return statistics.median(times)


def rate(run: Callable[[], object], wait: Callable[[], object]) -> float:
    """GB/s of a copy of `_COPY_BYTES`."""
    return _COPY_BYTES / waited(run, wait) / 1e3


def our_copy(to_device: bool) -> float:
    device = get_device()
    pinned, buffer = device.interface.pin(_COPY_BYTES), Buffer(device, _COPY_BYTES)  # type: ignore[attr-defined]
    ends = [buffer.address, pinned.address]
    destination, source = ends if to_device else reversed(ends)
    queue = device.queue
    result = rate(
        lambda: queue.transfer(destination, source, _COPY_BYTES),  # type: ignore[attr-defined]
        queue.synchronize,
    )
    device.interface.unpin(pinned)  # type: ignore[attr-defined]
    return result


def their_copy(to_device: bool) -> float:
    pinned = torch.empty(_COPY_BYTES, dtype=torch.uint8, pin_memory=True)
    buffer = torch.empty(_COPY_BYTES, dtype=torch.uint8, device="cuda")
    destination, source = (buffer, pinned) if to_device else (pinned, buffer)
    return rate(lambda: destination.copy_(source, non_blocking=True), torch.cuda.synchronize)


def our_peer() -> float:
    """From one GPU to the other, at the command of the one that receives."""
    first, second = get_device("NV"), get_device("NV:1")
    source, destination = (Buffer(device, _COPY_BYTES) for device in (first, second))
    _ = source.address, destination.address
    if not second.reaches(first):
        raise SystemExit("copy-peer: the GPUs do not reach each other")
    return rate(lambda: second.queue.copy(destination, source), second.queue.synchronize)


def their_peer() -> float:
    source, destination = (
        torch.empty(_COPY_BYTES, dtype=torch.uint8, device=f"cuda:{index}") for index in range(2)
    )
    return rate(lambda: destination.copy_(source, non_blocking=True), _wait_for_both)


def _wait_for_both() -> None:
    for index in range(2):
        torch.cuda.synchronize(index)


def our_numpy(to_device: bool) -> float:
    """From and to memory that the driver does not know."""
    device, content = get_device(), np.ones(_COPY_BYTES, np.uint8)
    buffer = Buffer.from_numpy(device, content)
    copy = buffer.copy_in if to_device else buffer.copy_out
    return rate(lambda: copy(content), lambda: None)


def their_numpy(to_device: bool) -> float:
    content = torch.ones(_COPY_BYTES, dtype=torch.uint8)
    buffer = content.cuda()
    destination, source = (buffer, content) if to_device else (content, buffer)
    return rate(lambda: destination.copy_(source), torch.cuda.synchronize)


def rows() -> list[Row]:
    found = [
        Row("launch-and-wait", "us", our_launch, their_launch),
        Row("operation-and-wait", "us", lambda: our_operation(waited),
            lambda: their_operation(waited)),
        Row("operation-host", "us", lambda: our_operation(per_call),
            lambda: their_operation(per_call)),
    ]  # fmt: skip
    for kernel, groups in (("empty", 1), ("add_one", 1), ("add_one", 16)):
        found.append(
            Row(
                f"replay-{kernel}-{groups}",
                "us",
                lambda k=kernel, g=groups: our_replay(k, g),
                lambda k=kernel, g=groups: their_replay(k, g),
            )
        )
    for way, to_device in (("in", True), ("out", False)):
        found += [
            Row(f"copy-pinned-{way}", "GB/s", lambda t=to_device: our_copy(t),
                lambda t=to_device: their_copy(t), True),
            Row(f"copy-numpy-{way}", "GB/s", lambda t=to_device: our_numpy(t),
                lambda t=to_device: their_numpy(t), True),
        ]  # fmt: skip
    if torch.cuda.device_count() > 1:
        found.append(Row("copy-peer", "GB/s", our_peer, their_peer, True))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", help="beginnings of names; all by default")
    arguments = parser.parse_args()
    x = torch.randn(8192, 8192, device="cuda")
    for _ in range(20):  # clocks of an idle GPU are low
        x @ x
    torch.cuda.synchronize()
    for row in rows():
        if arguments.rows and not row.name.startswith(tuple(arguments.rows)):
            continue
        turns = [(row.ours(), row.theirs()) for _ in range(_TURNS)]
        ours, theirs = (statistics.median(column) for column in zip(*turns))
        ratio = ours / theirs if row.more_is_better else theirs / ours
        print(
            f"{row.name:24s} {ours:8.2f} {row.unit:5s} PyTorch {theirs:8.2f}; "
            f"{ratio:5.2f} times as fast",
            flush=True,
        )


if __name__ == "__main__":
    main()
