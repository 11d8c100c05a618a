"""The queue over a model of the GPU: order, memory, signals, captured lists and faults."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import os
import struct

import numpy as np
import pytest
from fake_driver import FakeDriver

from dovetile import dtypes
from dovetile.errors import ArgumentError, CompileError, DeviceError, DeviceFault, OutOfMemoryError
from dovetile.runtime import Buffer, Copy, Launch, SignalStore, SignalWait, Timestamp
from dovetile_nv.boxes import MAP_BYTES, encoded
from dovetile_nv.device import NvDevice
from dovetile_nv.raw.descriptor import layout
from dovetile_nv.raw.generations import HOPPER

SHAPE = layout(HOPPER.descriptor)


def bank(descriptor: bytes, driver: FakeDriver, offset: int, count: int) -> list[int]:
    """64-bit words of a launch's first constant bank."""
    address = SHAPE.read(descriptor, "CONSTANT_BUFFER_ADDR_UPPER_SHIFTED6") << 32
    address = (address | SHAPE.read(descriptor, "CONSTANT_BUFFER_ADDR_LOWER_SHIFTED6")) << 6
    return [driver.read(address + offset + 8 * i) for i in range(count)]


def run(descriptor: bytes, driver: FakeDriver) -> None:
    """What the kernel `add` and those that copy do, in place of the GPU."""
    two = SHAPE.read(descriptor, "CONSTANT_BUFFER_SIZE_SHIFTED4") == (0x210 + 2 * 8) // 16
    (copy if two else add)(descriptor, driver)


def copy(descriptor: bytes, driver: FakeDriver) -> None:
    out, source = bank(descriptor, driver, 0x210, 2)
    vectors = SHAPE.read(descriptor, "GRID_WIDTH")
    vectors *= SHAPE.read(descriptor, "CTA_THREAD_DIMENSION0")
    driver.at(out, 16 * vectors)[:] = driver.at(source, 16 * vectors)


def add(descriptor: bytes, driver: FakeDriver) -> None:
    out, a, b, n = bank(descriptor, driver, 0x210, 4)
    groups = SHAPE.read(descriptor, "GRID_WIDTH")
    threads = SHAPE.read(descriptor, "CTA_THREAD_DIMENSION0")
    n = min(n, groups * threads)
    x, y, z = (np.frombuffer(driver.at(p, 4 * n), np.float32) for p in (a, b, out))
    z[:] = x + y


def buffers(gpu: NvDevice, *arrays: np.ndarray) -> list[Buffer]:
    return [Buffer.from_numpy(gpu, array) for array in arrays]


@pytest.fixture
def three(gpu: NvDevice) -> list[Buffer]:
    count = np.arange(1000, dtype=np.float32)
    return [Buffer(gpu, 4000, dtypes.float32), *buffers(gpu, count, 2 * count)]


def test_memory_comes_back_as_it_went(gpu: NvDevice):
    # More than the staging memory, and no multiple of its half.
    content = np.random.default_rng(0).integers(0, 256, (20 << 20) + 12345).astype(np.uint8)
    (buffer,) = buffers(gpu, content)
    np.testing.assert_array_equal(buffer.to_numpy(), content)


def test_a_launch_reads_its_arguments(
    gpu: NvDevice, driver: FakeDriver, binary: bytes, three: list[Buffer]
):
    driver.kernel = run
    gpu.queue.launch(gpu.load(binary, "add"), three, (1000,), (4,), (256,))
    np.testing.assert_array_equal(three[0].to_numpy(), 3 * np.arange(1000, dtype=np.float32))


def test_threads_are_those_of_the_code_where_the_launch_does_not_say(
    gpu: NvDevice, driver: FakeDriver, binary: bytes, three: list[Buffer]
):
    gpu.queue.launch(gpu.load(binary, "add"), three, (1000,), (4,))
    gpu.synchronize()
    assert SHAPE.read(driver.descriptors[-1], "CTA_THREAD_DIMENSION0") == 256


def test_no_groups_is_no_launch(
    gpu: NvDevice, driver: FakeDriver, binary: bytes, three: list[Buffer]
):
    gpu.queue.launch(gpu.load(binary, "add"), three, (1000,), (0,))
    gpu.synchronize()
    assert not driver.descriptors


def test_variables_may_be_negative(
    gpu: NvDevice, driver: FakeDriver, binary: bytes, three: list[Buffer]
):
    seen = []
    driver.kernel = lambda descriptor, driver: seen.append(bank(descriptor, driver, 0x228, 1))
    gpu.queue.launch(gpu.load(binary, "add"), three, (-5,), (4,))
    gpu.synchronize()
    assert seen == [[2**64 - 5]]


def test_many_launches_go_round_the_ring(
    gpu: NvDevice, driver: FakeDriver, binary: bytes, three: list[Buffer]
):
    seen = []
    driver.kernel = lambda descriptor, driver: seen.append(bank(descriptor, driver, 0x228, 1)[0])
    program = gpu.load(binary, "add")
    for number in range(6000):
        gpu.queue.launch(program, three, (number,), (1,))
    gpu.synchronize()
    assert seen == list(range(6000))


@pytest.mark.parametrize(
    ("offset", "nbytes", "launches"),
    [(0, 4096, 1), (0, 8192 + 160, 2), (16, 4096 + 3, 1), (0, 7, 0), (4, 10_000, 0)],
    ids=["blocks", "blocks and vectors", "a rest", "little", "not aligned"],
)
def test_copies_between_buffers(
    gpu: NvDevice, driver: FakeDriver, offset: int, nbytes: int, launches: int
):
    driver.kernel = run
    content = np.random.default_rng(1).integers(0, 256, 20_000).astype(np.uint8)
    source, destination = buffers(gpu, content, np.zeros(20_000, np.uint8))
    gpu.queue.copy(destination.view(offset, nbytes), source.view(offset, nbytes))
    expected = np.zeros(20_000, np.uint8)
    expected[offset : offset + nbytes] = content[offset : offset + nbytes]
    np.testing.assert_array_equal(destination.to_numpy(), expected)
    assert len(driver.descriptors) == launches


def test_copies_want_equal_sizes(gpu: NvDevice):
    source, destination = buffers(gpu, np.arange(100), np.zeros(100, np.int64))
    with pytest.raises(ArgumentError, match="sizes must be equal"):
        gpu.queue.copy(destination, Buffer(gpu, 8))


def test_signals_order_what_the_gpu_does(gpu: NvDevice):
    first, second = gpu.new_signal(), gpu.new_signal()
    gpu.queue.wait(first, 3)
    gpu.queue.signal(second, 7)
    gpu.queue.submit()
    assert second.value == 0
    first.value = 5  # more than awaited
    second.wait(7, timeout=5)
    gpu.synchronize()


def test_timestamps_grow(gpu: NvDevice):
    signals = [gpu.new_signal() for _ in range(2)]
    for signal in signals:
        gpu.queue.timestamp(signal)
    gpu.synchronize()
    assert 0 < signals[0].value <= signals[1].value


def test_signals_are_used_again(gpu: NvDevice):
    addresses = set()
    for _ in range(10_000):
        signal = gpu.new_signal()
        addresses.add(signal.address)  # type: ignore[attr-defined]
        del signal
    assert len(addresses) < 10_000


def test_a_captured_list_replays(
    gpu: NvDevice, driver: FakeDriver, binary: bytes, three: list[Buffer]
):
    driver.kernel = run
    program = gpu.load(binary, "add")
    out, a, b = three
    twice = Buffer(gpu, out.nbytes, dtypes.float32)
    signal, clock = gpu.new_signal(), gpu.new_signal()
    commands = gpu.queue.capture(
        [
            Launch(program, (out, a, b), (1000,), (4,), (256,)),
            Launch(program, (twice, out, out), (1000,), (4,), (256,)),
            Copy(out.view(0, 3200), twice.view(0, 3200)),
            SignalWait(signal, 1),
            Launch(program, (twice, out, a), (1000,), (4,), (256,)),
            Timestamp(clock),
            SignalStore(signal, 2),
        ]
    )
    signal.value = 1
    commands.submit()
    gpu.synchronize()
    count = np.arange(1000, dtype=np.float32)
    scale = np.where(np.arange(1000) < 800, 6, 3)  # as far as the copy goes
    np.testing.assert_array_equal(out.to_numpy(), scale * count)
    np.testing.assert_array_equal(twice.to_numpy(), (scale + 1) * count)
    assert signal.value == 2 and clock.value > 0
    # Launches in a row are chained: the pushbuffer names the first of each two.
    named = [m for s, m, _ in driver.methods if m == 0x2C0 and s == 1]
    assert len(driver.descriptors) == 4 and len(named) == 2


def test_launches_that_may_begin_early_await_those_ahead(
    gpu: NvDevice, driver: FakeDriver, binary: bytes, three: list[Buffer]
):
    launch = Launch(gpu.load(binary, "add"), tuple(three), (1000,), (4,), (256,), early=True)
    plain = dataclasses.replace(launch, early=False)
    copy = Copy(three[1], three[2])
    gpu.queue.capture([launch, launch, launch, plain, copy, launch]).submit()
    gpu.synchronize()

    def each(field: str) -> list[int]:
        found = [d for d in driver.descriptors if SHAPE.read(d, "CTA_THREAD_DIMENSION0") == 256]
        return [SHAPE.read(d, field) for d in found if SHAPE.read(d, "GRID_WIDTH") == 4]

    # Where a launch follows another directly, that one starts it, and both name one latch.
    assert each("ENABLE_PROGRAM_PRE_EXIT") == [1, 1, 0, 0, 0]
    assert each("WAIT_ON_LATCH_VALID") == [0, 1, 1, 0, 0]
    arrive, wait = each("ARRIVE_AT_LATCH_ID"), each("WAIT_ON_LATCH_ID")
    assert arrive[:2] == wait[1:3] and 0 not in arrive[:2] and len(set(arrive[:2])) == 2


def test_patches_hold_from_the_replay_on(
    gpu: NvDevice, driver: FakeDriver, binary: bytes, three: list[Buffer]
):
    driver.kernel = run
    out, a, b = three
    program = gpu.load(binary, "add")
    commands = gpu.queue.capture([Launch(program, (out, a, b), (1000,), (4,), (256,))])
    others = [Buffer(gpu, out.nbytes, dtypes.float32) for _ in range(3)]
    hold = gpu.new_signal()
    gpu.queue.wait(hold, 1)
    # All are recorded before the first runs: each must read what held when it was recorded.
    for number, other in enumerate(others):
        slots = commands.buffer_slot(0, 0), commands.scalar_slot(0, 0)
        commands.submit([(slots[0], other), (slots[1], 500 * number + 2)])
    hold.value = 1
    gpu.synchronize()
    count = 3 * np.arange(1000, dtype=np.float32)
    for number, other in enumerate(others):
        part = slice(min(1000, 500 * number + 2))
        np.testing.assert_array_equal(other.to_numpy()[part], count[part])
    with pytest.raises(ArgumentError, match="takes 3"):
        commands.buffer_slot(0, 3)
    with pytest.raises(ArgumentError, match="takes 1"):
        commands.scalar_slot(0, 1)


def test_a_replay_rings_once_and_keeps_no_memory_that_it_used_before(
    gpu: NvDevice, binary: bytes, three: list[Buffer], monkeypatch: pytest.MonkeyPatch
):
    out, a, b = three
    program = gpu.load(binary, "add")
    commands = gpu.queue.capture([Launch(program, (out, a, b), (1000,), (4,), (256,))])
    channel = gpu.queue.stream.channel
    rings, start = [], channel.start
    monkeypatch.setattr(channel, "start", lambda: (rings.append(1), start()))
    hold = gpu.new_signal()
    gpu.queue.wait(hold, 1)
    slot = commands.buffer_slot(0, 0)
    for _ in range(20):
        commands.submit([(slot, Buffer(gpu, out.nbytes, dtypes.float32))])
    assert len(rings) == 20 and not gpu.queue.retired
    hold.value = 1
    gpu.synchronize()


def test_copies_of_a_list_can_be_patched(
    gpu: NvDevice, driver: FakeDriver, binary: bytes, three: list[Buffer]
):
    driver.kernel = run
    out, a, b = three
    program = gpu.load(binary, "add")
    commands = gpu.queue.capture(
        [Launch(program, (out, a, b), (1000,), (4,), (256,)), Copy(Buffer(gpu, out.nbytes), out)]
    )
    others = [Buffer(gpu, out.nbytes, dtypes.float32) for _ in range(3)]
    hold = gpu.new_signal()
    gpu.queue.wait(hold, 1)
    slots = commands.scalar_slot(0, 0), commands.buffer_slot(1, 0)
    for number, other in enumerate(others):
        commands.submit([(slots[0], 500 * number), (slots[1], other)])
    hold.value = 1
    gpu.synchronize()
    count = 3 * np.arange(1000, dtype=np.float32)
    for number, other in enumerate(others[1:], 1):
        part = slice(min(1000, 500 * number))
        np.testing.assert_array_equal(other.to_numpy()[part], count[part])


def test_a_fault_tells_its_cause_and_the_device_goes_on(
    gpu: NvDevice, driver: FakeDriver, binary: bytes, three: list[Buffer]
):
    program = gpu.load(binary, "add")
    driver.fault = (31, 0x123456789000)
    gpu.queue.launch(program, three, (1000,), (4,))
    with pytest.raises(DeviceFault, match="0x123456789000 was written.*kernels were add"):
        gpu.synchronize()
    driver.kernel = run
    gpu.queue.launch(program, three, (1000,), (4,))
    np.testing.assert_array_equal(three[0].to_numpy(), 3 * np.arange(1000, dtype=np.float32))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_the_child_of_a_fork_leaves_the_gpu_to_its_parent(
    gpu: NvDevice, driver: FakeDriver, binary: bytes, three: list[Buffer], monkeypatch
):
    driver.kernel = run
    program = gpu.load(binary, "add")
    replay = gpu.queue.capture([Launch(program, three, (1000,), (4,))])
    gpu.synchronize()
    large = Buffer.allocated(gpu, 8 << 20, dtypes.uint8)
    calls = []
    monkeypatch.setattr(driver, "ioctl", lambda *arguments: calls.append(arguments))
    attempts = [
        lambda: gpu.queue.launch(program, three, (1000,), (4,)),
        lambda: gpu.queue.copy(three[0], three[1]),
        replay.submit,
        gpu.synchronize,
        three[0].to_numpy,
        lambda: three[1].copy_in(np.zeros(1000, np.float32)),
        lambda: Buffer.allocated(gpu, 8 << 20, dtypes.uint8),
        lambda: gpu.load(binary, "add"),
    ]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            refused = 0
            for attempt in attempts:
                try:
                    attempt()
                except DeviceError as error:
                    refused += str(error).startswith("[fork]")
            del large, replay, program
            gc.collect()
            status = 0 if refused == len(attempts) and not calls else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    monkeypatch.undo()
    gpu.queue.launch(program, three, (1000,), (4,))
    np.testing.assert_array_equal(three[0].to_numpy(), 3 * np.arange(1000, dtype=np.float32))


def test_too_much_memory_is_refused_and_the_rest_stays_usable(gpu: NvDevice):
    held = Buffer.allocated(gpu, 600 << 20, dtypes.uint8)
    with pytest.raises(OutOfMemoryError, match=r"\[allocate\] \d+ bytes on NV.* status 0x51"):
        Buffer.allocated(gpu, 600 << 20, dtypes.uint8)
    for nbytes in (2 << 30, 1 << 70):
        with pytest.raises(OutOfMemoryError, match=r"\[allocate\] \d+ bytes on NV.* GPU has"):
            Buffer.allocated(gpu, nbytes, dtypes.uint8)
    del held
    content = np.arange(10)
    (buffer,) = buffers(gpu, content)
    np.testing.assert_array_equal(buffer.to_numpy(), content)


def test_released_memory_is_given_back(gpu: NvDevice, driver: FakeDriver):
    for _ in range(5):
        buffer = Buffer.allocated(gpu, 400 << 20, dtypes.uint8)
        del buffer
        gpu.allocator.release_kept()


def test_stacks_get_memory_once(gpu: NvDevice, driver: FakeDriver, binary: bytes):
    program = gpu.load(binary, "stacked")
    memory = Buffer(gpu, 256), Buffer(gpu, 256)
    for _ in range(3):
        gpu.queue.launch(program, memory)
    gpu.synchronize()
    sizes = [data for s, m, data in driver.methods if s == 1 and m == 0x2E8]
    local = SHAPE.read(driver.descriptors[0], "SHADER_LOCAL_MEMORY_HIGH_SIZE")
    assert local >= 800 + 0x240 and local % 16 == 0
    assert sizes == [2048 * 32 * 64 * 2]  # the next power of two, for all threads of a pair


def test_stacks_have_memory_after_a_fault(gpu: NvDevice, driver: FakeDriver, binary: bytes):
    program = gpu.load(binary, "stacked")
    memory = Buffer(gpu, 256), Buffer(gpu, 256)
    commands = gpu.queue.capture([Launch(program, memory, (), (1,), (64,))])
    gpu.synchronize()
    driver.fault = (13, 0)
    commands.submit()
    with pytest.raises(DeviceFault, match="a trap, an illegal instruction"):
        gpu.synchronize()
    driver.fault = None
    driver.methods.clear()
    commands.submit()  # into a new channel
    gpu.synchronize()
    methods = [(s, m) for s, m, _ in driver.methods]
    assert methods.index((1, 0x790)) < methods.index((1, 0x2C0))


def test_code_is_loaded_with_its_data(gpu: NvDevice, driver: FakeDriver, binary: bytes):
    program = gpu.load(binary, "looked_up")
    gpu.queue.launch(program, [Buffer(gpu, 64)], (), (1,), (16,))
    gpu.synchronize()
    address = SHAPE.read(driver.descriptors[0], "CONSTANT_BUFFER_ADDR_LOWER_SHIFTED6", 4) << 6
    address |= SHAPE.read(driver.descriptors[0], "CONSTANT_BUFFER_ADDR_UPPER_SHIFTED6", 4) << 38
    numbers = driver.read(address)
    assert [driver.read(numbers + 4 * i, 4) for i in range(4)] == [1, 2, 3, 4]


def test_a_name_that_is_not_in_the_binary(gpu: NvDevice, binary: bytes):
    with pytest.raises(CompileError, match="'minus' is not in the binary; it has"):
        gpu.load(binary, "minus")
    with pytest.raises(CompileError, match="no cubin"):
        gpu.load(b"nothing", "add")


def test_the_host_may_look_at_what_it_pinned(gpu: NvDevice):
    pinned = gpu.interface.pin(100)
    ctypes.memset(pinned.host_address, 7, 100)
    buffer = Buffer(gpu, 100)
    gpu._queue.transfer(buffer.address, pinned.address, 100)
    assert set(buffer.to_numpy()) == {7}
    gpu.interface.unpin(pinned)


def test_more_threads_than_the_code_takes(gpu: NvDevice, binary: bytes, three: list[Buffer]):
    program = gpu.load(binary, "summed")
    with pytest.raises(ArgumentError, match="summed with 65 threads; it takes 64"):
        gpu.queue.launch(program, three[:2], (), (1,), (65,))


def test_a_launch_has_a_map_of_the_buffer_it_fetches_from(gpu: NvDevice, driver: FakeDriver):
    from test_boxes import fetching

    source = gpu.renderer.render(fetching())
    program = gpu.load(gpu.compiler.compile(source), "kernel")
    ((offset, found),) = program.kernel.maps  # type: ignore[attr-defined]
    out = Buffer(gpu, 128, dtypes.bfloat16)
    first, second = (Buffer(gpu, 2 << 20, dtypes.bfloat16) for _ in range(2))

    def check(source: Buffer) -> None:
        gpu.synchronize()
        descriptor = driver.descriptors[-1]
        # Code finds its arguments, and so the maps, by an address in the bank itself.
        (window,) = bank(descriptor, driver, 0x198, 1)
        assert driver.read(window) == out.address
        assert driver.read(window + offset) == source.address
        words = bank(descriptor, driver, 0x210 + offset, MAP_BYTES // 8)
        assert struct.pack(f"<{len(words)}Q", *words) == encoded(found, source.address)

    gpu.queue.launch(program, (out, first), (), (1,), (64,))
    check(first)
    commands = gpu.queue.capture([Launch(program, (out, first), (), (1,), (64,))])
    commands.submit()
    check(first)
    commands.submit([(commands.buffer_slot(0, 1), second)])
    check(second)
