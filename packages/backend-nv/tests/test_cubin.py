"""Cubins: what the runtime reads of them, against NVIDIA's compiler and disassembler."""

from __future__ import annotations

import re
import struct
import subprocess
from functools import cache
from pathlib import Path

import pytest

from dovetile import dtypes
from dovetile.errors import CompileError
from dovetile.ir import Op, UOp
from dovetile.lower.linear import LinearKernel
from dovetile.lower.linearize import linearize
from dovetile_nv import cubin, cuda_compiler, libraries, ptx_compiler
from dovetile_nv.capabilities import ARCHITECTURES, architecture_of, capabilities_of
from dovetile_nv.ptx_renderer import PtxRenderer

SOURCE = """
__device__ int numbers[4] = {1, 2, 3, 4};
__device__ unsigned int large_local_bytes = 60000;
extern __shared__ float memory[];
extern "C" __global__ void __launch_bounds__(96) plain(int* out, long long n) { *out = n; }
extern "C" __global__ void __launch_bounds__(64) shared(float* out) {
  __shared__ float part[64];
  part[threadIdx.x] = out[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = part[63 - threadIdx.x];
}
extern "C" __global__ void large(float* out) {
  memory[threadIdx.x] = out[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = memory[63 - threadIdx.x];
}
extern "C" __global__ void stacked(int* out) {
  volatile int table[100];
  for (int i = 0; i < 100; i++) table[i] = i;
  *out = table[*out];
}
extern "C" __global__ void looked_up(int* out) { *out = numbers[*out & 3]; }
"""
needs_nvrtc = pytest.mark.skipif(
    cuda_compiler.available() is not None, reason=cuda_compiler.available() or ""
)
needs_linker = pytest.mark.skipif(
    ptx_compiler.available() is not None, reason=ptx_compiler.available() or ""
)
needs_disassembler = pytest.mark.skipif(
    libraries.disassembler() is None, reason="nvdisasm is not installed"
)


@cache
def compiled(architecture: str = "sm_90a") -> bytes:
    target = capabilities_of(architecture_of(architecture))
    return cuda_compiler.CudaCompiler(target).compile(SOURCE)


@needs_nvrtc
@pytest.mark.parametrize(
    ("architecture", "arguments", "target"),
    [("sm_80", 0x160, 0x80), ("sm_89", 0x160, 0x89), ("sm_90a", 0x210, 0x90)],
)
def test_kernels_and_their_figures(architecture: str, arguments: int, target: int):
    found = cubin.read(compiled(architecture)).kernels
    assert set(found) == {"plain", "shared", "large", "stacked", "looked_up"}
    plain = found["plain"]
    assert (plain.arguments_offset, plain.arguments_bytes) == (arguments, 16)
    assert plain.bank_bytes == arguments + 16
    assert plain.threads == 96 and found["large"].threads == 0
    assert plain.target == target
    assert 4 <= plain.registers <= 32 and plain.local_bytes == 0
    assert plain.shared_bytes == 1024  # what the hardware keeps
    assert found["shared"].shared_bytes == 1024 + 256 and found["shared"].dynamic_bytes == 0
    assert found["large"].dynamic_bytes == 60_000
    assert found["large"].shared_bytes == 61_024
    assert found["stacked"].local_bytes >= 400
    assert found["shared"].barriers >= 1


@needs_nvrtc
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_is_read(architecture: str):
    found = cubin.read(compiled(architecture))
    number = int("".join(c for c in architecture if c.isdecimal()))
    assert {kernel.target for kernel in found.kernels.values()} == {number // 10 << 4 | number % 10}
    image = found.relocated(0x2_0000_0000)
    for kernel in found.kernels.values():
        assert kernel.code_offset % 128 == 0
        assert any(image[kernel.code_offset : kernel.code_offset + kernel.code_bytes])


@needs_nvrtc
def test_data_lies_where_the_code_looks_for_it():
    found = cubin.read(compiled())
    base = 0x3_4567_0000
    image = found.relocated(base)
    offset, nbytes = found.banks["looked_up"][4]
    pointers = struct.unpack_from(f"<{nbytes // 8}Q", image, offset)
    values = [struct.unpack_from("<4i", image, pointer - base) for pointer in pointers]
    assert (1, 2, 3, 4) in values


@needs_linker
@needs_disassembler
def test_calls_between_sections_go_to_their_target(tmp_path: Path):
    """The relocated code is put back into the file, and the disassembler reads the addresses."""
    target = capabilities_of(architecture_of("sm_90a"))
    position = UOp(Op.SPECIAL, dtypes.index, (UOp.const(64),), "group")
    out, x, y = (UOp.buffer(64, dtypes.float32, slot=i).index(position) for i in range(3))
    program = linearize(UOp.sink(out.store(x.load() / y.load())))
    kernel = LinearKernel.of("quotient", program)
    binary = ptx_compiler.PtxCompiler(target).compile(PtxRenderer(target).render(kernel))
    found = cubin.read(binary)
    base = 0x2_1234_5600
    image, code = found.relocated(base), found.kernels["quotient"]
    text = bytes(found.image[code.code_offset : code.code_offset + code.code_bytes])
    (table,) = struct.unpack_from("<Q", binary, 40)
    (count,) = struct.unpack_from("<H", binary, 60)
    patched = bytearray(binary)
    at = patched.index(text)
    patched[at : at + len(text)] = image[code.code_offset : code.code_offset + len(text)]
    for header in range(table, table + 64 * count, 64):
        if struct.unpack_from("<I", patched, header + 4)[0] in (4, 9):  # relocations: done
            struct.pack_into("<I", patched, header + 4, 0)
    path = tmp_path / "patched.cubin"
    path.write_bytes(patched)
    tool = libraries.disassembler()
    assert tool is not None
    listing = subprocess.run([tool, "-c", path], capture_output=True, text=True, check=True).stdout
    targets = {int(text, 16) - base for text in re.findall(r"CALL\.ABS\S* (0x\w+)", listing)}
    assert len(targets) == 1
    (function,) = targets
    # Functions are not kernels: the called one lies in the image, outside the kernel.
    assert 0 <= function < len(image)
    assert not code.code_offset <= function < code.code_offset + code.code_bytes


@pytest.mark.parametrize("damage", [b"", b"\x7fELF\x02", b"\x7fELF\x02" + bytes(100)])
def test_what_is_no_cubin(damage: bytes):
    with pytest.raises(CompileError, match=r"\[load\]"):
        cubin.read(damage)


@needs_nvrtc
def test_a_cut_off_cubin():
    with pytest.raises(CompileError, match="cut off"):
        cubin.read(compiled()[:2000])
