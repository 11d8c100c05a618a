"""Why the driver stopped a channel, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetile.errors import DeviceError
from dovetile_nv.raw import driver_abi as abi
from dovetile_nv.raw import pushbuffer

if TYPE_CHECKING:
    from dovetile_nv.raw.card import Card
    from dovetile_nv.raw.channel import Channel

# Of the driver's error codes (nverror.h, "Xid") those that a program can cause.
_MEMORY_FAULT = 31
_CAUSES = {
    13: "a kernel did what the hardware refuses (a trap, an illegal instruction, an access "
    "outside shared memory or at an address that is not aligned)",
    32: "the hardware refused a command in the pushbuffer",
    43: "the channel was stopped",
    45: "the channel was stopped because another one failed",
    69: "the hardware refused the fields of a launch",
}
_ACCESSES = {0: "read", 1: "written", 2: "changed by an atomic operation", 3: "prefetched"}


class Debugger:
    """The driver's view of a channel's faults."""

    def __init__(self, card: Card, channel: Channel) -> None:
        self._card = card
        try:
            self._handle = card.client.allocate(
                card.device,
                abi.GT200_DEBUGGER,
                abi.NV83DE_ALLOC_PARAMETERS.pack(
                    hAppClient=card.client.root,
                    hClass3dObject=channel.objects[pushbuffer.COMPUTE],
                ),
            )
        except DeviceError:  # another debugger is there: messages are then less exact
            self._handle = 0

    def describe(self, code: int) -> str:
        """The cause of an error code."""
        if code == _MEMORY_FAULT:
            return self._memory_fault()
        return _CAUSES.get(code, f"the driver stopped the channel with its error {code}")

    def _memory_fault(self) -> str:
        text = "a kernel used an address where there is no memory"
        structure = abi.NV83DE_CTRL_DEBUG_READ_MMU_FAULT_INFO_PARAMS
        if not self._handle:
            return text
        try:
            answer = self._card.client.control(
                self._handle, abi.NV83DE_CTRL_CMD_DEBUG_READ_MMU_FAULT_INFO, structure.pack()
            )
        except DeviceError:
            return text
        if not structure.get(answer, "count"):
            return text
        address = structure.get(answer, "faultAddress")
        access = _ACCESSES.get(structure.get(answer, "accessType"), "used")
        return f"{text}: {address:#x} was {access}"

    def close(self) -> None:
        if self._handle:
            self._card.client.free(self._card.device, self._handle)
