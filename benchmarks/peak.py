"""What this processor can do: multiply-adds and memory traffic, by small generated kernels.

    python benchmarks/peak.py

The kernels are LLVM IR compiled by llvmlite, independent of what Dovetile generates, and run in
threads of their own.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import statistics
import threading
import time
from collections.abc import Callable

import llvmlite.binding as llvm
import numpy
from contenders import THREADS

_ACCUMULATORS = 24  # more than the latency of a multiply-add times the units that do it
_UNROLLED = 4  # vectors of each array in one turn of a loop over memory
_LEAST_SECONDS = 0.05
_TILE = 16 * 64  # bytes of a matrix unit's register: 16 rows

_KERNEL = """
define void @kernel(ptr %a, ptr %b, ptr %c, ptr %out, i64 %count, i64 %repeats) {{
entry:
{setup}
  br label %outer
outer:
  %r = phi i64 [ 0, %entry ], [ %r.next, %outer.end ]
  br label %loop
loop:
  %i = phi i64 [ 0, %outer ], [ %i.next, %loop ]
{carried}
{body}
  %i.next = add i64 %i, {step}
  %more = icmp ult i64 %i.next, %count
  br i1 %more, label %loop, label %outer.end
outer.end:
{after}
  %r.next = add i64 %r, 1
  %again = icmp ult i64 %r.next, %repeats
  br i1 %again, label %outer, label %done
done:
  ret void
}}
!0 = !{{i32 1}}
"""


@functools.cache
def features() -> frozenset[str]:
    """What this processor has, in LLVM's words."""
    return frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)


def lanes() -> int:
    """float32 elements of the widest vector register."""
    return 16 if "avx512f" in features() else 8 if "avx2" in features() else 4


def _kernel(body: list[str], accumulators: list[str], step: int, setup: str = "") -> str:
    """The loops around `body`, which makes `x.next` of each accumulator x; their sum is stored."""
    kind = f"<{lanes()} x float>"
    carried = [
        f"  {name} = phi {kind} [ zeroinitializer, %outer ], [ {name}.next, %loop ]"
        for name in accumulators
    ]
    after, total = [], "zeroinitializer"
    for number, name in enumerate(accumulators):
        after.append(f"  %total{number} = fadd {kind} {total}, {name}.next")
        total = f"%total{number}"
    if accumulators:
        after.append(f"  store {kind} {total}, ptr %out")
    return _KERNEL.format(
        setup=setup,
        carried="\n".join(carried),
        body="\n".join(body),
        step=step,
        after="\n".join(after),
    )


def multiply_add_ir(pairs: bool) -> tuple[str, int]:
    """(IR, operations of a turn): chains of multiply-adds in registers; `pairs`: of bfloat16."""
    width = lanes()
    kind = f"<{width} x float>"
    factors = f"<{2 * width} x bfloat>" if pairs else kind
    name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * width}" if pairs else f"llvm.fma.v{width}f32"
    # The intrinsic's accumulator comes first, that of the multiply-add last: any place will do.
    types = f"{kind}, {factors}, {factors}"
    accumulators = [f"%x{number}" for number in range(_ACCUMULATORS)]
    body = [
        f"  {x}.next = call {kind} @{name}({kind} {x}, {factors} %factor, {factors} %term)"
        for x in accumulators
    ]
    setup = f"  %factor = load {factors}, ptr %a\n  %term = load {factors}, ptr %b"
    text = f"declare {kind} @{name}({types})\n" + _kernel(body, accumulators, 1, setup)
    return text, 2 * width * _ACCUMULATORS * (2 if pairs else 1)


def tile_ir() -> tuple[str, int]:
    """(IR, operations of a turn) of the matrix unit: four products of tiles, as a kernel has them.

    A 2 x 2 block of accumulators, and the tiles of both operands loaded anew in every turn.
    """
    names = ("ldtilecfg", "tilezero", "tileloadd64", "tdpbf16ps", "tilestored64", "tilerelease")
    signatures = ("ptr", "i8", "i8, ptr, i64", "i8, i8, i8", "i8, ptr, i64", "")
    declared = "\n".join(f"declare void @llvm.x86.{n}({s})" for n, s in zip(names, signatures))
    call = "  call void @llvm.x86."
    setup = [f"{call}ldtilecfg(ptr %c)", *(f"{call}tilezero(i8 {n})" for n in range(4))]
    body = []
    for number in range(2):
        body.append(f"  %p{number} = getelementptr i8, ptr %a, i64 {number * _TILE}")
        body.append(f"  %q{number} = getelementptr i8, ptr %b, i64 {number * _TILE}")
        body.append(f"{call}tileloadd64(i8 {4 + number}, ptr %p{number}, i64 64)")
        body.append(f"{call}tileloadd64(i8 {6 + number}, ptr %q{number}, i64 64)")
    body += [
        f"{call}tdpbf16ps(i8 {2 * m + n}, i8 {4 + m}, i8 {6 + n})"
        for m in range(2)
        for n in range(2)
    ]
    text = _kernel(body, [], 1, "\n".join(setup))
    text = text.replace("done:\n", f"done:\n{call}tilerelease()\n")
    return f"{declared}\n{text}", 4 * 2 * 16 * 16 * 32


def memory_ir(reads: int, writes: int, streaming: bool) -> tuple[str, int]:
    """(IR, elements of a turn) of `out = sum of the arrays read`, or of their sum."""
    width = lanes()
    kind = f"<{width} x float>"
    hint = ", !nontemporal !0" if streaming else ""
    body = []

    def at(array: str, turn: int) -> str:
        """A pointer to the turn's vector of an array."""
        body.append(f"  %{array}{turn}.i = add i64 %i, {turn * width}")
        body.append(f"  %{array}{turn}.p = getelementptr float, ptr %{array}, i64 %{array}{turn}.i")
        return f"%{array}{turn}.p"

    for turn in range(_UNROLLED):
        total = f"%x{turn}" if not writes else "zeroinitializer"
        for array in "abc"[:reads]:
            body.append(f"  %{array}{turn} = load {kind}, ptr {at(array, turn)}, align 64")
            name = f"%sum.{array}{turn}"
            body.append(f"  {name} = fadd {kind} {total}, %{array}{turn}")
            total = name
        if writes:
            body.append(f"  store {kind} {total}, ptr {at('out', turn)}, align 64{hint}")
        else:
            body.append(f"  %x{turn}.next = fadd {kind} {total}, zeroinitializer")
    accumulators = [] if writes else [f"%x{turn}" for turn in range(_UNROLLED)]
    return _kernel(body, accumulators, width * _UNROLLED), width * _UNROLLED


def _allow_tiles() -> None:
    """Ask Linux for the matrix unit, as each process must (arch_prctl's request for tile data)."""
    if ctypes.CDLL(None).syscall(158, 0x1023, 18):
        raise OSError("Linux does not grant the matrix unit")


def _tile_configuration() -> numpy.ndarray:
    """What `ldtilecfg` reads: eight tiles of 16 rows of 64 bytes."""
    configuration = numpy.zeros(64, numpy.uint8)
    configuration[0] = 1
    configuration[16:32:2] = 64
    configuration[48:56] = 16
    return configuration


def _aligned(nbytes: int) -> numpy.ndarray:
    """Memory, touched, at the start of a cache line."""
    memory = numpy.zeros(nbytes + 64, numpy.uint8)
    memory[:] = 0
    start = -memory.ctypes.data % 64
    return memory[start : start + nbytes]


class Limit:
    """A limit of this machine: the least time for `amount` operations or bytes, on all threads.

    Args:
        kind: "fma" (float32) or "bfloat16" operations, "memory" for bytes.
        amount: of one pass.
        reads, writes: of "memory", how many arrays of one size a pass reads and writes.
        streaming: whether writes go past the caches.
    """

    def __init__(
        self, kind: str, amount: int, reads: int = 0, writes: int = 0, streaming: bool = True
    ) -> None:
        sizes = [2 * _TILE] * 4
        if kind == "memory":
            text, turn = memory_ir(reads, writes, streaming)
            self._count = max(1, amount // (4 * (reads + writes)) // THREADS // turn) * turn
            used = [number < reads for number in range(3)] + [bool(writes)]
            sizes = [4 * self._count if use else 64 for use in used]
            self.amount = 4 * self._count * (reads + writes) * THREADS
        else:
            tiles = kind == "bfloat16" and "amx-bf16" in features()
            if tiles:
                _allow_tiles()
            text, turn = tile_ir() if tiles else multiply_add_ir(kind == "bfloat16")
            self._count = max(1, round(amount / turn / THREADS))
            self.amount = turn * self._count * THREADS
        self._function = self._compiled(text)
        self._memory = [[_aligned(size) for size in sizes] for _ in range(THREADS)]
        if kind == "bfloat16":
            for arrays in self._memory:
                arrays[2][:64] = _tile_configuration()
        self.repeats = 1
        start = time.perf_counter()
        self.run()
        self.repeats = max(1, round(_LEAST_SECONDS / (time.perf_counter() - start)))

    def _compiled(self, text: str) -> Callable[..., None]:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=2,
            jit=True,
        )
        module = llvm.parse_assembly(text)
        module.verify()
        self._engine = llvm.create_mcjit_compiler(module, machine)
        self._engine.finalize_object()
        arguments = [ctypes.c_void_p] * 4 + [ctypes.c_int64] * 2
        return ctypes.CFUNCTYPE(None, *arguments)(self._engine.get_function_address("kernel"))

    def run(self) -> None:
        """`repeats` passes, each thread over its own part; ctypes lets go of Python's lock."""

        def work(memory: list[numpy.ndarray]) -> None:
            self._function(*(array.ctypes.data for array in memory), self._count, self.repeats)

        threads = [threading.Thread(target=work, args=(memory,)) for memory in self._memory]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def rate(self, times: int = 9) -> float:
        """Operations or bytes per second: the median of some runs."""
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            self.run()
            seconds.append((time.perf_counter() - start) / self.repeats)
        return self.amount / statistics.median(seconds)


LIMITS = {
    "float32 multiply-add, GFLOP/s": ("fma", 10**8),
    "bfloat16 multiply-add, GFLOP/s": ("bfloat16", 10**9),
    "read, GB/s": ("memory", 256 << 20, 1, 0),
    "copy, GB/s": ("memory", 512 << 20, 1, 1, False),
    "copy past the caches, GB/s": ("memory", 512 << 20, 1, 1, True),
}


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16."""
    return platform.system() == "Linux" and bool(features() & {"amx-bf16", "avx512bf16"})


def measured() -> dict[str, float]:
    """All limits that this processor has, by name."""
    return {
        name: Limit(*limit).rate() / 1e9
        for name, limit in LIMITS.items()
        if limit[0] != "bfloat16" or has_bfloat16()
    }


if __name__ == "__main__":
    for name, rate in measured().items():
        print(f"{name:32s} {rate:8.1f}")
