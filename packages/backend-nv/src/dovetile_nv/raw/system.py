"""What the raw queue asks of the operating system. Tests put a model of the driver in its place."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from pathlib import Path


class System:
    """Files, ioctls and memory maps of this process."""

    def read_text(self, path: str) -> str:
        """The content of a small text file. Raises OSError."""
        return Path(path).read_text()

    def open(self, path: str) -> int:
        """A descriptor of a device file. Raises OSError."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def ioctl(self, descriptor: int, request: int, argument: bytearray) -> None:
        """Calls the driver, which may change `argument`. Raises OSError."""
        fcntl.ioctl(descriptor, request, argument, True)

    def map(self, descriptor: int, nbytes: int) -> int:
        """The address at which the memory behind a descriptor lies now. Raises OSError."""
        address = _libc.mmap(
            None, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, descriptor, 0
        )
        if address in (None, _FAILED):
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return address

    def unmap(self, address: int, nbytes: int) -> None:
        _libc.munmap(address, nbytes)


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    return library


_libc = _library()
_FAILED = ctypes.c_void_p(-1).value
