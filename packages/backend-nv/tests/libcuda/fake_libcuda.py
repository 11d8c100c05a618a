"""A model of libcuda for tests without it: calls on a stream act at once, graphs when launched."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from typing import Any

from dovetile_nv.libcuda import library as cuda

ATTRIBUTES = {cuda.COMPUTE_MAJOR: 9, cuda.COMPUTE_MINOR: 0, cuda.MULTIPROCESSORS: 132}
MEMORY_BYTES = 1 << 30

Action = tuple[Any, ...]


class FakeLibrary:
    """Takes the place of `Library`.

    `kernels` says what a launch does, by name: (words of its arguments, workgroups * threads).
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.kernels: dict[str, Callable[[list[int], int], None]] = {
            "store_clock": lambda words, _: _store(words[0], time.time_ns())
        }
        self.functions: dict[int, str] = {}
        self.graphs: dict[int, list[Action]] = {}
        self.capturing: list[Action] | None = None
        self.early: list[int] = []
        """Which actions of captures may begin before the one ahead of them is complete."""
        self.broken = 0
        self.waiting: list[Action] = []
        """What a wait for a value holds up."""
        self._memory: dict[int, Any] = {}
        self._used = 0
        self._next = 0x1000

    def call(self, name: str, *arguments: Any) -> None:
        status = self.status(name, *arguments)
        if status:
            cuda.Library.raise_for(self, name, status)  # type: ignore[arg-type]

    def status(self, name: str, *arguments: Any) -> int:
        if name != "cuCtxSetCurrent":
            self.calls.append(name)
        if name == "cuStreamQuery":
            self._go_on()
            return self.broken or (cuda.NOT_READY if self.waiting else 0)
        return getattr(self, "_" + name)(*arguments) or 0

    def describe(self, status: int) -> str:
        return f"status {status}"

    def _number(self) -> int:
        self._next += 16
        return self._next

    # -- Device, memory, code ----------------------------------------------------------------

    def _cuDeviceGet(self, result: Any, index: int) -> None:
        result._obj.value = index

    def _cuDeviceGetCount(self, result: Any) -> None:
        result._obj.value = 1

    def _cuDevicePrimaryCtxRetain(self, result: Any, device: int) -> None:
        result._obj.value = 1

    def _cuCtxSetCurrent(self, context: Any) -> None:
        assert context.value == 1

    def _cuDeviceGetAttribute(self, result: Any, attribute: int, device: int) -> None:
        result._obj.value = ATTRIBUTES[attribute]

    def _cuDeviceTotalMem_v2(self, result: Any, device: int) -> None:
        result._obj.value = MEMORY_BYTES

    def _cuMemAlloc_v2(self, result: Any, nbytes: int) -> int:
        if self._used + nbytes > MEMORY_BYTES:
            return cuda.OUT_OF_MEMORY
        self._used += nbytes
        self._cuMemHostAlloc(result, nbytes, 3)
        return 0

    def _cuMemFree_v2(self, address: int) -> None:
        self._used -= ctypes.sizeof(self._memory.pop(address))

    def _cuMemHostAlloc(self, result: Any, nbytes: int, flags: int) -> None:
        assert flags == 3
        memory = (ctypes.c_char * nbytes)()
        result._obj.value = ctypes.addressof(memory)
        self._memory[ctypes.addressof(memory)] = memory

    def _cuMemHostGetDevicePointer_v2(self, result: Any, host: Any, flags: int) -> None:
        result._obj.value = host.value

    def _cuModuleLoadData(self, result: Any, binary: bytes) -> None:
        result._obj.value = self._number()

    def _cuModuleUnload(self, module: Any) -> None: ...

    def _cuModuleGetFunction(self, result: Any, module: Any, name: bytes) -> None:
        result._obj.value = self._number()
        self.functions[result._obj.value] = name.decode()

    # -- Streams -----------------------------------------------------------------------------

    def _cuStreamCreate(self, result: Any, flags: int) -> None:
        assert flags == 1  # not ordered with what others do on the default stream
        result._obj.value = 7

    def _act(self, *action: Any) -> int:
        if self.broken:
            return self.broken
        if self.capturing is not None:
            self.capturing.append(action)
        else:
            self.waiting.append(action)
            self._go_on()
        return 0

    def _go_on(self) -> None:
        """Does what waits for nothing any more."""
        while self.waiting and not self.broken:
            kind, *rest = self.waiting[0]
            if kind == "wait" and _load(rest[0]) < rest[1]:
                return
            self.waiting.pop(0)
            if kind == "write":
                _store(rest[0], rest[1])
            elif kind == "copy":
                ctypes.memmove(*rest)
            elif kind == "launch":
                function, count, words = rest
                self.kernels.get(self.functions[function], lambda words, count: None)(words, count)

    def _cuLaunchKernel(
        self, function: Any, x: int, y: int, z: int, threads: int, ty: int, tz: int, shared: int,
        stream: Any, pointers: Any, extra: Any,
    ) -> int:  # fmt: skip
        assert (y, z, ty, tz, extra) == (1, 1, 1, 1, None) and threads <= 1024
        words = [ctypes.c_uint64.from_address(pointer).value for pointer in pointers if pointer]
        return self._act("launch", function.value, x * threads, words)

    def _cuLaunchKernelEx(self, given: Any, function: Any, pointers: Any, extra: Any) -> int:
        c = given._obj
        assert c.numAttrs == 1 and self.capturing is not None
        assert (c.attrs[0].id, c.attrs[0].value) == (cuda.EARLY_LAUNCH, 1)
        self.early.append(len(self.capturing))
        return self._cuLaunchKernel(
            function, c.gridDimX, c.gridDimY, c.gridDimZ, c.blockDimX, c.blockDimY, c.blockDimZ,
            c.sharedMemBytes, c.hStream, pointers, extra,
        )  # fmt: skip

    def _cuMemcpyAsync(self, to: int, source: int, nbytes: int, stream: Any) -> int:
        return self._act("copy", to, source, nbytes)

    def _cuStreamWriteValue64_v2(self, stream: Any, address: int, value: int, flags: int) -> int:
        return self._act("write", address, value)

    def _cuStreamWaitValue64_v2(self, stream: Any, address: int, value: int, flags: int) -> int:
        assert flags == cuda.WAIT_AT_LEAST
        return self._act("wait", address, value)

    # -- Graphs ------------------------------------------------------------------------------

    def _cuStreamBeginCapture_v2(self, stream: Any, mode: int) -> None:
        self.capturing = []

    def _cuStreamEndCapture(self, stream: Any, result: Any) -> None:
        result._obj.value = self._number()
        assert self.capturing is not None
        self.graphs[result._obj.value] = self.capturing
        self.capturing = None

    def _cuGraphGetNodes(self, graph: Any, nodes: Any, count: Any) -> None:
        actions = self.graphs[graph.value]
        count._obj.value = len(actions)
        for index in range(len(actions) if nodes is not None else 0):
            nodes[index] = index + 1

    def _cuGraphNodeGetType(self, node: int, result: Any) -> None:
        actions = max(self.graphs.items())[1]
        result._obj.value = cuda.KERNEL_NODE if actions[node - 1][0] == "launch" else 1

    def _cuGraphInstantiateWithFlags(self, result: Any, graph: Any, flags: int) -> None:
        result._obj.value = self._number()
        self.graphs[result._obj.value] = list(self.graphs[graph.value])

    def _cuGraphExecKernelNodeSetParams_v2(self, executable: Any, node: Any, given: Any) -> None:
        node_parameters = given._obj
        actions = self.graphs[executable.value]
        _, function, _, words = actions[node.value - 1]
        assert node_parameters.func == function
        pointers = (ctypes.c_void_p * len(words)).from_address(node_parameters.kernelParams)
        fresh = [ctypes.c_uint64.from_address(pointer or 0).value for pointer in pointers]
        count = node_parameters.gridDimX * node_parameters.blockDimX
        actions[node.value - 1] = ("launch", function, count, fresh)

    def _cuGraphLaunch(self, executable: Any, stream: Any) -> int:
        for action in self.graphs[executable.value]:
            if status := self._act(*action):
                return status
        return 0

    def _cuGraphExecDestroy(self, executable: Any) -> None: ...

    def _cuGraphDestroy(self, graph: Any) -> None: ...


def _load(address: int) -> int:
    return ctypes.c_uint64.from_address(address).value


def _store(address: int, value: int) -> None:
    ctypes.c_uint64.from_address(address).value = value
