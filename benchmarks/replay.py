"""What a launch costs: eager, and in a replayed list, beyond the kernels' own time.

    python benchmarks/replay.py [--kernels 100] [--repeats 200] [--device CPU]

The kernel adds one to a number. Its own time is measured as that of a Python-free loop over the
same list with the kernel's work done a thousandfold, so that only the difference is overhead.
Prints microseconds per kernel: medians, and the best.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from dovetile.runtime import Buffer, Device, Launch, Program, compile_programs, get_device

KERNEL = """
define i32 @count(ptr %buffers, ptr %scalars, i64 %part, ptr %scratch) {
entry:
  %base = load ptr, ptr %buffers
  %turns = load i64, ptr %scalars
  %b = getelementptr i64, ptr %base, i64 %part
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %old = load volatile i64, ptr %b
  %new = add i64 %old, 1
  store volatile i64 %new, ptr %b
  %next = add i64 %i, 1
  %more = icmp ult i64 %next, %turns
  br i1 %more, label %loop, label %done
done:
  ret i32 0
}
"""


def measure(action: Callable[[], None], repeats: int, per: int) -> tuple[float, float]:
    """(median, best) microseconds of an action, divided by `per`."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1e6 / per)
    return statistics.median(times), min(times)


def report(name: str, times: tuple[float, float]) -> None:
    print(f"{name:44s} {times[0]:9.3f} {times[1]:9.3f}")


def eager(device: Device, program: Program, buffer: Buffer, count: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(count):
            device.queue.launch(program, (buffer,), (1,))
            device.queue.submit()
        device.queue.synchronize()

    return run


def replay(device: Device, launch: Launch, count: int) -> Callable[[], None]:
    captured = device.queue.capture([launch] * count)

    def run() -> None:
        captured.submit()
        device.queue.synchronize()

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--device", default="CPU")
    arguments = parser.parse_args()
    count, repeats = arguments.kernels, arguments.repeats
    device = get_device(arguments.device)
    (program,) = compile_programs(device, [("count", KERNEL)])
    threads = device.capabilities.threads
    buffer = Buffer.from_numpy(device, np.zeros(max(threads, 2), np.int64))
    print(f"{device.name}, {threads} threads; microseconds per kernel {'median':>12s} {'best':>9s}")

    def single() -> None:
        device.queue.launch(program, (buffer,), (1,))
        device.queue.synchronize()

    report("one launch, submitted and awaited", measure(single, repeats * 10, 1))
    report(
        f"{count} eager launches", measure(eager(device, program, buffer, count), repeats, count)
    )
    one = Launch(program, (buffer,), (1,))
    work = Launch(program, (buffer,), (1000,))
    replayed = measure(replay(device, one, count), repeats, count)
    own = measure(replay(device, work, count), repeats, count * 1000)
    report(f"replay of {count} kernels", replayed)
    report("  of which the kernel's own time", own)
    report("  overhead", (replayed[0] - own[0], replayed[1] - own[1]))
    shared = Launch(program, (buffer,), (1,), groups=(2,))
    report(
        f"replay of {count} kernels of 2 parts",
        measure(replay(device, shared, count), repeats, count),
    )
    add = device.queue.capture([one] * count)
    slots = [add.buffer_slot(i, 0) for i in range(count)]
    others = [buffer, Buffer.from_numpy(device, np.zeros(2, np.int64))]

    def patched() -> None:
        others.reverse()
        add.submit([(slot, others[0]) for slot in slots])
        device.queue.synchronize()

    report(f"replay of {count} kernels, all patched", measure(patched, repeats, count))
    report_captured(device, count, repeats)


def report_captured(device: Device, count: int, repeats: int) -> None:
    """A captured function of `count` small kernels: what its calls cost beyond its command list."""
    from dovetile import Tensor, jit

    state = Tensor(np.zeros(8, np.float32), device=device.name).realize()

    @jit
    def step() -> None:
        for _ in range(count):
            state.assign(state + 1).realize()

    for _ in range(3):
        step()
    (captured,) = step.captures
    assert captured.kernels == count

    def called() -> None:
        step()
        device.queue.synchronize()

    def bare() -> None:
        captured.commands.submit([])
        device.queue.synchronize()

    called_times, bare_times = measure(called, repeats, count), measure(bare, repeats, count)
    report(f"call of a captured function of {count} kernels", called_times)
    report("  of which its command list", bare_times)
    overhead = (called_times[0] - bare_times[0], called_times[1] - bare_times[1])
    report("  overhead", overhead)


if __name__ == "__main__":
    main()
