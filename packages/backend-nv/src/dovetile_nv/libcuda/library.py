"""The functions of libcuda in use, by ctypes.

Reference: NVIDIA, CUDA Driver API (docs.nvidia.com/cuda/cuda-driver-api).
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from functools import cache
from typing import NoReturn

from dovetile.errors import CompileError, DeviceError, OutOfMemoryError

SUCCESS, NOT_READY, OUT_OF_MEMORY = 0, 600, 2
_NO_BINARY = (200, 209, 218, 222)  # invalid image, no binary for the GPU, invalid or newer PTX

COMPUTE_MAJOR, COMPUTE_MINOR, MULTIPROCESSORS = 75, 76, 16
MAX_DYNAMIC_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
HOST_PORTABLE_AND_MAPPED = 1 | 2
WAIT_AT_LEAST = 0
CAPTURE_RELAXED = 2
PEER_ACCESS_ALREADY_ENABLED = 704
KERNEL_NODE = 0
EARLY_LAUNCH = 6  # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION


class LaunchAttribute(Structure):
    """CUlaunchAttribute, of whose values only whole numbers are used."""

    _fields_ = [("id", c_int), ("pad", c_int), ("value", c_int), ("rest", c_int * 15)]


class LaunchConfiguration(Structure):
    """CUlaunchConfig."""

    _fields_ = [
        ("gridDimX", c_uint),
        ("gridDimY", c_uint),
        ("gridDimZ", c_uint),
        ("blockDimX", c_uint),
        ("blockDimY", c_uint),
        ("blockDimZ", c_uint),
        ("sharedMemBytes", c_uint),
        ("hStream", c_void_p),
        ("attrs", POINTER(LaunchAttribute)),
        ("numAttrs", c_uint),
    ]


class KernelNode(Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2."""

    _fields_ = [
        ("func", c_void_p),
        ("gridDimX", c_uint),
        ("gridDimY", c_uint),
        ("gridDimZ", c_uint),
        ("blockDimX", c_uint),
        ("blockDimY", c_uint),
        ("blockDimZ", c_uint),
        ("sharedMemBytes", c_uint),
        ("kernelParams", c_void_p),
        ("extra", c_void_p),
        ("kern", c_void_p),
        ("ctx", c_void_p),
    ]


_SIGNATURES: dict[str, list[object]] = {
    "cuInit": [c_uint],
    "cuDriverGetVersion": [POINTER(c_int)],
    "cuDeviceGetCount": [POINTER(c_int)],
    "cuDeviceGet": [POINTER(c_int), c_int],
    "cuDeviceGetAttribute": [POINTER(c_int), c_int, c_int],
    "cuDeviceTotalMem_v2": [POINTER(c_size_t), c_int],
    "cuDevicePrimaryCtxRetain": [POINTER(c_void_p), c_int],
    "cuCtxSetCurrent": [c_void_p],
    "cuDeviceCanAccessPeer": [POINTER(c_int), c_int, c_int],
    "cuCtxEnablePeerAccess": [c_void_p, c_uint],
    "cuMemAlloc_v2": [POINTER(c_uint64), c_size_t],
    "cuMemFree_v2": [c_uint64],
    "cuMemHostAlloc": [POINTER(c_void_p), c_size_t, c_uint],
    "cuMemHostGetDevicePointer_v2": [POINTER(c_uint64), c_void_p, c_uint],
    "cuMemFreeHost": [c_void_p],
    "cuModuleLoadData": [POINTER(c_void_p), c_char_p],
    "cuModuleUnload": [c_void_p],
    "cuModuleGetFunction": [POINTER(c_void_p), c_void_p, c_char_p],
    "cuFuncSetAttribute": [c_void_p, c_int, c_int],
    "cuStreamCreate": [POINTER(c_void_p), c_uint],
    "cuStreamQuery": [c_void_p],
    "cuStreamSynchronize": [c_void_p],
    "cuStreamWriteValue64_v2": [c_void_p, c_uint64, c_uint64, c_uint],
    "cuStreamWaitValue64_v2": [c_void_p, c_uint64, c_uint64, c_uint],
    "cuStreamBeginCapture_v2": [c_void_p, c_int],
    "cuStreamEndCapture": [c_void_p, POINTER(c_void_p)],
    "cuLaunchKernelEx": [POINTER(LaunchConfiguration), c_void_p, c_void_p, c_void_p],
    "cuLaunchKernel": [c_void_p, *[c_uint] * 7, c_void_p, c_void_p, c_void_p],
    "cuMemcpyAsync": [c_uint64, c_uint64, c_size_t, c_void_p],
    "cuGraphGetNodes": [c_void_p, POINTER(c_void_p), POINTER(c_size_t)],
    "cuGraphNodeGetType": [c_void_p, POINTER(c_int)],
    "cuGraphInstantiateWithFlags": [POINTER(c_void_p), c_void_p, c_uint64],
    "cuGraphExecKernelNodeSetParams_v2": [c_void_p, c_void_p, POINTER(KernelNode)],
    "cuGraphLaunch": [c_void_p, c_void_p],
    "cuGraphExecDestroy": [c_void_p],
    "cuGraphDestroy": [c_void_p],
    "cuGetErrorName": [c_int, POINTER(c_char_p)],
    "cuGetErrorString": [c_int, POINTER(c_char_p)],
}


class Library:
    """libcuda, loaded and initialised. Calls raise exceptions of ours."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise DeviceError(
                f"[libcuda] {error}; install NVIDIA's driver, or give a container the library"
            ) from error
        for name, arguments in _SIGNATURES.items():
            try:
                function = getattr(self._library, name)
            except AttributeError as error:
                raise DeviceError(
                    f"[libcuda] the driver has no {name}; CUDA 12 or newer is needed"
                ) from error
            function.argtypes = arguments
        self.call("cuInit", 0)

    def status(self, name: str, *arguments: object) -> int:
        """Calls a function; returns its status."""
        return getattr(self._library, name)(*arguments)

    def call(self, name: str, *arguments: object) -> None:
        """Calls a function. Raises OutOfMemoryError, CompileError or DeviceError."""
        status = getattr(self._library, name)(*arguments)
        if status:
            self.raise_for(name, status)

    def raise_for(self, name: str, status: int) -> NoReturn:
        """Raises what a status of a function stands for."""
        text = f"[libcuda] {name}: {self.describe(status)}"
        if status == OUT_OF_MEMORY:
            raise OutOfMemoryError(text)
        raise (CompileError if status in _NO_BINARY else DeviceError)(text)

    def describe(self, status: int) -> str:
        """A status in words."""
        texts = []
        for name in ("cuGetErrorName", "cuGetErrorString"):
            text = c_char_p()
            self.status(name, status, ctypes.byref(text))
            texts.append((text.value or b"?").decode())
        return f"{texts[1]} ({texts[0]})"


@cache
def library() -> Library:
    """libcuda of this process. Raises DeviceError."""
    return Library()


def device_count() -> int:
    """How many GPUs there are. Raises DeviceError."""
    count = c_int()
    library().call("cuDeviceGetCount", ctypes.byref(count))
    return count.value
