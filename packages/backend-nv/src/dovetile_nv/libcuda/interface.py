"""A GPU over libcuda."""

from __future__ import annotations

import ctypes
from ctypes import c_int, c_size_t, c_uint64, c_void_p

from dovetile.errors import CompileError
from dovetile.runtime import Allocation
from dovetile_nv import cubin
from dovetile_nv.interface import Interface, NvProgram, Pinned, Timeline
from dovetile_nv.libcuda import library as cuda
from dovetile_nv.libcuda.stream import CudaStream


class CudaProgram(NvProgram):
    """A kernel that libcuda has loaded."""

    def __init__(self, interface: CudaInterface, binary: bytes, kernel: cubin.Kernel) -> None:
        self.name = kernel.name
        self.kernel = kernel
        self._interface = interface
        module, function = c_void_p(), c_void_p()
        interface.call("cuModuleLoadData", ctypes.byref(module), binary)
        self._module = module
        interface.call("cuModuleGetFunction", ctypes.byref(function), module, kernel.name.encode())
        self.function = function
        if kernel.dynamic_bytes:
            interface.call(
                "cuFuncSetAttribute", function, cuda.MAX_DYNAMIC_SHARED, kernel.dynamic_bytes
            )

    def __del__(self) -> None:
        if hasattr(self, "function") and hasattr(self, "device"):
            self.device.queue.retire(_Unloader(self._interface, self._module))


class _Unloader:
    """Unloads code when it is let go of."""

    def __init__(self, interface: CudaInterface, module: c_void_p) -> None:
        self._interface, self._module = interface, module

    def __del__(self) -> None:
        self._interface.status("cuModuleUnload", self._module)


class CudaInterface(Interface):
    """One GPU with its primary context, which other libraries of this process share."""

    name = "LIBCUDA"

    def __init__(self, index: int) -> None:
        self._library = cuda.library()
        self._peers: dict[Interface, bool] = {}
        device = c_int()
        self._library.call("cuDeviceGet", ctypes.byref(device), index)
        self._device = device.value
        context = c_void_p()
        self._library.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self.context = context
        self.number = 10 * self._figure(cuda.COMPUTE_MAJOR) + self._figure(cuda.COMPUTE_MINOR)
        self.multiprocessors = self._figure(cuda.MULTIPROCESSORS)
        total = c_size_t()
        self.call("cuDeviceTotalMem_v2", ctypes.byref(total), self._device)
        self.memory_bytes = total.value

    def _figure(self, attribute: int) -> int:
        value = c_int()
        self.call("cuDeviceGetAttribute", ctypes.byref(value), attribute, self._device)
        return value.value

    def call(self, name: str, *arguments: object) -> None:
        """Calls libcuda in this GPU's context."""
        self._enter()
        self._library.call(name, *arguments)

    def status(self, name: str, *arguments: object) -> int:
        """The same, with the status for a result."""
        if self.abandoned:
            return cuda.SUCCESS
        self._enter()
        return self._library.status(name, *arguments)

    def describe(self, status: int) -> str:
        return self._library.describe(status)

    def _enter(self) -> None:
        # Contexts are current per thread, and other libraries, or another GPU's calls, change it.
        self._library.call("cuCtxSetCurrent", self.context)

    def open_stream(self, timeline: Timeline) -> None:
        self.stream = CudaStream(self, timeline)

    def allocate(self, nbytes: int) -> Allocation:
        address = c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), nbytes)
        return Allocation(address.value, nbytes)

    def release(self, allocation: Allocation) -> None:
        self.call("cuMemFree_v2", allocation.address)

    def pin(self, nbytes: int) -> Pinned:
        host, address = c_void_p(), c_uint64()
        self.call("cuMemHostAlloc", ctypes.byref(host), nbytes, cuda.HOST_PORTABLE_AND_MAPPED)
        self.call("cuMemHostGetDevicePointer_v2", ctypes.byref(address), host, 0)
        return Pinned(host.value or 0, address.value, nbytes)

    def unpin(self, pinned: Pinned) -> None:
        self.call("cuMemFreeHost", pinned.host_address)

    def reaches(self, other: Interface) -> bool:
        if not isinstance(other, CudaInterface):
            return False
        if other not in self._peers:
            able = c_int()
            self.call("cuDeviceCanAccessPeer", ctypes.byref(able), self._device, other._device)
            status = self.status("cuCtxEnablePeerAccess", other.context, 0) if able.value else -1
            self._peers[other] = status in (cuda.SUCCESS, cuda.PEER_ACCESS_ALREADY_ENABLED)
        return self._peers[other]

    def admit(self, handle: object) -> None:
        """Once `reaches` has said so, a context sees all memory of the other."""

    def load(self, binary: bytes, name: str) -> CudaProgram:
        kernels = cubin.read(binary).kernels
        if name not in kernels:
            raise CompileError(
                f"[load] kernel {name!r} is not in the binary; it has {sorted(kernels)}"
            )
        return CudaProgram(self, binary, kernels[name])
