"""Level 1: memory, copies, signals and the clock. No kernels yet."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from dovetile import dtypes
from dovetile.errors import ArgumentError, DeviceError, OutOfMemoryError
from dovetile.runtime import Buffer, Copy, Device, SignalStore

SIZES = [0, 1, 3, 63, 64, 65, 4096, 4097, 2**20 + 1]


def content(random: np.random.Generator, nbytes: int) -> np.ndarray:
    return random.integers(0, 256, nbytes).astype(np.uint8)


@pytest.mark.parametrize("nbytes", SIZES)
def test_what_is_copied_in_comes_out(
    device: Device, random: np.random.Generator, nbytes: int
) -> None:
    expected = content(random, nbytes)
    buffer = Buffer(device, nbytes)
    buffer.copy_in(expected)
    np.testing.assert_array_equal(buffer.to_numpy(), expected)


def test_every_dtype_keeps_its_bits(device: Device, random: np.random.Generator) -> None:
    for dtype in dtypes.TENSOR_DTYPES:
        if dtype.name not in device.capabilities.dtypes:
            continue
        expected = random.integers(0, 2, 37).astype(dtypes.to_numpy(dtype))
        buffer = Buffer.from_numpy(device, expected)
        result = buffer.to_numpy()
        assert result.dtype == expected.dtype
        assert result.tobytes() == expected.tobytes()


def test_buffers_do_not_overlap(device: Device, random: np.random.Generator) -> None:
    contents = [content(random, nbytes) for nbytes in SIZES * 4]
    buffers = [Buffer.from_numpy(device, c) for c in contents]
    for buffer, expected in zip(buffers, contents):
        np.testing.assert_array_equal(buffer.to_numpy(), expected)


def test_addresses_suit_every_dtype(device: Device) -> None:
    for nbytes in SIZES[1:]:
        buffer = Buffer(device, nbytes)
        assert buffer.address % 16 == 0


def test_freed_memory_can_be_had_again(device: Device) -> None:
    before = device.allocator.used_bytes
    for _ in range(200):
        buffer = Buffer(device, 2**20)
        assert buffer.address
        del buffer
    Buffer(device, 1).copy_in(np.zeros(1, np.uint8))
    assert device.allocator.used_bytes <= before + 2**22


def test_views_share_memory(device: Device, random: np.random.Generator) -> None:
    expected = content(random, 1024)
    buffer = Buffer.from_numpy(device, expected)
    view = buffer.view(256, 512)
    np.testing.assert_array_equal(view.to_numpy(), expected[256:768])
    view.view(16, 4).copy_in(np.full(4, 7, np.uint8))
    expected[272:276] = 7
    np.testing.assert_array_equal(buffer.to_numpy(), expected)
    del buffer  # the view keeps the memory alive
    np.testing.assert_array_equal(view.to_numpy(), expected[256:768])
    with pytest.raises(ArgumentError):
        view.view(512, 1)


def test_copies_of_a_wrong_size_are_refused(device: Device) -> None:
    buffer = Buffer(device, 16)
    with pytest.raises(ArgumentError):
        buffer.copy_in(np.zeros(17, np.uint8))
    with pytest.raises(ArgumentError):
        buffer.copy_out(np.zeros(15, np.uint8))


def test_running_out_of_memory_is_an_error_and_the_device_goes_on(device: Device) -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        _ = Buffer(device, 2**56).address
    assert isinstance(caught.value, MemoryError)
    expected = np.arange(64, dtype=np.uint8)
    np.testing.assert_array_equal(Buffer.from_numpy(device, expected).to_numpy(), expected)


def test_copies_on_the_device(device: Device, random: np.random.Generator) -> None:
    for nbytes in SIZES:
        expected = content(random, nbytes)
        source, middle, target = (
            Buffer.from_numpy(device, expected),
            *(Buffer(device, nbytes) for _ in range(2)),
        )
        device.queue.copy(middle, source)
        device.queue.copy(target, middle)
        device.queue.submit()
        np.testing.assert_array_equal(target.to_numpy(), expected)


def test_a_host_visible_device_shares_memory(
    device: Device, requires: Callable[[bool, str], None]
) -> None:
    buffer = Buffer.from_numpy(device, np.arange(64, dtype=np.float32))
    if not device.capabilities.host_visible:
        with pytest.raises(DeviceError):
            buffer.as_numpy()
        requires(False, "memory is not visible to the host")
    buffer.as_numpy()[3] = 42
    assert buffer.to_numpy()[3] == 42
    array = np.arange(4096, dtype=np.float32)
    shared = Buffer.from_numpy(device, array, copy=False)
    array[5] = 42
    assert shared.to_numpy()[5] == 42


def test_signals_order_the_queue(device: Device) -> None:
    signal, done = device.new_signal(), device.new_signal()
    assert signal.value == 0
    device.queue.wait(signal, 3)
    device.queue.signal(done, 1)
    position = device.queue.submit()
    assert done.value == 0
    assert not device.queue.is_complete(position)
    with pytest.raises(DeviceError):
        done.wait(1, timeout=0.05)
    signal.value = 3
    done.wait(1, timeout=10)
    device.synchronize()
    assert device.queue.is_complete(position)


def test_timestamps_rise(device: Device) -> None:
    signals = [device.new_signal() for _ in range(3)]
    source, target = Buffer(device, 2**20), Buffer(device, 2**20)
    for signal in signals:
        device.queue.timestamp(signal)
        device.queue.copy(target, source)
    device.synchronize()
    first, second, third = (signal.value for signal in signals)
    assert 0 < first <= second <= third
    assert third - first < 60e9  # nanoseconds


def test_a_captured_list_replays_and_takes_patches(
    device: Device, random: np.random.Generator
) -> None:
    contents = [content(random, 100) for _ in range(2)]
    sources = [Buffer.from_numpy(device, c) for c in contents]
    target, done = Buffer(device, 100), device.new_signal()
    captured = device.queue.capture([Copy(target, sources[0]), SignalStore(done, 5)])
    for _ in range(3):
        target.copy_in(np.zeros(100, np.uint8))
        device.queue.synchronize(captured.submit())
        np.testing.assert_array_equal(target.to_numpy(), contents[0])
    assert done.value == 5


def test_many_threads_may_record(device: Device) -> None:
    problems: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            random = np.random.default_rng(seed)
            for _ in range(20):
                expected = content(random, 1000)
                source, target = Buffer.from_numpy(device, expected), Buffer(device, 1000)
                device.queue.copy(target, source)
                np.testing.assert_array_equal(target.to_numpy(), expected)
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
