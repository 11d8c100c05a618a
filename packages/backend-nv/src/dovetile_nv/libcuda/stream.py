"""Commands over libcuda: calls on a stream, and graphs for captured lists."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import c_int, c_size_t, c_uint64, c_void_p
from typing import TYPE_CHECKING, Any

from dovetile.runtime import Command, Copy, Launch, SignalStore, SignalWait
from dovetile_nv.boxes import MAP_BYTES, TensorMap, encoded
from dovetile_nv.interface import Fault, NvProgram, Replay, Stream, Timeline
from dovetile_nv.libcuda import library as cuda
from dovetile_nv.queue import same_size, sizes

if TYPE_CHECKING:
    from dovetile_nv.libcuda.interface import CudaInterface, CudaProgram

_NON_BLOCKING = 1

# A kernel that stores the GPU's clock in nanoseconds, for which libcuda has no command.
_CLOCK = b"""
.version 6.3
.target sm_70
.address_size 64
.visible .entry store_clock(.param .u64 where) {
  .reg .u64 %address, %time;
  ld.param.u64 %address, [where];
  mov.u64 %time, %globaltimer;
  st.global.u64 [%address], %time;
  ret;
}
"""


class CudaStream(Stream):
    """Calls go to libcuda as they are recorded; it decides when the GPU gets them."""

    def __init__(self, interface: CudaInterface, timeline: Timeline) -> None:
        self._interface = interface
        self._timeline = timeline
        self.handle = c_void_p()
        interface.call("cuStreamCreate", ctypes.byref(self.handle), _NON_BLOCKING)
        module, self._clock = c_void_p(), c_void_p()
        interface.call("cuModuleLoadData", ctypes.byref(module), _CLOCK)
        interface.call("cuModuleGetFunction", ctypes.byref(self._clock), module, b"store_clock")

    def launch(
        self, program: NvProgram, groups: int, threads: int, arguments: Sequence[int], position: int
    ) -> None:
        cuda_program: CudaProgram = program  # type: ignore[assignment]
        pointers, keep = pack(arguments, program.kernel.maps)
        self._launch(cuda_program.function, groups, threads, program.kernel.dynamic_bytes, pointers)
        del keep

    def launch_early(
        self, program: NvProgram, groups: int, threads: int, arguments: Sequence[int]
    ) -> None:
        """Records a launch that may begin before the one ahead of it is complete."""
        cuda_program: CudaProgram = program  # type: ignore[assignment]
        pointers, keep = pack(arguments, program.kernel.maps)
        attribute = cuda.LaunchAttribute(cuda.EARLY_LAUNCH, 0, 1)
        configuration = cuda.LaunchConfiguration(
            groups, 1, 1, threads, 1, 1, program.kernel.dynamic_bytes, self.handle,
            ctypes.pointer(attribute), 1,
        )  # fmt: skip
        self._interface.call(
            "cuLaunchKernelEx", ctypes.byref(configuration), cuda_program.function, pointers, None
        )
        del keep

    def _launch(
        self, function: c_void_p, groups: int, threads: int, shared: int, pointers: Any
    ) -> None:
        self._interface.call(
            "cuLaunchKernel", function, groups, 1, 1, threads, 1, 1, shared, self.handle,
            pointers, None,
        )  # fmt: skip

    def transfer(self, destination: int, source: int, nbytes: int) -> None:
        self._interface.call("cuMemcpyAsync", destination, source, nbytes, self.handle)

    def copy(self, destination: int, source: int, nbytes: int, position: int) -> None:
        self.transfer(destination, source, nbytes)

    def write(self, address: int, value: int) -> None:
        word = value & 0xFFFFFFFFFFFFFFFF
        self._interface.call("cuStreamWriteValue64_v2", self.handle, address, word, 0)

    def wait(self, address: int, value: int) -> None:
        word = value & 0xFFFFFFFFFFFFFFFF
        self._interface.call(
            "cuStreamWaitValue64_v2", self.handle, address, word, cuda.WAIT_AT_LEAST
        )

    def write_time(self, address: int) -> None:
        pointers, keep = pack([address])
        self._launch(self._clock, 1, 1, 0, pointers)
        del keep

    def submit(self, position: int) -> None:
        self.write(self._timeline.address, position)

    def fault(self) -> Fault | None:
        status = self._interface.status("cuStreamQuery", self.handle)
        if status in (cuda.SUCCESS, cuda.NOT_READY):
            return None
        return Fault(f"libcuda says: {self._interface.describe(status)}", False)

    def recover(self) -> None:
        raise AssertionError("libcuda does not recover from faults")

    def build(self, commands: Sequence[Command]) -> Replay:
        return CudaReplay(self._interface, self, commands)


class CudaReplay(Replay):
    """A graph, captured from the calls that its commands would be."""

    def __init__(
        self, interface: CudaInterface, stream: CudaStream, commands: Sequence[Command]
    ) -> None:
        self._interface = interface
        self._stream = stream
        self.slots = []
        self.values = []
        self._launch_of: list[int] = []  # by number of an argument
        self._launches: list[tuple[Launch, int, int]] = []
        self._graph, self._executable = c_void_p(), c_void_p()
        interface.call("cuStreamBeginCapture_v2", stream.handle, cuda.CAPTURE_RELAXED)
        try:
            before: Command | None = None
            for command in commands:
                self._record(command, isinstance(before, Launch))
                before = command
        except BaseException:
            interface.status("cuStreamEndCapture", stream.handle, ctypes.byref(self._graph))
            raise
        interface.call("cuStreamEndCapture", stream.handle, ctypes.byref(self._graph))
        self._nodes = self._kernel_nodes()
        interface.call(
            "cuGraphInstantiateWithFlags", ctypes.byref(self._executable), self._graph, 0
        )

    def __del__(self) -> None:
        if self._executable:
            self._interface.status("cuGraphExecDestroy", self._executable)
        if self._graph:
            self._interface.status("cuGraphDestroy", self._graph)

    def _record(self, command: Command, follows: bool) -> None:
        """`follows`: the command directly before is a launch."""
        stream = self._stream
        self.slots.append((len(self.values), 0, 0))
        if isinstance(command, Launch):
            arguments = [buffer.address for buffer in command.buffers]
            arguments += command.scalars
            self.slots[-1] = (len(self.values), len(command.buffers), len(command.scalars))
            groups, threads = sizes(command.program, command.groups, command.local)
            self.values += arguments
            self._launch_of += [len(self._launches) if groups > 0 else -1] * len(arguments)
            if groups > 0:
                self._launches.append((command, self.slots[-1][0], len(arguments)))
                program: Any = command.program
                if command.early and follows:
                    stream.launch_early(program, groups, threads, arguments)
                else:
                    stream.launch(program, groups, threads, arguments, 0)
        elif isinstance(command, Copy):
            nbytes = same_size(command.destination, command.source)
            self.slots[-1] = (len(self.values), 2, 0)
            self.values += [command.destination.address, command.source.address]
            self._launch_of += [-1, -1]
            if nbytes:
                stream.transfer(command.destination.address, command.source.address, nbytes)
        else:
            address: int = command.signal.address  # type: ignore[attr-defined]
            if isinstance(command, SignalStore):
                stream.write(address, command.value)
            elif isinstance(command, SignalWait):
                stream.wait(address, command.value)
            else:
                self._launches.append((_NO_LAUNCH, 0, 0))
                stream.write_time(address)

    def _kernel_nodes(self) -> list[c_void_p]:
        """The nodes of the launches, in the order in which they were captured."""
        count = c_size_t()
        self._interface.call("cuGraphGetNodes", self._graph, None, ctypes.byref(count))
        nodes = (c_void_p * count.value)()
        self._interface.call("cuGraphGetNodes", self._graph, nodes, ctypes.byref(count))
        found = []
        for node in nodes:
            kind = c_int()
            self._interface.call("cuGraphNodeGetType", node, ctypes.byref(kind))
            if kind.value == cuda.KERNEL_NODE:
                found.append(c_void_p(node))
        return found

    def run(self, changed: Sequence[int], idle: bool, position: int) -> None:
        for index in sorted({self._launch_of[number] for number in changed} - {-1}):
            command, first, count = self._launches[index]
            program: Any = command.program
            groups, threads = sizes(program, command.groups, command.local)
            pointers, keep = pack(self.values[first : first + count], program.kernel.maps)
            node = cuda.KernelNode(
                func=program.function,
                gridDimX=groups,
                gridDimY=1,
                gridDimZ=1,
                blockDimX=threads,
                blockDimY=1,
                blockDimZ=1,
                sharedMemBytes=program.kernel.dynamic_bytes,
                kernelParams=ctypes.cast(pointers, c_void_p),
            )
            self._interface.call(
                "cuGraphExecKernelNodeSetParams_v2",
                self._executable,
                self._nodes[index],
                ctypes.byref(node),
            )
            del keep
        self._interface.call("cuGraphLaunch", self._executable, self._stream.handle)


_NO_LAUNCH: Any = None


def pack(arguments: Sequence[int], maps: Sequence[tuple[int, TensorMap]] = ()) -> tuple[Any, Any]:
    """(pointers to the arguments and maps, what must stay alive until libcuda has read them)."""
    values = (c_uint64 * max(1, len(arguments)))(*(a & 0xFFFFFFFFFFFFFFFF for a in arguments))
    described = [
        ctypes.create_string_buffer(encoded(m, arguments[m.argument]), MAP_BYTES) for _, m in maps
    ]
    base = ctypes.addressof(values)
    places = [base + 8 * number for number in range(len(arguments))]
    places += map(ctypes.addressof, described)
    return (c_void_p * max(1, len(places)))(*places), (values, described)
