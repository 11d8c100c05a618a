"""Objects of the kernel driver's resource manager, and calls on them."""

from __future__ import annotations

import ctypes
from typing import Any

from dovetile.errors import DeviceError, OutOfMemoryError
from dovetile_nv.raw import driver_abi as abi
from dovetile_nv.raw.structure import Structure, bits
from dovetile_nv.raw.system import System

_OUT_OF_MEMORY = (abi.NV_ERR_NO_MEMORY, abi.NV_ERR_INSUFFICIENT_RESOURCES)


def request(number: int, size: int) -> int:
    """The ioctl request of an escape with an argument of `size` bytes that goes both ways."""
    return 3 << 30 | size << 16 | ord("F") << 8 | number


def address_of(memory: bytearray) -> int:
    """Where the bytes lie."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


class Client:
    """This process as a client of the driver: the root of all its objects."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.descriptor = system.open("/dev/nvidiactl")
        self.root = 0
        self.root = self.allocate(0, abi.NV01_ROOT_CLIENT)

    def close(self) -> None:
        """Frees all objects."""
        self.system.close(self.descriptor)

    def escape(self, number: int, argument: bytearray, descriptor: int | None = None) -> None:
        """An ioctl of the driver. Raises DeviceError where the system refuses it."""
        try:
            self.system.ioctl(
                self.descriptor if descriptor is None else descriptor,
                request(number, len(argument)),
                argument,
            )
        except OSError as error:
            raise DeviceError(f"[driver] ioctl {number:#x}: {error}") from error

    def allocate(self, parent: int, class_number: int, parameters: bytearray | None = None) -> int:
        """Makes an object; returns its handle. The driver may write to `parameters`.

        Raises OutOfMemoryError, or DeviceError with the driver's status.
        """
        argument = abi.NVOS64_PARAMETERS.pack(
            hRoot=self.root,
            hObjectParent=parent,
            hClass=class_number,
            pAllocParms=0 if parameters is None else address_of(parameters),
            paramsSize=0 if parameters is None else len(parameters),
        )
        self.escape(abi.NV_ESC_RM_ALLOC, argument)
        status = abi.NVOS64_PARAMETERS.get(argument, "status")
        if status:
            kind = OutOfMemoryError if status in _OUT_OF_MEMORY else DeviceError
            raise kind(f"[driver] an object of class {class_number:#06x}: status {status:#x}")
        return abi.NVOS64_PARAMETERS.get(argument, "hObjectNew")

    def free(self, parent: int, handle: int) -> None:
        """Frees an object and all below it."""
        argument = abi.NVOS00_PARAMETERS.pack(
            hRoot=self.root, hObjectParent=parent, hObjectOld=handle
        )
        self.escape(abi.NV_ESC_RM_FREE, argument)

    def control(self, handle: int, command: int, parameters: bytearray) -> bytearray:
        """Calls an object; returns the parameters with what the driver has written there."""
        argument = abi.NVOS54_PARAMETERS.pack(
            hClient=self.root,
            hObject=handle,
            cmd=command,
            params=address_of(parameters),
            paramsSize=len(parameters),
        )
        self.escape(abi.NV_ESC_RM_CONTROL, argument)
        status = abi.NVOS54_PARAMETERS.get(argument, "status")
        if status:
            raise DeviceError(f"[driver] control {command:#x}: status {status:#x}")
        return parameters

    def map(self, device: int, handle: int, nbytes: int, path: str) -> int:
        """Maps a memory object for the host; returns the address.

        Args:
            device: the object it belongs to. path: of the device file that maps such memory.
        """
        descriptor = self.system.open(path)
        try:
            argument = abi.nv_ioctl_nvos33_parameters_with_fd.pack(
                hClient=self.root,
                hDevice=device,
                hMemory=handle,
                length=nbytes,
                flags=bits(abi.NVOS33_FLAGS_CACHING_TYPE, abi.NVOS33_FLAGS_CACHING_TYPE_DEFAULT),
                fd=descriptor,
            )
            self.escape(abi.NV_ESC_RM_MAP_MEMORY, argument)
            status = abi.nv_ioctl_nvos33_parameters_with_fd.get(argument, "status")
            if status:
                raise DeviceError(f"[driver] to map {nbytes} bytes: status {status:#x}")
            return self.system.map(descriptor, nbytes)
        except OSError as error:
            raise DeviceError(f"[driver] to map {nbytes} bytes: {error}") from error
        finally:
            self.system.close(descriptor)

    def cards(self) -> list[tuple[int, int]]:
        """(number of the device file, id) of all GPUs, in the order of the files."""
        card = abi.nv_ioctl_card_info_t
        argument = bytearray(32 * card.size)
        self.escape(abi.NV_ESC_CARD_INFO, argument)
        bases = range(0, len(argument), card.size)
        return sorted(
            (card.get(argument, "minor_number", base), card.get(argument, "gpu_id", base))
            for base in bases
            if card.get(argument, "valid", base)
        )


class ManagedMemory:
    """The unified-memory driver's view of this process: one address space for all GPUs."""

    def __init__(self, client: Client) -> None:
        self.client = client
        system = client.system
        self.descriptor = system.open("/dev/nvidia-uvm")
        self.call(
            abi.UVM_INITIALIZE, abi.UVM_INITIALIZE_PARAMS, flags=abi.UVM_INIT_FLAGS_DISABLE_HMM
        )
        # A second descriptor, so that the driver can take the GPU down in order at our end.
        self._keeper = system.open("/dev/nvidia-uvm")
        argument = abi.UVM_MM_INITIALIZE_PARAMS.pack(uvmFd=self.descriptor)
        system.ioctl(self._keeper, abi.UVM_MM_INITIALIZE, argument)

    def call(self, number: int, structure: Structure, **values: Any) -> bytearray:
        """An ioctl of the unified-memory driver. Raises DeviceError with its status."""
        argument = structure.pack(**values)
        try:
            self.client.system.ioctl(self.descriptor, number, argument)
        except OSError as error:
            raise DeviceError(f"[driver] unified memory, ioctl {number:#x}: {error}") from error
        status = structure.get(argument, "rmStatus")
        if status:
            kind = OutOfMemoryError if status in _OUT_OF_MEMORY else DeviceError
            raise kind(f"[driver] unified memory, ioctl {number:#x}: status {status:#x}")
        return argument
