"""Memory of a GPU and of the host under addresses that the GPU sees."""

from __future__ import annotations

import ctypes
import threading
from bisect import insort
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dovetile.errors import OutOfMemoryError
from dovetile_nv.raw import driver_abi as abi
from dovetile_nv.raw.structure import bits

if TYPE_CHECKING:
    from dovetile_nv.raw.card import Card

SMALL_PAGE = 1 << 16
LARGE_PAGE = 1 << 21

# Launch descriptors and pushbuffers are named by addresses of 40 bits.
FIRST_ADDRESS = 1 << 33
LAST_ADDRESS = 1 << 40


class Ranges:
    """Hands out ranges of numbers, first fit."""

    def __init__(self, first: int, last: int) -> None:
        self._free = [(first, last)]
        self._lock = threading.Lock()

    def take(self, size: int, alignment: int) -> int:
        """The start of a free range of `size`. Raises OutOfMemoryError."""
        with self._lock:
            for index, (first, last) in enumerate(self._free):
                start = -(-first // alignment) * alignment
                if start + size <= last:
                    pieces = [(first, start), (start + size, last)]
                    self._free[index : index + 1] = [p for p in pieces if p[0] < p[1]]
                    return start
        raise OutOfMemoryError(f"[allocate] {size} bytes; no such range of addresses is free")

    def give_back(self, start: int, size: int) -> None:
        with self._lock:
            insort(self._free, (start, start + size))
            merged: list[tuple[int, int]] = []
            for first, last in self._free:
                if merged and merged[-1][1] == first:
                    merged[-1] = (merged[-1][0], last)
                else:
                    merged.append((first, last))
            self._free = merged


@dataclass(eq=False)
class Memory:
    """A piece of memory that a GPU can address."""

    address: int
    """As the GPU sees it."""
    nbytes: int
    handle: int
    host_address: int = 0
    """As the host sees it; 0 where it does not."""
    cards: list[Card] = field(default_factory=list)
    """GPUs that see it."""

    def host_bytes(self) -> memoryview:
        """The content, for the host to read and write."""
        return memoryview((ctypes.c_char * self.nbytes).from_address(self.host_address)).cast("B")


def on_card(card: Card, nbytes: int, *, host_visible: bool = False) -> Memory:
    """Memory of the GPU. Raises OutOfMemoryError."""
    large = nbytes >= LARGE_PAGE
    page = LARGE_PAGE if large else SMALL_PAGE
    nbytes = -(-nbytes // page) * page
    flags = (
        abi.NVOS32_ALLOC_FLAGS_IGNORE_BANK_PLACEMENT
        | abi.NVOS32_ALLOC_FLAGS_ALIGNMENT_FORCE
        | abi.NVOS32_ALLOC_FLAGS_PERSISTENT_VIDMEM
    )
    if not host_visible:
        flags |= abi.NVOS32_ALLOC_FLAGS_MAP_NOT_REQUIRED
    page_size = abi.NVOS32_ATTR_PAGE_SIZE_HUGE if large else abi.NVOS32_ATTR_PAGE_SIZE_BIG
    contiguous = (
        abi.NVOS32_ATTR_PHYSICALITY_CONTIGUOUS
        if host_visible
        else abi.NVOS32_ATTR_PHYSICALITY_ALLOW_NONCONTIGUOUS
    )
    attributes2 = bits(abi.NVOS32_ATTR2_ZBC, abi.NVOS32_ATTR2_ZBC_PREFER_NO_ZBC) | bits(
        abi.NVOS32_ATTR2_GPU_CACHEABLE, abi.NVOS32_ATTR2_GPU_CACHEABLE_YES
    )
    if large:
        attributes2 |= bits(abi.NVOS32_ATTR2_PAGE_SIZE_HUGE, abi.NVOS32_ATTR2_PAGE_SIZE_HUGE_2MB)
    parameters = abi.NV_MEMORY_ALLOCATION_PARAMS.pack(
        owner=card.client.root,
        type=abi.NVOS32_TYPE_IMAGE,
        flags=flags,
        attr=bits(abi.NVOS32_ATTR_LOCATION, abi.NVOS32_ATTR_LOCATION_VIDMEM)
        | bits(abi.NVOS32_ATTR_PAGE_SIZE, page_size)
        | bits(abi.NVOS32_ATTR_PHYSICALITY, contiguous),
        attr2=attributes2,
        size=nbytes,
        alignment=page,
    )
    handle = card.client.allocate(card.device, abi.NV01_MEMORY_LOCAL_USER, parameters)
    return _mapped(card, handle, nbytes, page, card.path if host_visible else None)


def on_host(card: Card, nbytes: int) -> Memory:
    """Pinned memory of the host, coherent with the GPU. Raises OutOfMemoryError."""
    nbytes = -(-nbytes // SMALL_PAGE) * SMALL_PAGE
    parameters = abi.NV_MEMORY_ALLOCATION_PARAMS.pack(
        owner=card.client.root,
        type=abi.NVOS32_TYPE_IMAGE,
        flags=abi.NVOS32_ALLOC_FLAGS_IGNORE_BANK_PLACEMENT,
        attr=bits(abi.NVOS32_ATTR_LOCATION, abi.NVOS32_ATTR_LOCATION_PCI)
        | bits(abi.NVOS32_ATTR_COHERENCY, abi.NVOS32_ATTR_COHERENCY_CACHED)
        | bits(abi.NVOS32_ATTR_PHYSICALITY, abi.NVOS32_ATTR_PHYSICALITY_NONCONTIGUOUS),
        attr2=bits(abi.NVOS32_ATTR2_GPU_CACHEABLE, abi.NVOS32_ATTR2_GPU_CACHEABLE_NO),
        size=nbytes,
    )
    handle = card.client.allocate(card.device, abi.NV01_MEMORY_SYSTEM, parameters)
    # Descriptors of the control file map memory of the host, those of a card its own memory.
    return _mapped(card, handle, nbytes, LARGE_PAGE, "/dev/nvidiactl")


def release(card: Card, memory: Memory) -> None:
    """Gives memory back; no command uses it any more."""
    if memory.host_address:
        card.client.system.unmap(memory.host_address, memory.nbytes)
    card.managed.call(abi.UVM_FREE, abi.UVM_FREE_PARAMS, base=memory.address, length=memory.nbytes)
    card.client.free(card.device, memory.handle)
    card.addresses.give_back(memory.address, memory.nbytes)


def _mapped(card: Card, handle: int, nbytes: int, alignment: int, path: str | None) -> Memory:
    address = card.addresses.take(nbytes, alignment)
    managed = card.managed
    managed.call(
        abi.UVM_CREATE_EXTERNAL_RANGE,
        abi.UVM_CREATE_EXTERNAL_RANGE_PARAMS,
        base=address,
        length=nbytes,
    )
    memory = Memory(address, nbytes, handle)
    map_on(card, memory)
    if path:
        memory.host_address = card.client.map(card.device, handle, nbytes, path)
    return memory


def map_on(card: Card, memory: Memory) -> None:
    """Lets a GPU see memory, at the address that it has on all of them."""
    if card in memory.cards:
        return
    card.managed.call(
        abi.UVM_MAP_EXTERNAL_ALLOCATION,
        abi.UVM_MAP_EXTERNAL_ALLOCATION_PARAMS,
        base=memory.address,
        length=memory.nbytes,
        gpuUuid=card.uuid,
        gpuMappingType=abi.UvmGpuMappingTypeReadWriteAtomic,
        gpuAttributesCount=1,
        rmCtrlFd=card.client.descriptor,
        hClient=card.client.root,
        hMemory=memory.handle,
    )
    memory.cards.append(card)
