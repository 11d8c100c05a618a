"""A GPU over the kernel driver's ioctls."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from dovetile.errors import CompileError
from dovetile.runtime import Allocation
from dovetile_nv import cubin
from dovetile_nv.boxes import MAP_BYTES, encoded
from dovetile_nv.interface import Interface, NvProgram, Pinned, Timeline
from dovetile_nv.raw import driver_abi as abi
from dovetile_nv.raw import memory
from dovetile_nv.raw.card import Card, Process
from dovetile_nv.raw.descriptor import DESCRIPTOR_BYTES, local_bytes, template
from dovetile_nv.raw.memory import Memory
from dovetile_nv.raw.pool import Piece, Pool
from dovetile_nv.raw.stream import LOCAL_WINDOW, SHARED_WINDOW, RawStream

_BANK_WINDOWS = 0x18  # where compiled code finds the windows in the first constant bank
_BANK_STACK = 0x28  # and the top of the stack
_STACK_TOP = 0x1000000 - 0x240


class RawProgram(NvProgram):
    """A kernel in the GPU's memory."""

    def __init__(self, interface: RawInterface, image: cubin.Cubin, name: str) -> None:
        self.name = name
        self.kernel = kernel = image.kernels[name]
        self._interface = interface
        self._code = code = interface.visible.take(len(image.image))
        code.host_bytes()[: len(image.image)] = image.relocated(code.address)
        interface.stale_caches = True
        banks = {
            number: (code.address + offset, nbytes)
            for number, (offset, nbytes) in image.banks[name].items()
        }
        descriptor = template(
            interface.card.generation, kernel, code.address + kernel.code_offset, banks
        )
        self.launch_bytes = DESCRIPTOR_BYTES + -(-kernel.bank_bytes // 256) * 256
        self.local_bytes = local_bytes(kernel)
        bank = bytearray(self.launch_bytes - DESCRIPTOR_BYTES)
        struct.pack_into(
            "<3Q", bank, interface.bank_windows, SHARED_WINDOW, LOCAL_WINDOW, _STACK_TOP
        )
        for offset, found in kernel.maps:
            where = kernel.arguments_offset + offset
            bank[where : where + MAP_BYTES] = encoded(found, 0)
        self.template = descriptor + bank
        """Descriptor and first constant bank, without what each launch sets."""

    def __del__(self) -> None:
        if hasattr(self, "template"):
            self.device.queue.retire(_Returned(self._interface.visible, self._code))


@dataclass
class _Returned:
    """Gives a piece of memory back when it is let go of."""

    pool: Pool
    piece: Piece

    def __del__(self) -> None:
        self.pool.give_back(self.piece)


class RawInterface(Interface):
    """One GPU with its memory and its stream."""

    name = "RAW"
    bank_windows = _BANK_WINDOWS

    def __init__(self, process: Process, index: int) -> None:
        self.card = card = Card(process, index)
        version, gpcs, pairs, per_pair, warps = card.graphics_figures(
            abi.NV2080_CTRL_GR_INFO_INDEX_SM_VERSION,
            abi.NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_GPCS,
            abi.NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_TPC_PER_GPC,
            abi.NV2080_CTRL_GR_INFO_INDEX_LITTER_NUM_SM_PER_TPC,
            abi.NV2080_CTRL_GR_INFO_INDEX_MAX_WARPS_PER_SM,
        )
        self.number = (version >> 8) * 10 + (version & 0xF)
        (used,) = card.graphics_figures(abi.NV2080_CTRL_GR_INFO_INDEX_SHADER_PIPE_SUB_COUNT)
        self.multiprocessors = used * per_pair
        self.memory_bytes = card.memory_bytes
        self._pairs = gpcs * pairs
        self._threads_per_pair = warps * 32 * per_pair
        self._local: list[Memory] = []
        self.small = Pool(lambda n: memory.on_card(card, n), self._release, 2 << 20)
        self.visible = Pool(
            lambda n: memory.on_card(card, n, host_visible=True), self._release, 16 << 20
        )
        """Memory of the GPU that the host can write."""
        self.segments = Pool(lambda n: memory.on_host(card, n), self._release, 1 << 20)
        """Pushbuffers of captured lists."""
        self.stale_caches = False
        """Whether code was loaded that the caches for instructions may hold old words of."""

    def open_stream(self, timeline: Timeline) -> None:
        self.stream = RawStream(self, timeline)

    def allocate(self, nbytes: int) -> Allocation:
        piece = self.small.take(nbytes)
        return Allocation(piece.address, nbytes, piece)

    def release(self, allocation: Allocation) -> None:
        self.small.give_back(allocation.handle)

    def pin(self, nbytes: int) -> Pinned:
        pinned = memory.on_host(self.card, nbytes)
        return Pinned(pinned.host_address, pinned.address, pinned.nbytes, pinned)

    def unpin(self, pinned: Pinned) -> None:
        assert isinstance(pinned.handle, Memory)
        self._release(pinned.handle)

    def reaches(self, other: Interface) -> bool:
        return isinstance(other, RawInterface) and self.card.reaches(other.card)

    def admit(self, handle: object) -> None:
        found = handle.memory if isinstance(handle, Piece) else handle
        assert isinstance(found, Memory)
        memory.map_on(self.card, found)

    def load(self, binary: bytes, name: str) -> RawProgram:
        image = cubin.read(binary)
        if name not in image.kernels:
            raise CompileError(
                f"[load] kernel {name!r} is not in the binary; it has {sorted(image.kernels)}"
            )
        return RawProgram(self, image, name)

    def local_memory(self, thread_bytes: int) -> tuple[int, int]:
        """(address, bytes per pair of multiprocessors) of local memory for so much a thread.

        What was there before stays: launches that use it may be pending.
        """
        pair_bytes = -(-thread_bytes * self._threads_per_pair // 0x8000) * 0x8000
        taken = memory.on_card(self.card, pair_bytes * self._pairs)
        self._local.append(taken)
        return taken.address, pair_bytes

    def _release(self, released: Memory) -> None:
        if not self.abandoned:
            memory.release(self.card, released)
