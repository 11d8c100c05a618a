"""The queue over a model of libcuda: the same promises as over the raw queue."""

from __future__ import annotations

import ctypes
import dataclasses

import numpy as np
import pytest
from fake_libcuda import FakeLibrary

from dovetile import dtypes
from dovetile.errors import DeviceFault, OutOfMemoryError
from dovetile.runtime import Buffer, Copy, Launch, SignalStore, SignalWait, Timestamp
from dovetile_nv.device import NvDevice


def add(words: list[int], count: int) -> None:
    """What the kernel `add` does."""
    out, a, b, n = words
    n = min(n, count)
    x, y, z = (
        np.frombuffer((ctypes.c_char * (4 * n)).from_address(p), np.float32) for p in (a, b, out)
    )
    z[:] = x + y


COUNT = np.arange(1000, dtype=np.float32)


@pytest.fixture
def three(gpu: NvDevice, libcuda: FakeLibrary) -> list[Buffer]:
    libcuda.kernels["add"] = add
    inputs = [Buffer.from_numpy(gpu, array) for array in (COUNT, 2 * COUNT)]
    return [Buffer(gpu, 4000, dtypes.float32), *inputs]


def test_a_launch_reads_its_arguments(gpu: NvDevice, binary: bytes, three: list[Buffer]):
    gpu.queue.launch(gpu.load(binary, "add"), three, (1000,), (4,), (256,))
    np.testing.assert_array_equal(three[0].to_numpy(), 3 * COUNT)


def test_memory_comes_back_as_it_went(gpu: NvDevice):
    content = np.random.default_rng(0).integers(0, 256, (9 << 20) + 5).astype(np.uint8)
    source = Buffer.from_numpy(gpu, content)
    destination = Buffer(gpu, content.nbytes)
    gpu.queue.copy(destination, source)
    np.testing.assert_array_equal(destination.to_numpy(), content)


def test_signals_order_what_the_gpu_does(gpu: NvDevice):
    first, second = gpu.new_signal(), gpu.new_signal()
    gpu.queue.wait(first, 3)
    gpu.queue.signal(second, 7)
    gpu.queue.submit()
    assert second.value == 0
    first.value = 5
    gpu.synchronize()
    assert second.value == 7


def test_launches_that_may_begin_early_do_so_behind_a_launch(
    gpu: NvDevice, binary: bytes, three: list[Buffer], libcuda: FakeLibrary
):
    program = gpu.load(binary, "add")
    launch = Launch(program, (three[0], *three[1:]), (1000,), (4,), (256,), early=True)
    plain = dataclasses.replace(launch, early=False)
    commands = gpu.queue.capture(
        [launch, launch, Copy(three[1], three[2]), launch, launch, plain, launch]
    )
    commands.submit()
    gpu.synchronize()
    assert libcuda.early == [1, 4, 6]
    np.testing.assert_array_equal(three[0].to_numpy(), 4 * COUNT)


def test_a_captured_list_replays_with_patches(
    gpu: NvDevice, binary: bytes, three: list[Buffer], libcuda: FakeLibrary
):
    out, a, b = three
    program = gpu.load(binary, "add")
    other = Buffer(gpu, out.nbytes, dtypes.float32)
    twice = Buffer(gpu, out.nbytes, dtypes.float32)
    signal, clock = gpu.new_signal(), gpu.new_signal()
    commands = gpu.queue.capture(
        [
            Timestamp(clock),
            Launch(program, (out, a, b), (1000,), (4,), (256,)),
            Launch(program, (out, a, b), (1000,), (0,), (256,)),
            Copy(twice, out),
            SignalWait(signal, 1),
            Launch(program, (twice, twice, twice), (1000,), (4,), (256,)),
            SignalStore(signal, 2),
        ]
    )
    signal.value = 1
    commands.submit()
    gpu.synchronize()
    np.testing.assert_array_equal(twice.to_numpy(), 6 * COUNT)
    assert signal.value == 2 and clock.value > 0
    # A launch without workgroups has arguments too; to change them changes nothing.
    nothing = (commands.buffer_slot(2, 0), twice)
    commands.submit(
        [(commands.buffer_slot(5, 0), other), (commands.scalar_slot(5, 0), 500), nothing]
    )
    np.testing.assert_array_equal(other.to_numpy()[:500], 6 * COUNT[:500])
    np.testing.assert_array_equal(twice.to_numpy(), 3 * COUNT)
    assert libcuda.calls.count("cuGraphExecKernelNodeSetParams_v2") == 1


def test_a_fault_is_told_again_and_again(
    gpu: NvDevice, binary: bytes, three: list[Buffer], libcuda: FakeLibrary
):
    def fail(words: list[int], count: int) -> None:
        libcuda.broken = 700

    libcuda.kernels["add"] = fail
    program = gpu.load(binary, "add")
    gpu.queue.launch(program, three, (1000,), (4,))
    with pytest.raises(DeviceFault, match="status 700.*were add.*cannot be used again"):
        gpu.synchronize()
    with pytest.raises(DeviceFault, match="cannot be used again"):
        gpu.queue.launch(program, three, (1000,), (4,))


def test_too_much_memory_is_refused(gpu: NvDevice):
    held = Buffer.allocated(gpu, 600 << 20, dtypes.uint8)
    with pytest.raises(OutOfMemoryError, match="bytes on NV: .*cuMemAlloc_v2"):
        Buffer.allocated(gpu, 600 << 20, dtypes.uint8)
    del held
    np.testing.assert_array_equal(Buffer.from_numpy(gpu, COUNT).to_numpy(), COUNT)
