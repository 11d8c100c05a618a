"""Two GPUs of one process: who sees whose memory, copies and signals between them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from fake_driver import FakeDriver

from dovetile import dtypes
from dovetile.plugins import Selection
from dovetile.runtime import Buffer, Copy, SignalStore, SignalWait
from dovetile.schedule.run import copy
from dovetile_nv import device, plugin
from dovetile_nv.device import NvDevice
from dovetile_nv.raw import driver_abi as abi
from dovetile_nv.raw.card import Process
from dovetile_nv.raw.interface import RawInterface

CONTENT = np.arange(1003, dtype=np.int32)  # no multiple of 16 bytes: by the copy engine


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    driver = FakeDriver(cards=2)
    yield driver
    driver.stop()


@pytest.fixture
def gpus(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> list[NvDevice]:
    shared = Process(driver)
    monkeypatch.setattr(device, "open_interface", lambda index: RawInterface(shared, index))
    return [NvDevice(Selection("NV", index, plugin.COMPILERS[0])) for index in range(2)]


def part(gpu: NvDevice, content: np.ndarray = CONTENT) -> Buffer:
    """A buffer whose address is no multiple of 16."""
    whole = Buffer(gpu, content.nbytes + 4, dtypes.int32)
    view = whole.view(4, content.nbytes)
    view.copy_in(content)
    return view


def maps(driver: FakeDriver) -> int:
    return driver.log.count(("managed", abi.UVM_MAP_EXTERNAL_ALLOCATION))


def test_each_has_its_own_memory(gpus: list[NvDevice], driver: FakeDriver) -> None:
    for gpu in gpus:
        np.testing.assert_array_equal(part(gpu).to_numpy(), CONTENT)
    assert all(len(cards) == 1 for _, _, cards in driver.mappings.values())


@pytest.mark.parametrize("way", ["bus", "nvlink"])
def test_copies_are_commands_in_order(gpus: list[NvDevice], driver: FakeDriver, way: str) -> None:
    """The source may be written again at once, by its own GPU."""
    driver.peers = way
    first, second = gpus
    source, destination = part(first), part(second, 0 * CONTENT)
    other = part(first, CONTENT + 7)
    hold = second.new_signal()
    second.queue.wait(hold, 1)
    copy(destination, source)  # cannot be done yet
    first.queue.copy(source, other)
    first.queue.submit()
    hold.value = 1
    np.testing.assert_array_equal(destination.to_numpy(), CONTENT)
    np.testing.assert_array_equal(source.to_numpy(), CONTENT + 7)
    before = maps(driver)
    copy(destination, source)
    np.testing.assert_array_equal(destination.to_numpy(), CONTENT + 7)
    assert maps(driver) == before  # what is seen once stays so
    assert driver.log.count(("managed", abi.UVM_ENABLE_PEER_ACCESS)) == 1


def test_captured_copies_and_signals(gpus: list[NvDevice]) -> None:
    first, second = gpus
    assert second.reaches(first)
    source, destination = part(first), part(second, 0 * CONTENT)
    ready = first.new_signal()
    take = second.queue.capture([SignalWait(ready, 1), Copy(destination, source)])
    give = first.queue.capture([Copy(source, part(first, 3 * CONTENT)), SignalStore(ready, 1)])
    take.submit()
    give.submit()
    np.testing.assert_array_equal(destination.to_numpy(), 3 * CONTENT)


def test_without_a_way_between_them_copies_go_through_the_host(
    gpus: list[NvDevice], driver: FakeDriver
) -> None:
    driver.peers = "none"
    first, second = gpus
    assert not first.reaches(second) and not second.reaches(first)
    source, destination = part(first), part(second, 0 * CONTENT)
    copy(destination, source)
    np.testing.assert_array_equal(destination.to_numpy(), CONTENT)
    assert all(len(cards) == 1 for _, _, cards in driver.mappings.values())
