"""A channel: the ring through which one engine of the GPU is given pushbuffers to execute."""

from __future__ import annotations

import ctypes
import struct
import threading
from functools import cache
from typing import TYPE_CHECKING

from dovetile_nv.raw import driver_abi as abi
from dovetile_nv.raw import hardware as hw
from dovetile_nv.raw import memory, pushbuffer
from dovetile_nv.raw.ring import Ring
from dovetile_nv.raw.structure import bits

if TYPE_CHECKING:
    from collections.abc import Callable

    from dovetile_nv.raw.card import Card

ENTRIES = 4096
"""Pushbuffers that may wait in the ring."""
_USER_AREA = ENTRIES * 8  # the channel's registers lie behind the ring
_PUT = _USER_AREA + 0x8C  # GPPut of the class's control structure
PUSHBUFFER_BYTES = 8 << 20
_LARGEST_PIECE = 1 << 18  # words; an entry of the ring can name eight times as many
_LENGTH = 32 + hw.NVC86F_GP_ENTRY1_LENGTH[1]  # where an entry has it; below lies the address
_CONTEXT_BYTES = 64 << 20  # addresses for the driver's own buffers of the engine


class Channel:
    """A channel of its own group.

    Args:
        engine: NV2080_ENGINE_TYPE it runs on. classes: by the subchannel that each is bound to.
    """

    def __init__(self, card: Card, engine: int, classes: dict[int, int]) -> None:
        self.card = card
        client = card.client
        self._control = memory.on_card(card, _USER_AREA + memory.SMALL_PAGE, host_visible=True)
        self._notifier = memory.on_host(card, memory.SMALL_PAGE)
        self._pushbuffer = memory.on_host(card, PUSHBUFFER_BYTES)
        self.group = client.allocate(
            card.device,
            abi.KEPLER_CHANNEL_GROUP_A,
            abi.NV_CHANNEL_GROUP_ALLOCATION_PARAMETERS.pack(
                engineType=engine, hVASpace=card.address_space
            ),
        )
        share = client.allocate(
            self.group,
            abi.FERMI_CONTEXT_SHARE_A,
            abi.NV_CTXSHARE_ALLOCATION_PARAMETERS.pack(
                hVASpace=card.address_space,
                flags=bits(
                    abi.NV_CTXSHARE_ALLOCATION_FLAGS_SUBCONTEXT,
                    abi.NV_CTXSHARE_ALLOCATION_FLAGS_SUBCONTEXT_ASYNC,
                ),
            ),
        )
        self.handle = client.allocate(
            self.group,
            card.generation.channel_class,
            abi.NV_CHANNEL_ALLOC_PARAMS.pack(
                hObjectError=self._notifier.handle,
                hObjectBuffer=self._control.handle,
                gpFifoOffset=self._control.address,
                gpFifoEntries=ENTRIES,
                hContextShare=share,
                hUserdMemory=self._control.handle,
                userdOffset=_USER_AREA,
                engineType=engine,
            ),
        )
        self.objects = {
            subchannel: client.allocate(self.handle, number)
            for subchannel, number in classes.items()
        }
        self._context_address = card.addresses.take(_CONTEXT_BYTES, memory.LARGE_PAGE)
        card.managed.call(
            abi.UVM_REGISTER_CHANNEL,
            abi.UVM_REGISTER_CHANNEL_PARAMS,
            gpuUuid=card.uuid,
            rmCtrlFd=client.descriptor,
            hClient=client.root,
            hChannel=self.handle,
            base=self._context_address,
            length=_CONTEXT_BYTES,
        )
        answer = client.control(
            self.handle,
            abi.NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN,
            abi.NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN_PARAMS.pack(),
        )
        self._token = abi.NVC36F_CTRL_CMD_GPFIFO_GET_WORK_SUBMIT_TOKEN_PARAMS.get(
            answer, "workSubmitToken"
        )
        client.control(
            self.group,
            abi.NVA06C_CTRL_CMD_GPFIFO_SCHEDULE,
            abi.NVA06C_CTRL_GPFIFO_SCHEDULE_PARAMS.pack(bEnable=1),
        )
        self._ring = (ctypes.c_uint64 * ENTRIES).from_address(self._control.host_address)
        self._put = ctypes.c_uint32.from_address(self._control.host_address + _PUT)
        self._doorbell = ctypes.c_uint32.from_address(card.doorbell)
        self._drain = threading.Lock()
        self._last = 0  # entry of the ring that was added
        self._bytes = self._pushbuffer.host_bytes()
        self._places = Ring(PUSHBUFFER_BYTES)
        self._entries = Ring(_USER_AREA, places=ENTRIES - 2)
        for subchannel, number in classes.items():
            self.submit(pushbuffer.bind(subchannel, number), 0, lambda position: None)

    def submit(self, words: list[int], position: int, wait: Callable[[int], None]) -> None:
        """Executes words, after what was added before.

        Args:
            position: when they are complete. wait: waits for such a position, if need be.
        """
        self.add_words(words, position, wait)
        self.start()

    def add_words(self, words: list[int], position: int, wait: Callable[[int], None]) -> None:
        """Has words executed with what is submitted next; the arguments are as above."""
        count = len(words)
        if count > _LARGEST_PIECE:
            for first, last in _pieces(words, _LARGEST_PIECE):
                self.add_words(words[first:last], position, wait)
            return
        start = self._places.take(4 * count, position, wait)
        layout(count).pack_into(self._bytes, start, *words)
        self.add(self._pushbuffer.address + start, count, position, wait)

    def add(self, address: int, count: int, position: int, wait: Callable[[int], None]) -> None:
        """The same of `count` words at an address of the GPU."""
        self._last = last = self._entries.take(8, position, wait) // 8
        self._ring[last] = address | count << _LENGTH

    def start(self) -> None:
        """Tells the GPU of what was added."""
        self.drain()
        self._put.value = (self._last + 1) % ENTRIES
        self.drain()
        self._doorbell.value = self._token
        self.drain()

    def drain(self) -> None:
        """Makes what was written to the GPU's memory arrive before what is written next.

        The processor combines such writes in buffers that an atomic operation empties, and a lock
        is the cheapest one that Python has.
        """
        with self._drain:
            pass

    @property
    def error(self) -> int:
        """The code with which the driver has stopped the channel; 0 while it works."""
        notification = self._notifier.host_bytes()
        if not abi.NvNotification.get(notification, "status"):
            return 0
        return abi.NvNotification.get(notification, "info32")

    def close(self) -> None:
        """Frees the channel with all its objects."""
        card = self.card
        card.managed.call(
            abi.UVM_UNREGISTER_CHANNEL,
            abi.UVM_UNREGISTER_CHANNEL_PARAMS,
            gpuUuid=card.uuid,
            hClient=card.client.root,
            hChannel=self.handle,
        )
        card.client.free(card.device, self.group)
        card.addresses.give_back(self._context_address, _CONTEXT_BYTES)
        for piece in (self._control, self._notifier, self._pushbuffer):
            memory.release(card, piece)


@cache
def layout(count: int) -> struct.Struct:
    """So many words of a pushbuffer."""
    return struct.Struct(f"<{count}I")


def _pieces(words: list[int], largest: int) -> list[tuple[int, int]]:
    """Bounds of parts that end between methods and have at most `largest` words."""
    bounds, first, position = [], 0, 0
    while position < len(words):
        end = position + 1 + (words[position] >> 16 & 0x1FFF)
        if end - first > largest:
            bounds.append((first, position))
            first = position
        position = end
    return [*bounds, (first, len(words))]
