"""Buffers, on whatever device is installed."""

from __future__ import annotations

import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from dovetile import dtypes
from dovetile.errors import ArgumentError, DeviceError, DTypeError, OutOfMemoryError
from dovetile.runtime import Allocation, Buffer, Device, get_device


@pytest.fixture
def device() -> Device:
    try:
        return get_device()
    except DeviceError as error:
        pytest.skip(f"no backend is installed: {error}")


ARRAYS = [
    np.arange(7, dtype=np.float32),
    np.arange(12, dtype=np.int8).reshape(3, 4),
    np.array(5.5),
    np.zeros((0, 3), np.float64),
    np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    np.arange(10)[::-2],
    np.array([True, False, True]),
    np.arange(5).astype(ml_dtypes.bfloat16),
    np.arange(5).astype(np.float16),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype}-{a.shape}")
@pytest.mark.parametrize("copy", [True, False])
def test_arrays_there_and_back(device: Device, array: np.ndarray, copy: bool) -> None:
    buffer = Buffer.from_numpy(device, array, copy=copy)
    back = buffer.to_numpy()
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, np.ascontiguousarray(array).reshape(-1))


def test_memory_is_taken_at_first_use(device: Device) -> None:
    device.allocator.release_kept()
    before = device.allocator.used_bytes
    buffer = Buffer(device, 1 << 20)
    assert not buffer.is_allocated and device.allocator.used_bytes == before
    assert buffer.address and buffer.is_allocated
    assert device.allocator.used_bytes >= before + (1 << 20)


def test_threads_that_ask_at_once_get_the_same_memory(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocate = device.allocator.allocate

    def slowly(nbytes: int) -> Allocation:
        time.sleep(0.05)
        return allocate(nbytes)

    monkeypatch.setattr(device.allocator, "allocate", slowly)
    buffer = Buffer(device, 64)
    with ThreadPoolExecutor(4) as pool:
        addresses = list(pool.map(lambda _: buffer.address, range(4)))
    assert len(set(addresses)) == 1


def test_memory_goes_back_with_the_buffer_and_its_views(device: Device) -> None:
    device.allocator.release_kept()
    before = device.allocator.used_bytes
    buffer = Buffer(device, 4096)
    address = buffer.address
    view = buffer.view(1024, 512)
    del buffer
    assert view.address == address + 1024
    device.allocator.release_kept(1 << 62)
    assert device.allocator.used_bytes > before
    del view
    assert Buffer(device, 4096).address == address, "reused"
    device.allocator.release_kept(1 << 62)
    assert device.allocator.used_bytes == before


def test_views_of_views(device: Device) -> None:
    buffer = Buffer.from_numpy(device, np.arange(100, dtype=np.int32))
    view = buffer.view(40, 200).view(20, 40)
    np.testing.assert_array_equal(view.to_numpy(), np.arange(15, 25))
    view.copy_in(np.full(10, -1, np.int32))
    expected = np.arange(100)
    expected[15:25] = -1
    np.testing.assert_array_equal(buffer.to_numpy(), expected)
    as_bytes = buffer.view(60, 8, dtypes.uint8)
    assert as_bytes.to_numpy().tolist() == [255] * 8


@pytest.mark.parametrize(("offset", "nbytes"), [(-4, 8), (0, 44), (40, 4), (8, -4)])
def test_views_must_lie_within(device: Device, offset: int, nbytes: int) -> None:
    with pytest.raises(ArgumentError, match=r"\[view\]"):
        Buffer(device, 40, dtypes.float32).view(offset, nbytes)


def test_sizes_must_fit_the_dtype(device: Device) -> None:
    with pytest.raises(ArgumentError, match="multiple of 4"):
        Buffer(device, 6, dtypes.float32)
    with pytest.raises(ArgumentError, match="not negative"):
        Buffer(device, -8)


def test_unknown_dtypes(device: Device) -> None:
    with pytest.raises(DTypeError, match="complex64"):
        Buffer.from_numpy(device, np.zeros(3, np.complex64))


def test_copies_check_size_and_layout(device: Device) -> None:
    buffer = Buffer(device, 16, dtypes.int32)
    with pytest.raises(ArgumentError, match="16 bytes"):
        buffer.copy_in(np.zeros(5, np.int32))
    with pytest.raises(ArgumentError, match="C-contiguous"):
        buffer.copy_out(np.zeros(8, np.int32)[::2])
    fixed = np.zeros(4, np.int32)
    fixed.flags.writeable = False
    with pytest.raises(ArgumentError, match="read-only"):
        buffer.copy_out(fixed)


def test_shared_arrays(device: Device) -> None:
    if not device.capabilities.host_visible:
        pytest.skip("the host cannot see this device's memory")
    array = np.arange(10.0)
    buffer = Buffer.from_numpy(device, array, copy=False)
    array[3] = -1
    assert buffer.to_numpy()[3] == -1
    buffer.as_numpy()[4] = -2
    assert array[4] == -2
    fixed = np.arange(3.0)
    fixed.flags.writeable = False
    copied = Buffer.from_numpy(device, fixed, copy=False)
    assert copied.address != fixed.ctypes.data, "kernels may write: read-only memory is copied"


def test_a_shared_array_lives_as_long_as_its_buffer(device: Device) -> None:
    array = np.arange(1000.0)
    alive = weakref.ref(array)
    buffer = Buffer.from_numpy(device, array, copy=False)
    del array
    gc.collect()
    assert buffer.to_numpy()[999] == 999
    del buffer
    device.synchronize()
    gc.collect()
    assert alive() is None


def test_a_host_view_keeps_its_buffer_alive(device: Device) -> None:
    if not device.capabilities.host_visible:
        pytest.skip("the host cannot see this device's memory")
    view = Buffer.from_numpy(device, np.arange(100, dtype=np.int64)).as_numpy()
    others = [Buffer.from_numpy(device, np.zeros(100, np.int64)) for _ in range(10)]
    np.testing.assert_array_equal(view, np.arange(100))
    assert others


def test_out_of_memory_is_an_error_and_not_the_end(device: Device) -> None:
    buffer = Buffer.from_numpy(device, np.arange(5))
    with pytest.raises(OutOfMemoryError, match="bytes"):
        Buffer(device, 1 << 50).view(0, 8).copy_in(np.zeros(8, np.uint8))
    with pytest.raises(MemoryError):
        Buffer(device, 1 << 62).view(8, 8).copy_in(np.zeros(8, np.uint8))
    assert buffer.to_numpy().tolist() == [0, 1, 2, 3, 4]
    assert Buffer(device, 1 << 20).address


def test_memory_that_is_taken_at_once(device: Device) -> None:
    buffer = Buffer.allocated(device, 64, dtypes.float32)
    assert buffer.is_allocated and buffer.nbytes == 64
    buffer.copy_in(np.arange(16, dtype=np.float32))
    np.testing.assert_array_equal(buffer.to_numpy(), np.arange(16))
    with pytest.raises(AttributeError, match="adress"):
        getattr(buffer, "adress")  # noqa: B009


def test_numbers_tell_which_buffer_is_older(device: Device) -> None:
    old = Buffer(device, 8)
    mark = Buffer.next_number()
    new = Buffer(device, 8)
    assert old.number < mark < new.number
