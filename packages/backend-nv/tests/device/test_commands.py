"""Launches, signals and clocks of a real GPU."""

from __future__ import annotations

import gc
import resource
import time

import numpy as np
import pytest
from nv_kernels import DEVICE_KERNELS, cubin_of

from dovetile import dtypes
from dovetile.runtime import Buffer, Launch, SignalStore, SignalWait, Timestamp
from dovetile_nv.device import NvDevice
from dovetile_nv.interface import NvProgram


@pytest.fixture(scope="module")
def programs(gpu: NvDevice) -> dict[str, NvProgram]:
    binary = cubin_of(DEVICE_KERNELS, gpu.capabilities.architecture)
    names = ("add", "summed", "stacked", "looked_up", "spin")
    return {name: gpu.load(binary, name) for name in names}  # type: ignore[misc]


def test_kernels_of_all_kinds(gpu: NvDevice, programs: dict[str, NvProgram]) -> None:
    """Arguments, shared memory, a stack and constants of a program."""
    count = np.arange(64, dtype=np.float32)
    a, out = Buffer.from_numpy(gpu, count), Buffer(gpu, 256, dtypes.float32)
    gpu.queue.launch(programs["summed"], (out, a), (), (1,), (64,))
    np.testing.assert_array_equal(out.to_numpy(), np.full(64, count.sum()))
    index = (np.arange(64, dtype=np.int32) * 7) % 200
    found = Buffer(gpu, 256, dtypes.int32)
    gpu.queue.launch(programs["stacked"], (found, Buffer.from_numpy(gpu, index)), (), (1,), (64,))
    np.testing.assert_array_equal(found.to_numpy(), index * np.arange(64))
    gpu.queue.launch(programs["looked_up"], (found,), (), (1,), (64,))
    np.testing.assert_array_equal(found.to_numpy(), np.arange(64) % 4 + 1)


def test_ten_thousand_launches_take_no_memory(
    gpu: NvDevice, programs: dict[str, NvProgram]
) -> None:
    out, a, b = (Buffer.from_numpy(gpu, np.ones(1000, np.float32)) for _ in range(3))

    def launches(count: int) -> tuple[int, int]:
        for _ in range(count):
            gpu.queue.launch(programs["add"], (out, a, b), (1000,), (4,), (256,))
        gpu.synchronize()
        gc.collect()
        kept = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kept, gpu.allocator.used_bytes

    launches(3000)
    before, used = launches(3000)
    after, still = launches(10_000)
    assert still == used
    assert after - before < 1024  # kilobytes


def test_clocks_tell_the_time(gpu: NvDevice, programs: dict[str, NvProgram]) -> None:
    first, last = gpu.new_signal(), gpu.new_signal()
    word = Buffer.from_numpy(gpu, np.zeros(1, np.float32))
    gpu.queue.launch(programs["spin"], (word,), (1000,), (1,), (1,))
    gpu.synchronize()
    start = time.perf_counter_ns()
    gpu.queue.timestamp(first)
    gpu.queue.launch(programs["spin"], (word,), (20_000_000,), (1,), (1,))
    gpu.queue.timestamp(last)
    gpu.synchronize()
    waited = time.perf_counter_ns() - start
    assert 5_000_000 < last.value - first.value < waited + 100_000


def test_signals_between_the_host_and_a_replay(
    gpu: NvDevice, programs: dict[str, NvProgram]
) -> None:
    go, done, clock = (gpu.new_signal() for _ in range(3))
    out, a, b = (Buffer.from_numpy(gpu, np.ones(1000, np.float32)) for _ in range(3))
    add = programs["add"]
    commands = gpu.queue.capture(
        [
            SignalWait(go, 1),
            *[Launch(add, (a, a, b), (1000,), (4,), (256,))] * 50,
            Launch(add, (out, a, b), (1000,), (4,), (256,)),
            Timestamp(clock),
            SignalStore(done, 3),
        ]
    )
    commands.submit()
    time.sleep(0.02)
    assert done.value == 0
    go.value = 1
    done.wait(3, timeout=10)
    gpu.synchronize()
    assert clock.value > 0
    np.testing.assert_array_equal(out.to_numpy(), np.full(1000, 52, np.float32))
