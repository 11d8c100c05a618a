"""What the runtime asks of the driver, call by call, and the structures it hands over."""

from __future__ import annotations

import pytest
from fake_driver import GPU_ID, UUID, FakeDriver

from dovetile.errors import DeviceError
from dovetile_nv.device import NvDevice
from dovetile_nv.raw import driver_abi as abi
from dovetile_nv.raw import memory, probe
from dovetile_nv.raw.card import Card, Process
from dovetile_nv.raw.channel import ENTRIES, Channel
from dovetile_nv.raw.client import request
from dovetile_nv.raw.generations import GENERATIONS, HOPPER
from dovetile_nv.raw.structure import Structure


@pytest.fixture
def card(driver: FakeDriver) -> Card:
    return Card(Process(driver), 0)  # type: ignore[arg-type]


def test_a_card_is_opened_in_this_order(driver: FakeDriver, card: Card):
    assert driver.log == [
        ("allocate", abi.NV01_ROOT_CLIENT),
        ("managed", abi.UVM_INITIALIZE),
        ("managed", abi.UVM_MM_INITIALIZE),
        ("register", 0),
        ("control", abi.NV0000_CTRL_CMD_GPU_GET_ID_INFO_V2),
        ("allocate", abi.NV01_DEVICE_0),
        ("allocate", abi.NV20_SUBDEVICE_0),
        ("control", abi.NV0080_CTRL_CMD_GPU_GET_CLASSLIST_V2),
        ("allocate", abi.FERMI_VASPACE_A),
        ("control", abi.NV2080_CTRL_CMD_GPU_GET_GID_INFO),
        ("managed", abi.UVM_REGISTER_GPU),
        ("managed", abi.UVM_REGISTER_GPU_VASPACE),
        ("allocate", abi.HOPPER_USERMODE_A),
        ("map", abi.HOPPER_USERMODE_A),
    ]
    assert card.uuid == UUID and card.generation is HOPPER
    assert driver.objects[card.device].parameters == abi.NV0080_ALLOC_PARAMETERS.pack(
        deviceId=0, hClientShare=card.client.root
    )
    assert driver.objects[card.address_space].parameters == (
        abi.NV_VASPACE_ALLOCATION_PARAMETERS.pack(flags=1 << 3 | 1 << 6)
    )


def test_a_channel_is_opened_in_this_order(driver: FakeDriver, card: Card):
    driver.log.clear()
    channel = Channel(card, abi.NV2080_ENGINE_TYPE_GRAPHICS, {1: 0xCBC0, 4: 0xC8B5})
    memories = [
        ("managed", abi.UVM_CREATE_EXTERNAL_RANGE),
        ("managed", abi.UVM_MAP_EXTERNAL_ALLOCATION),
    ]
    local, system = abi.NV01_MEMORY_LOCAL_USER, abi.NV01_MEMORY_SYSTEM
    assert driver.log == [
        *[("allocate", local), *memories, ("map", local)],
        *[("allocate", system), *memories, ("map", system)] * 2,
        ("allocate", abi.KEPLER_CHANNEL_GROUP_A),
        ("allocate", abi.FERMI_CONTEXT_SHARE_A),
        ("allocate", 0xC86F),
        ("allocate", 0xCBC0),
        ("allocate", 0xC8B5),
        ("managed", abi.UVM_REGISTER_CHANNEL),
        ("control", abi.NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN),
        ("control", abi.NVA06C_CTRL_CMD_GPFIFO_SCHEDULE),
    ]
    parameters, structure = driver.objects[channel.handle].parameters, abi.NV_CHANNEL_ALLOC_PARAMS
    assert structure.get(parameters, "gpFifoEntries") == ENTRIES
    assert structure.get(parameters, "userdOffset") == 8 * ENTRIES
    assert structure.get(parameters, "engineType") == 1
    assert structure.get(parameters, "hUserdMemory") == structure.get(parameters, "hObjectBuffer")
    # All that was taken goes back with the channel.
    channel.close()
    left = {thing.number for thing in driver.objects.values()}
    assert left.isdisjoint({local, system, 0xC86F, abi.KEPLER_CHANNEL_GROUP_A})
    assert not driver.mappings


def test_memory_of_the_card(driver: FakeDriver, card: Card):
    small, large = memory.on_card(card, 1000), memory.on_card(card, (2 << 20) + 1)
    assert (small.nbytes, large.nbytes) == (1 << 16, 4 << 20)
    assert small.address % (1 << 16) == 0 and large.address % (2 << 20) == 0
    structure = abi.NV_MEMORY_ALLOCATION_PARAMS
    first, second = (driver.objects[m.handle].parameters for m in (small, large))
    # PAGE_SIZE_BIG and HUGE in bits 24:23, PHYSICALITY_ALLOW_NONCONTIGUOUS in 28:27.
    assert structure.get(first, "attr") == 2 << 23 | 3 << 27
    assert structure.get(second, "attr") == 3 << 23 | 3 << 27
    # ZBC_PREFER_NO_ZBC, GPU_CACHEABLE_YES, PAGE_SIZE_HUGE_2MB.
    assert structure.get(first, "attr2") == 1 | 1 << 2
    assert structure.get(second, "attr2") == 1 | 1 << 2 | 1 << 20
    assert not small.host_address
    memory.release(card, small)
    again = memory.on_card(card, 1000)
    assert again.address == small.address


def test_memory_of_the_host(driver: FakeDriver, card: Card):
    pinned = memory.on_host(card, 100)
    parameters = driver.objects[pinned.handle].parameters
    # LOCATION_PCI in 26:25, PHYSICALITY_NONCONTIGUOUS in 28:27, COHERENCY_CACHED in 31:29.
    assert abi.NV_MEMORY_ALLOCATION_PARAMS.get(parameters, "attr") == 1 << 25 | 1 << 27 | 1 << 29
    pinned.host_bytes()[:5] = b"hello"
    assert bytes(driver.at(pinned.address, 5)) == b"hello"


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda g: g.name)
def test_every_generation_opens(generation):
    driver = FakeDriver(generation=generation)
    card = Card(Process(driver), 0)  # type: ignore[arg-type]
    assert card.generation is generation
    driver.stop()


def test_requests_are_those_of_the_driver():
    # _IOWR('F', 0x2B, NVOS64_PARAMETERS), as the kernel's headers have it.
    assert request(abi.NV_ESC_RM_ALLOC, abi.NVOS64_PARAMETERS.size) == 0xC030462B
    assert abi.NVOS54_PARAMETERS.size == 32 and abi.nv_ioctl_card_info_t.size == 72


def test_a_refused_call_says_which(driver: FakeDriver, card: Card):
    with pytest.raises(DeviceError, match="GPU 1; there are 1"):
        Card(Process(driver), 1)  # type: ignore[arg-type]
    assert card.client.cards() == [(0, GPU_ID)]


@pytest.mark.parametrize(
    ("version", "expected"),
    [("580.159.04", None), ("470.1", "version 470.1; the raw queue knows versions 580.x")],
)
def test_the_probe_wants_a_driver_it_knows(
    driver: FakeDriver, gpu: NvDevice, monkeypatch: pytest.MonkeyPatch, version, expected
):
    driver.version = version
    monkeypatch.setattr(probe.os, "access", lambda path, mode: True)
    monkeypatch.setattr("dovetile_nv.raw.card._process", Process(driver))  # type: ignore[arg-type]
    found = probe.problem(driver)  # type: ignore[arg-type]
    assert found is None if expected is None else expected in str(found)


def test_the_probe_says_which_file_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probe.os, "access", lambda path, mode: False)
    monkeypatch.setattr(probe.os.path, "exists", lambda path: path == "/dev/nvidiactl")
    assert probe.problem() == "/dev/nvidiactl may not be opened"


def test_structures():
    structure = Structure("example", 24, {"a": (0, "I"), "b": (8, "Q"), "c": (16, "2I")})
    memory = structure.pack(a=1, b=2**40)
    assert bytes(memory[:16]) == b"\1" + bytes(12) + b"\1" + bytes(2)
    assert structure.get(memory, "c") == (0, 0)
