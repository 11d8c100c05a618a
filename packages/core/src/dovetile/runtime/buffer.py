"""A typed piece of device memory."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING

import numpy as np

from dovetile import dtypes
from dovetile.errors import ArgumentError, DeviceError, DTypeError
from dovetile.runtime.allocator import Allocation

if TYPE_CHECKING:
    from dovetile.dtypes import DType
    from dovetile.runtime.device import Device

_allocating = threading.RLock()
_numbers = itertools.count()


class Buffer:
    """Memory of `nbytes` bytes on a device, with unspecified content at first.

    Memory is taken when the buffer is first used, and goes back to the device's pool with the
    buffer. A view shares another buffer's memory and keeps it alive.

    Args:
        device: where the memory lies.
        nbytes: size; may be zero.
        dtype: element type, for `as_numpy` and printing; kernels know their own types.

    `address` is where it lies on the device: the memory is taken when it is first asked for, which
    raises OutOfMemoryError where there is none. `number` counts up in the order of creation.
    """

    __slots__ = ("_allocation", "_host", "__weakref__", "address", "base", "device", "dtype",
                 "nbytes", "number", "offset")  # fmt: skip

    address: int

    def __init__(self, device: Device, nbytes: int, dtype: DType = dtypes.uint8) -> None:
        if nbytes < 0 or nbytes % dtype.itemsize:
            raise ArgumentError(
                f"[buffer] {nbytes} bytes of {dtype}; the size must be a multiple of "
                f"{dtype.itemsize} and not negative"
            )
        self.device = device
        self.nbytes = nbytes
        self.dtype = dtype
        self.number = next(_numbers)
        self.base: Buffer | None = None
        self.offset = 0
        self._allocation: Allocation | None = None
        self._host: object = None

    def __repr__(self) -> str:
        of = f" at {self.offset} of a buffer of {self.base.nbytes}" if self.base else ""
        return f"<{self.nbytes} bytes of {self.dtype.name} on {self.device.name}{of}>"

    def __del__(self) -> None:
        try:
            allocation, host = self._allocation, self._host
        except AttributeError:  # __init__ raised
            return
        if allocation is not None:
            self.device.allocator.free(allocation)
        elif host is not None:
            self.device.queue.retire(host)

    def __getattr__(self, name: str) -> int:
        # Only for what is not set yet: once it is, asking for the address costs no call.
        if name != "address":
            raise AttributeError(f"[buffer] there is no {name!r} on a buffer")
        if self.base is not None:
            self.address = self.base.address + self.offset
            return self.address
        # A queue may ask for the address on a thread of its own, while somebody waits for the
        # content: both must get the same memory.
        with _allocating:
            if self._allocation is None:
                self._allocation = self.device.allocator.allocate(self.nbytes)
                self.address = self._allocation.address
            return self.address

    @classmethod
    def allocated(cls, device: Device, nbytes: int, dtype: DType) -> Buffer:
        """A buffer that takes its memory now. Raises OutOfMemoryError."""
        buffer = cls(device, nbytes, dtype)
        buffer._allocation = allocation = device.allocator.allocate(nbytes)
        buffer.address = allocation.address
        return buffer

    @staticmethod
    def next_number() -> int:
        """More than the number of every buffer so far."""
        return next(_numbers)

    @property
    def is_allocated(self) -> bool:
        """Whether the buffer has memory yet."""
        root = self.base or self
        return root._allocation is not None or root._host is not None

    @property
    def allocation(self) -> Allocation | None:
        """The memory that it and its views lie in, taken now if it was not before; None where an
        array of the host's is shared. Raises OutOfMemoryError."""
        root = self.base or self
        _ = root.address  # takes it
        return root._allocation

    def view(self, offset: int, nbytes: int, dtype: DType | None = None) -> Buffer:
        """A buffer that is part of this one.

        Args:
            offset: in bytes; nbytes: size of the part.
            dtype: element type of the part; by default the same.
        """
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise ArgumentError(
                f"[view] bytes {offset} to {offset + nbytes} of a buffer of {self.nbytes}; "
                "a view must lie within its buffer"
            )
        view = Buffer(self.device, nbytes, dtype or self.dtype)
        view.base = self.base or self
        view.offset = self.offset + offset
        return view

    # -- Host memory -------------------------------------------------------------------------

    @classmethod
    def from_numpy(cls, device: Device, array: np.ndarray, *, copy: bool = True) -> Buffer:
        """A buffer with an array's elements, in row-major order.

        Args:
            array: its dtype must have a counterpart in `dovetile.dtypes`.
            copy: with False, share the array's memory where device and layout allow it. The
                array must then not be resized, and later writes to it are seen by the device.

        Raises DTypeError for other dtypes.
        """
        dtype = dtypes.from_numpy(array.dtype)
        if dtype is None:
            raise DTypeError(
                f"[from_numpy] an array of {array.dtype}; dtypes with a counterpart are "
                f"{', '.join(d.name for d in dtypes.TENSOR_DTYPES)}"
            )
        buffer = cls(device, array.nbytes, dtype)
        shareable = array.flags.c_contiguous and array.flags.writeable and array.flags.aligned
        if not copy and shareable and array.nbytes and device.capabilities.host_visible:
            buffer._host = array
            buffer.address = array.ctypes.data
        else:
            buffer.copy_in(np.ascontiguousarray(array))
        return buffer

    def as_numpy(self) -> np.ndarray:
        """The elements as a one-dimensional array that shares this memory. Waits for the device.

        Raises DeviceError where the host cannot see the device's memory; use `to_numpy` there.
        """
        if not self.device.capabilities.host_visible:
            raise DeviceError(
                f"[as_numpy] memory of {self.device.name}, which the host cannot see; "
                "use to_numpy, which copies"
            )
        self.device.synchronize()
        return np.asarray(_HostView(self)).view(dtypes.to_numpy(self.dtype))

    def to_numpy(self) -> np.ndarray:
        """A copy of the elements as a one-dimensional array. Waits for the device."""
        result = np.empty(self.nbytes // self.dtype.itemsize, dtypes.to_numpy(self.dtype))
        self.copy_out(result)
        return result

    def copy_in(self, content: np.ndarray) -> None:
        """Fill the buffer from a C-contiguous array of the same size in bytes."""
        view = self._bytes_of(content, "copy_in")
        if self.nbytes:
            self.device.copy_in(self.address, view)

    def copy_out(self, content: np.ndarray) -> None:
        """Copy the buffer to a writable C-contiguous array of the same size in bytes."""
        view = self._bytes_of(content, "copy_out")
        if view.readonly:
            raise ArgumentError("[copy_out] a read-only array; it must be writable")
        if self.nbytes:
            self.device.copy_out(view, self.address)

    def _bytes_of(self, content: np.ndarray, operation: str) -> memoryview:
        if content.nbytes != self.nbytes or not content.flags.c_contiguous:
            raise ArgumentError(
                f"[{operation}] an array of {content.nbytes} bytes; it must be C-contiguous and "
                f"have the buffer's {self.nbytes} bytes"
            )
        # Through uint8: memoryview knows nothing of types such as bfloat16.
        return content.reshape(-1).view(np.uint8).data


class _HostView:
    """What NumPy needs to share a buffer's memory; keeps the buffer alive with the array."""

    def __init__(self, buffer: Buffer) -> None:
        self.buffer = buffer
        self.__array_interface__ = {
            "version": 3,
            "shape": (buffer.nbytes,),
            "typestr": "|u1",
            "data": (buffer.address, False),
        }
