"""Captured functions over several devices, in children of a fork, and their memory."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest

from dovetile import Tensor, jit
from dovetile.capture import lists
from dovetile.errors import DeviceError
from dovetile.runtime import Buffer, Copy, Device, get_device


@pytest.fixture
def other() -> Device:
    """A second device of the default kind."""
    first = get_device()
    try:
        return get_device(f"{first.name}:1")
    except DeviceError as error:
        pytest.skip(str(error))


def array(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


@pytest.fixture(params=["signals", "through the host"])
def reach(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices that reach each other's memory, and such that do not."""
    if request.param == "through the host":
        monkeypatch.setattr(Device, "reaches", lambda device, source: device is source)


def test_work_on_two_devices(other: Device, reach: None) -> None:
    state = Tensor(array(1, 2), device=other.name).realize()

    @jit
    def step(x: Tensor) -> tuple[Tensor, Tensor]:
        there = (x * 2).to(other.name)
        state.assign(state + there)
        back = (state * 10).to(x.device)
        return back + x, there

    expected = array(1, 2)
    kept = []
    for i in range(6):
        x = array(i, 2 * i)
        expected = expected + x * 2
        back, there = step(Tensor(x))
        kept.append((back, expected * 10 + x))
        np.testing.assert_array_equal(there.numpy(), x * 2)
    for found, right in kept:
        np.testing.assert_array_equal(found.numpy(), right)
    np.testing.assert_array_equal(state.numpy(), expected)
    assert len(step.captures) == 1


def test_a_list_for_each_device_and_a_signal_where_one_awaits_the_other(other: Device) -> None:
    first = get_device()
    a, c = (Buffer.from_numpy(first, array(1, 2)) for _ in range(2))
    b, d = (Buffer.from_numpy(other, array(0, 0)) for _ in range(2))
    commands = [
        (first, Copy(c, a)),
        (other, Copy(d, b)),  # shares nothing with the first
        (other, Copy(b, a)),  # reads what the first device reads: must follow it
        (other, Copy(d, a)),  # already follows
    ]
    replayable = lists.Replayable(commands)
    assert len(replayable._parts) == 2 and len(replayable._signals) == 1
    for number in range(3):
        new = Buffer.from_numpy(first, array(number, 7))
        replayable.submit([(replayable.slots(a), new)])
        other.synchronize()
        np.testing.assert_array_equal(d.to_numpy(), array(number, 7))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_captured_function_in_the_child_of_a_fork() -> None:
    state = Tensor(array(0)).realize()

    @jit
    def step(x: Tensor) -> Tensor:
        state.assign(state + x)
        return state * 2

    assert [step(Tensor(array(1))).item() for _ in range(4)] == [2, 4, 6, 8]
    child = os.fork()
    if child == 0:
        status = 1
        try:
            values = [step(Tensor(array(1))).item() for _ in range(2)]
            status = 0 if values == [10, 12] and len(step.captures) == 1 else 2
        except DeviceError as error:
            status = 77 if str(error).startswith("[fork]") else 3
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    # A child may not be able to use memory that is not the host's; then it is told so.
    assert code == 0 or code == 77 and not get_device().capabilities.host_visible
    assert step(Tensor(array(1))).item() == 10


def test_replays_do_not_pile_up_memory() -> None:
    weight = Tensor(np.ones((64, 64), np.float32)).realize()

    @jit
    def step(x: Tensor) -> Tensor:
        return (x @ weight).relu() @ weight

    x = Tensor(np.ones((64, 64), np.float32)).realize()
    for _ in range(4):
        step(x)
    device = get_device()
    device.synchronize()
    gc.collect()
    device.allocator.release_kept()
    before = device.allocator.used_bytes
    for _ in range(20):
        step(x)
    device.synchronize()
    gc.collect()
    device.allocator.release_kept()
    assert device.allocator.used_bytes <= before
    step.reset()
    gc.collect()
    device.synchronize()
    device.allocator.release_kept()
    assert device.allocator.used_bytes < before
