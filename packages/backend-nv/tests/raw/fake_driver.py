"""A model of the kernel driver and of the GPU behind it, for tests without either.

It answers the ioctls that the runtime makes and keeps a log of them, backs all memory by memory of
this process, and executes pushbuffers: semaphores, copies, and launches, which it hands to the
test as bytes of their descriptors. What it does not know is an error, never silence.
"""

from __future__ import annotations

import ctypes
import mmap
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dovetile_nv.raw import driver_abi as abi
from dovetile_nv.raw import hardware as hw
from dovetile_nv.raw import pushbuffer
from dovetile_nv.raw.descriptor import layout
from dovetile_nv.raw.generations import HOPPER, Generation

UUIDS = [bytes(range(first, first + 16)) for first in (1, 101)]
"""Of the GPUs, by number."""
UUID = UUIDS[0]
INVALID_DEVICE = 0x2D
GPU_ID = 0x700
DEVICE_INSTANCE = 0
TOKEN = 0x1234
FIGURES = {
    abi.NV2080_CTRL_GR_INFO_INDEX_SM_VERSION: 0x900,
    abi.NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_GPCS: 8,
    abi.NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_TPC_PER_GPC: 9,
    abi.NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_SM_PER_TPC: 2,
    abi.NV2080_CTRL_GR_INFO_INDEX_MAX_WARPS_PER_SM: 64,
    abi.NV2080_CTRL_GR_INFO_INDEX_SHADER_PIPE_SUB_COUNT: 132,
}


@dataclass
class Thing:
    """An object of the driver."""

    number: int
    """Of its class."""
    parent: int
    parameters: bytes
    memory: mmap.mmap | None = None

    @property
    def host_address(self) -> int:
        assert self.memory is not None
        return ctypes.addressof(ctypes.c_char.from_buffer(self.memory))


@dataclass
class FakeDriver:
    """Takes the place of `System`.

    Args:
        kernel: what a launch does, given the bytes of its descriptor and this driver.
    """

    generation: Generation = HOPPER
    version: str = "580.142"
    memory_bytes: int = 1 << 30
    cards: int = 1
    peers: str = "bus"
    """How one GPU can see the memory of another: bus (when asked for), nvlink, or none."""
    kernel: Callable[[bytes, FakeDriver], None] = lambda descriptor, driver: None
    log: list[tuple[str, int]] = field(default_factory=list)
    """What was asked for: (kind, number)."""
    objects: dict[int, Thing] = field(default_factory=dict)
    mappings: dict[int, tuple[int, int, set[int]]] = field(default_factory=dict)
    """GPU address -> (bytes, handle, numbers of the GPUs that see it)."""
    methods: list[tuple[int, int, int]] = field(default_factory=list)
    """(subchannel, method, data) of all that was executed."""
    descriptors: list[bytes] = field(default_factory=list)
    """Of the launches, in order."""
    paths: dict[int, str] = field(default_factory=dict)
    fault: tuple[int, int] | None = None
    """(error code, address) of a fault that the next launch has."""

    def __post_init__(self) -> None:
        self._next_descriptor = 100
        self._next_handle = 0xCAF00000
        self._pending_map: dict[int, int] = {}
        self._joined = False
        self._called = 0  # the object of the present call
        self._running = 0  # the GPU whose commands are being executed
        self._allocated = 0
        self._channels: list[_Channel] = []
        self._maps: dict[int, mmap.mmap] = {}
        self._error: BaseException | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the GPU. Raises what went wrong in it."""
        self._stopping = True
        self._thread.join()
        if self._error is not None:
            raise self._error

    # -- The operating system ----------------------------------------------------------------

    def read_text(self, path: str) -> str:
        assert path == "/sys/module/nvidia/version"
        return self.version + "\n"

    def open(self, path: str) -> int:
        cards = [f"/dev/nvidia{card}" for card in range(self.cards)]
        assert path in ("/dev/nvidiactl", "/dev/nvidia-uvm", *cards), path
        self._next_descriptor += 1
        self.paths[self._next_descriptor] = path
        return self._next_descriptor

    def close(self, descriptor: int) -> None:
        del self.paths[descriptor]

    def map(self, descriptor: int, nbytes: int) -> int:
        handle = self._pending_map.pop(descriptor)
        thing = self.objects[handle]
        if thing.memory is None:
            thing.memory = mmap.mmap(-1, nbytes)
        system = thing.number == abi.NV01_MEMORY_SYSTEM
        wanted = "/dev/nvidiactl" if system else f"/dev/nvidia{self._card_of(handle)}"
        assert self.paths[descriptor] == wanted
        return thing.host_address

    def unmap(self, address: int, nbytes: int) -> None:
        self.log.append(("unmap", nbytes))

    def ioctl(self, descriptor: int, request: int, argument: bytearray) -> None:
        path = self.paths[descriptor]
        if path == "/dev/nvidia-uvm":
            self._managed(request, argument)
            return
        number, size = request & 0xFF, request >> 16 & 0x3FFF
        assert request >> 30 == 3 and request >> 8 & 0xFF == ord("F")
        assert size == len(argument)
        handlers = {
            abi.NV_ESC_RM_ALLOC: self._allocate,
            abi.NV_ESC_RM_FREE: self._free,
            abi.NV_ESC_RM_CONTROL: self._control,
            abi.NV_ESC_RM_MAP_MEMORY: self._map_memory,
            abi.NV_ESC_CARD_INFO: self._card_information,
            abi.NV_ESC_REGISTER_FD: lambda argument: self.log.append(("register", 0)),
        }
        handlers[number](argument)

    # -- The resource manager ----------------------------------------------------------------

    def _card_of(self, handle: int) -> int:
        """The number of the GPU that an object belongs to."""
        thing = self.objects[handle]
        while thing.number != abi.NV01_DEVICE_0:
            thing = self.objects[thing.parent]
        instance = abi.NV0080_ALLOC_PARAMETERS.get(thing.parameters, "deviceId")
        return instance - DEVICE_INSTANCE

    def _allocate(self, argument: bytearray) -> None:
        structure = abi.NVOS64_PARAMETERS
        number = structure.get(argument, "hClass")
        size = structure.get(argument, "paramsSize")
        address = structure.get(argument, "pAllocParms")
        parameters = ctypes.string_at(address, size) if size else b""
        self.log.append(("allocate", number))
        parent = structure.get(argument, "hObjectParent")
        assert number == abi.NV01_ROOT_CLIENT or parent in self.objects
        thing = Thing(number, parent, parameters)
        if number in (abi.NV01_MEMORY_LOCAL_USER, abi.NV01_MEMORY_SYSTEM):
            nbytes = abi.NV_MEMORY_ALLOCATION_PARAMS.get(parameters, "size")
            if number == abi.NV01_MEMORY_LOCAL_USER:
                if self._allocated + nbytes > self.memory_bytes:
                    structure.set(argument, "status", abi.NV_ERR_NO_MEMORY)
                    return
                self._allocated += nbytes
            thing.memory = mmap.mmap(-1, nbytes)
        self._next_handle += 1
        self.objects[self._next_handle] = thing
        structure.set(argument, "hObjectNew", self._next_handle)
        if number == self.generation.channel_class:
            self._channels.append(_Channel(self, self._next_handle, parameters))

    def _free(self, argument: bytearray) -> None:
        handle = abi.NVOS00_PARAMETERS.get(argument, "hObjectOld")
        self.log.append(("free", self.objects[handle].number))
        below = [h for h, thing in self.objects.items() if thing.parent == handle]
        for other in below:
            self._drop(other)
        self._drop(handle)

    def _drop(self, handle: int) -> None:
        thing = self.objects.pop(handle)
        if thing.number == abi.NV01_MEMORY_LOCAL_USER and thing.memory is not None:
            self._allocated -= len(thing.memory)
        self._channels = [c for c in self._channels if c.handle != handle]

    def _control(self, argument: bytearray) -> None:
        structure = abi.NVOS54_PARAMETERS
        command = structure.get(argument, "cmd")
        size = structure.get(argument, "paramsSize")
        memory = (ctypes.c_char * size).from_address(structure.get(argument, "params"))
        parameters = memoryview(memory).cast("B")
        self._called = structure.get(argument, "hObject")
        assert self._called in self.objects
        self.log.append(("control", command))
        handlers = {
            abi.NV0000_CTRL_CMD_GPU_GET_ID_INFO_V2: self._id_information,
            abi.NV0080_CTRL_CMD_GPU_GET_CLASSLIST_V2: self._class_list,
            abi.NV2080_CTRL_CMD_GPU_GET_GID_INFO: self._gpu_uuid,
            abi.NV2080_CTRL_CMD_GR_GET_INFO: self._figures,
            abi.NV2080_CTRL_CMD_FB_GET_INFO_V2: self._memory_information,
            abi.NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN: self._token,
            abi.NVA06C_CTRL_CMD_GPFIFO_SCHEDULE: lambda parameters: None,
            abi.NV83DE_CTRL_CMD_DEBUG_READ_MMU_FAULT_INFO: self._fault_information,
        }
        handlers[command](parameters)

    def _id_information(self, parameters: memoryview) -> None:
        structure = abi.NV0000_CTRL_GPU_GET_ID_INFO_V2_PARAMS
        card = structure.get(parameters, "gpuId") - GPU_ID
        assert 0 <= card < self.cards
        structure.set(parameters, "deviceInstance", DEVICE_INSTANCE + card)

    def _class_list(self, parameters: memoryview) -> None:
        g = self.generation
        classes = (g.compute_class, g.copy_class, g.channel_class, g.doorbell_class)
        structure = abi.NV0080_CTRL_GPU_GET_CLASSLIST_V2_PARAMS
        structure.set(parameters, "numClasses", len(classes))
        offset = structure.fields["classList"][0]
        for position, number in enumerate(classes):
            parameters[offset + 4 * position : offset + 4 * position + 4] = number.to_bytes(
                4, "little"
            )

    def _gpu_uuid(self, parameters: memoryview) -> None:
        uuid = UUIDS[self._card_of(self._called)]
        abi.NV2080_CTRL_GPU_GET_GID_INFO_PARAMS.set(parameters, "data", uuid)

    def _figures(self, parameters: memoryview) -> None:
        structure, entry = abi.NV2080_CTRL_GR_GET_INFO_PARAMS, abi.NVXXXX_CTRL_XXX_INFO
        count = structure.get(parameters, "grInfoListSize")
        address = structure.get(parameters, "grInfoList")
        memory = (ctypes.c_char * (count * entry.size)).from_address(address)
        for base in range(0, count * entry.size, entry.size):
            entry.set(memory, "data", FIGURES[entry.get(memory, "index", base)], base)

    def _memory_information(self, parameters: memoryview) -> None:
        structure = abi.NV2080_CTRL_FB_GET_INFO_V2_PARAMS
        assert structure.get(parameters, "index") == abi.NV2080_CTRL_FB_INFO_INDEX_USABLE_RAM_SIZE
        structure.set(parameters, "data", self.memory_bytes // 1024)

    def _token(self, parameters: memoryview) -> None:
        abi.NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN_PARAMS.set(
            parameters, "workSubmitToken", TOKEN
        )

    def _fault_information(self, parameters: memoryview) -> None:
        assert self.fault is not None
        structure = abi.NV83DE_CTRL_DEBUG_READ_MMU_FAULT_INFO_PARAMS
        structure.set(parameters, "count", 1)
        structure.set(parameters, "faultAddress", self.fault[1])
        structure.set(parameters, "accessType", 1)
        self.fault = None

    def _map_memory(self, argument: bytearray) -> None:
        structure = abi.nv_ioctl_nvos33_parameters_with_fd
        handle = structure.get(argument, "hMemory")
        assert structure.get(argument, "hDevice") == self.objects[handle].parent
        self.log.append(("map", self.objects[handle].number))
        self._pending_map[structure.get(argument, "fd")] = handle

    def _card_information(self, argument: bytearray) -> None:
        structure = abi.nv_ioctl_card_info_t
        for card in range(self.cards):
            base = card * structure.size
            structure.set(argument, "valid", 1, base)
            structure.set(argument, "gpu_id", GPU_ID + card, base)
            structure.set(argument, "minor_number", card, base)

    # -- Unified memory ----------------------------------------------------------------------

    def _managed(self, number: int, argument: bytearray) -> None:
        self.log.append(("managed", number))
        if number == abi.UVM_MAP_EXTERNAL_ALLOCATION:
            structure = abi.UVM_MAP_EXTERNAL_ALLOCATION_PARAMS
            card = UUIDS.index(structure.get(argument, "gpuUuid"))
            base, length = structure.get(argument, "base"), structure.get(argument, "length")
            handle = structure.get(argument, "hMemory")
            local = self.objects[handle].number == abi.NV01_MEMORY_LOCAL_USER
            if local and card != self._card_of(handle) and not self._joined:
                if self.peers != "nvlink":
                    structure.set(argument, "rmStatus", INVALID_DEVICE)
                    return
            known = self.mappings.setdefault(base, (length, handle, set()))
            assert known[:2] == (length, handle) and card not in known[2]
            known[2].add(card)
        elif number == abi.UVM_ENABLE_PEER_ACCESS:
            structure = abi.UVM_ENABLE_PEER_ACCESS_PARAMS
            pair = {structure.get(argument, name) for name in ("first", "second")}
            assert pair == set(UUIDS)
            self._joined = self.peers == "bus"
            if not self._joined:
                structure.set(argument, "rmStatus", INVALID_DEVICE)
        elif number == abi.UVM_FREE:
            del self.mappings[abi.UVM_FREE_PARAMS.get(argument, "base")]
        else:
            known = (
                abi.UVM_INITIALIZE,
                abi.UVM_MM_INITIALIZE,
                abi.UVM_REGISTER_GPU,
                abi.UVM_REGISTER_GPU_VASPACE,
                abi.UVM_REGISTER_CHANNEL,
                abi.UVM_UNREGISTER_CHANNEL,
                abi.UVM_CREATE_EXTERNAL_RANGE,
            )
            assert number in known, number

    # -- The GPU -----------------------------------------------------------------------------

    def at(self, address: int, nbytes: int) -> memoryview:
        """Memory at an address of the GPU."""
        for base, (length, handle, cards) in self.mappings.items():
            if base <= address and address + nbytes <= base + length:
                assert self._running in cards, f"GPU {self._running} does not see {address:#x}"
                memory = self.objects[handle].memory
                assert memory is not None
                return memoryview(memory)[address - base : address - base + nbytes]
        raise AssertionError(f"the GPU has no memory at {address:#x}")

    def read(self, address: int, nbytes: int = 8) -> int:
        return int.from_bytes(self.at(address, nbytes), "little")

    def write(self, address: int, value: int) -> None:
        self.at(address, 8)[:] = value.to_bytes(8, "little")

    def _loop(self) -> None:
        while not self._stopping:
            for channel in list(self._channels):
                try:
                    channel.execute()
                except BaseException as error:  # shown by `stop`, on the test's thread
                    self._error = error
                    return
            time.sleep(1e-5)


class _Channel:
    """What the host engine of a GPU does with one channel."""

    def __init__(self, driver: FakeDriver, handle: int, parameters: bytes) -> None:
        structure = abi.NV_CHANNEL_ALLOC_PARAMS
        self.driver = driver
        self.handle = handle
        self.card = driver._card_of(handle)
        self.ring = structure.get(parameters, "gpFifoOffset")
        self.entries = structure.get(parameters, "gpFifoEntries")
        self.control = driver.objects[structure.get(parameters, "hUserdMemory")]
        self.registers = structure.get(parameters, "userdOffset")
        self.notifier = driver.objects[structure.get(parameters, "hObjectError")]
        self.get = 0
        self.waiting: list[tuple[int, int, int]] = []
        self.state: dict[tuple[int, int], int] = {}
        self.stopped = False

    def execute(self) -> None:
        self.driver._running = self.card
        assert self.control.memory is not None
        put_at = self.registers + 0x8C
        put = int.from_bytes(self.control.memory[put_at : put_at + 4], "little")
        while not self.stopped and (self.waiting or self.get != put):
            if not self.waiting:
                entry = self.driver.read(self.ring + 8 * self.get)
                self.get = (self.get + 1) % self.entries
                address, count = entry & 0xFFFFFFFFFC, entry >> 42 & 0x1FFFFF
                words = list(memoryview(bytes(self.driver.at(address, 4 * count))).cast("I"))
                self.waiting = pushbuffer.decode(words)
            while self.waiting:
                if not self._method(*self.waiting[0]):
                    return
                self.driver.methods.append(self.waiting.pop(0))
                if self.stopped:
                    return

    def _method(self, subchannel: int, method: int, data: int) -> bool:
        """Executes a method; False where it must be tried again later."""
        self.state[subchannel, method] = data
        if method == hw.NVC86F_SEM_EXECUTE:
            return self._semaphore(data)
        if subchannel == pushbuffer.COPY and method == hw.NVC8B5_LAUNCH_DMA:
            self._copy()
        if subchannel == pushbuffer.COMPUTE and method == hw.NVCBC0_SEND_SIGNALING_PCAS2_B:
            self._launch(self.state[subchannel, hw.NVCBC0_SEND_PCAS_A] << 8)
        return True

    def _pair(self, subchannel: int, upper: int) -> int:
        return self.state[subchannel, upper] << 32 | self.state[subchannel, upper + 4]

    def _semaphore(self, execute: int) -> bool:
        low, high, payload, payload_high = (
            self.state[0, hw.NVC86F_SEM_ADDR_LO + 4 * i] for i in range(4)
        )
        address, value = high << 32 | low, payload_high << 32 | payload
        operation = execute & 7
        if operation == hw.NVC56F_SEM_EXECUTE_OPERATION_ACQ_STRICT_GEQ:
            return self.driver.read(address) >= value
        assert operation == hw.NVC86F_SEM_EXECUTE_OPERATION_RELEASE
        self.driver.write(address, value)
        if execute >> 25 & 1:
            assert address % 16 == 0
            self.driver.write(address + 8, time.time_ns())
        return True

    def _copy(self) -> None:
        source = self._pair(pushbuffer.COPY, hw.NVC8B5_OFFSET_IN_UPPER)
        destination = self._pair(pushbuffer.COPY, hw.NVC8B5_OFFSET_OUT_UPPER)
        nbytes = self.state[pushbuffer.COPY, hw.NVC8B5_LINE_LENGTH_IN]
        self.driver.at(destination, nbytes)[:] = self.driver.at(source, nbytes)

    def _launch(self, address: int) -> None:
        shape = layout(self.driver.generation.descriptor)
        while address:
            descriptor = bytes(self.driver.at(address, 512))
            self.driver.descriptors.append(descriptor)
            if self.driver.fault is not None:
                abi.NvNotification.set(self.notifier.memory, "info32", self.driver.fault[0])
                abi.NvNotification.set(self.notifier.memory, "status", 0xFFFF)
                self.stopped = True
                return
            self.driver.kernel(descriptor, self.driver)
            indexed = "DEPENDENT_QMD_ENABLE" in shape.fields
            name = "DEPENDENT_QMD_ENABLE" if indexed else "DEPENDENT_QMD0_ENABLE"
            chained = shape.read(descriptor, name)
            address = shape.read(descriptor, "DEPENDENT_QMD0_POINTER") << 8 if chained else 0
