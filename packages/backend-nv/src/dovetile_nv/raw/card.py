"""One GPU, opened: its objects, its address space and its figures."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from functools import cached_property

from dovetile.errors import DeviceError
from dovetile_nv.raw import driver_abi as abi
from dovetile_nv.raw import memory
from dovetile_nv.raw.client import Client, ManagedMemory, address_of
from dovetile_nv.raw.generations import Generation, of_classes
from dovetile_nv.raw.structure import bits
from dovetile_nv.raw.system import System


class Process:
    """What all GPUs of this process share: the driver's client and one address space."""

    def __init__(self, system: System) -> None:
        self.client = Client(system)
        self.managed = ManagedMemory(self.client)
        self.addresses = memory.Ranges(memory.FIRST_ADDRESS, memory.LAST_ADDRESS)


_process: Process | None = None
_process_lock = threading.Lock()


def _after_fork() -> None:
    """The child is a client of its own: the driver knows the other by its process."""
    global _process, _process_lock
    _process, _process_lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def process() -> Process:
    """The driver's client of this process, made at first use."""
    global _process
    with _process_lock:
        if _process is None:
            _process = Process(System())
        return _process


class Card:
    """A GPU with an address space of its own.

    Args:
        index: among the GPUs of this machine.
    """

    def __init__(self, shared: Process, index: int) -> None:
        self.client = client = shared.client
        self.managed = shared.managed
        self.addresses = shared.addresses
        self._peers: dict[Card, bool] = {}
        cards = client.cards()
        if index >= len(cards):
            raise DeviceError(f"[driver] GPU {index}; there are {len(cards)}")
        minor, gpu_id = cards[index]
        self.path = f"/dev/nvidia{minor}"
        try:
            self._descriptor = client.system.open(self.path)
        except OSError as error:
            raise DeviceError(f"[driver] {self.path}: {error}") from error
        client.escape(
            abi.NV_ESC_REGISTER_FD,
            abi.nv_ioctl_register_fd_t.pack(ctl_fd=client.descriptor),
            self._descriptor,
        )
        information = client.control(
            client.root,
            abi.NV0000_CTRL_CMD_GPU_GET_ID_INFO_V2,
            abi.NV0000_CTRL_GPU_GET_ID_INFO_V2_PARAMS.pack(gpuId=gpu_id),
        )
        self.device = client.allocate(
            client.root,
            abi.NV01_DEVICE_0,
            abi.NV0080_ALLOC_PARAMETERS.pack(
                deviceId=abi.NV0000_CTRL_GPU_GET_ID_INFO_V2_PARAMS.get(
                    information, "deviceInstance"
                ),
                hClientShare=client.root,
                vaMode=abi.NV_DEVICE_ALLOCATION_VAMODE_OPTIONAL_MULTIPLE_VASPACES,
            ),
        )
        self.subdevice = client.allocate(
            self.device, abi.NV20_SUBDEVICE_0, abi.NV2080_ALLOC_PARAMETERS.pack()
        )
        self.generation: Generation = of_classes(self.classes)
        self.address_space = self._make_address_space()
        self.doorbell = self._map_doorbell()

    @cached_property
    def classes(self) -> frozenset[int]:
        """Numbers of the classes of objects that this GPU knows."""
        structure = abi.NV0080_CTRL_GPU_GET_CLASSLIST_V2_PARAMS
        answer = self.client.control(
            self.device, abi.NV0080_CTRL_CMD_GPU_GET_CLASSLIST_V2, structure.pack()
        )
        return frozenset(structure.get(answer, "classList")[: structure.get(answer, "numClasses")])

    @cached_property
    def uuid(self) -> bytes:
        structure = abi.NV2080_CTRL_GPU_GET_GID_INFO_PARAMS
        answer = self.client.control(
            self.subdevice,
            abi.NV2080_CTRL_CMD_GPU_GET_GID_INFO,
            structure.pack(
                flags=bits(
                    abi.NV2080_GPU_CMD_GPU_GET_GID_FLAGS_FORMAT,
                    abi.NV2080_GPU_CMD_GPU_GET_GID_FLAGS_FORMAT_BINARY,
                )
            ),
        )
        return structure.get(answer, "data")[:16]

    def reaches(self, other: Card) -> bool:
        """Whether one can see the other's memory: over NVLink, or over the bus."""
        if other not in self._peers:
            self._peers[other] = other._peers[self] = self._sees(other)
        return self._peers[other]

    def _sees(self, other: Card) -> bool:
        pair = {"first": self.uuid, "second": other.uuid}
        with suppress(DeviceError):  # refused where NVLink has joined them already
            structure = abi.UVM_ENABLE_PEER_ACCESS_PARAMS
            self.managed.call(abi.UVM_ENABLE_PEER_ACCESS, structure, **pair)
        probe = memory.on_card(other, memory.SMALL_PAGE)
        try:
            memory.map_on(self, probe)
        except DeviceError:
            return False
        finally:
            memory.release(other, probe)
        return True

    def graphics_figures(self, *indices: int) -> list[int]:
        """Figures of the compute engine by their NV2080_CTRL_GR_INFO_INDEX."""
        entry = abi.NVXXXX_CTRL_XXX_INFO
        entries = bytearray().join(entry.pack(index=index) for index in indices)
        self.client.control(
            self.subdevice,
            abi.NV2080_CTRL_CMD_GR_GET_INFO,
            abi.NV2080_CTRL_GR_GET_INFO_PARAMS.pack(
                grInfoListSize=len(indices), grInfoList=address_of(entries)
            ),
        )
        return [entry.get(entries, "data", i * entry.size) for i in range(len(indices))]

    @cached_property
    def memory_bytes(self) -> int:
        """Memory of the GPU."""
        structure = abi.NV2080_CTRL_FB_GET_INFO_V2_PARAMS
        answer = self.client.control(
            self.subdevice,
            abi.NV2080_CTRL_CMD_FB_GET_INFO_V2,
            structure.pack(fbInfoListSize=1, index=abi.NV2080_CTRL_FB_INFO_INDEX_USABLE_RAM_SIZE),
        )
        return structure.get(answer, "data") * 1024

    def _make_address_space(self) -> int:
        handle = self.client.allocate(
            self.device,
            abi.FERMI_VASPACE_A,
            abi.NV_VASPACE_ALLOCATION_PARAMETERS.pack(
                flags=abi.NV_VASPACE_ALLOCATION_FLAGS_IS_EXTERNALLY_OWNED
                | abi.NV_VASPACE_ALLOCATION_FLAGS_ENABLE_PAGE_FAULTING
            ),
        )
        root = {"rmCtrlFd": self.client.descriptor, "hClient": self.client.root}
        self.managed.call(
            abi.UVM_REGISTER_GPU, abi.UVM_REGISTER_GPU_PARAMS, gpu_uuid=self.uuid, **root
        )
        self.managed.call(
            abi.UVM_REGISTER_GPU_VASPACE,
            abi.UVM_REGISTER_GPU_VASPACE_PARAMS,
            gpuUuid=self.uuid,
            hVaSpace=handle,
            **root,
        )
        return handle

    def _map_doorbell(self) -> int:
        """The address on which the number of a channel tells the GPU of new work."""
        number = self.generation.doorbell_class
        parameters = None
        if number == abi.HOPPER_USERMODE_A:
            parameters = abi.NV_HOPPER_USERMODE_A_PARAMS.pack(bBar1Mapping=1)
        handle = self.client.allocate(self.subdevice, number, parameters)
        base = self.client.map(self.subdevice, handle, abi.NVC361_NV_USERMODE__SIZE, self.path)
        return base + abi.NVC361_NOTIFY_CHANNEL_PENDING
