"""Both compilers: the kernel interface, errors, fingerprints, and what they cost when unused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cpu_kernels import LLVM, integers, read, run_python, zeros

from dovetile.errors import CompileError
from dovetile.plugins import open_device
from dovetile.runtime import compile_programs
from dovetile_cpu import clang_compiler, llvm_compiler
from dovetile_cpu.clang_compiler import ClangCompiler
from dovetile_cpu.device import CpuDevice
from dovetile_cpu.llvm_compiler import LlvmCompiler

needs_clang = pytest.mark.skipif(
    clang_compiler.find() is None, reason="needs clang, which is not installed"
)

C_SOURCE = """
int parts(void **buffers, long *scalars, long part, void *scratch) {
    long *restrict out = buffers[0], *restrict in = buffers[1];
    *(long *)scratch = scalars[0];
    out[part] = in[part] + *(long *)scratch * part;
    return 0;
}
"""


@needs_clang
def test_a_kernel_in_c() -> None:
    device = open_device("CPU:CLANG")
    (parts,) = compile_programs(device, [("parts", C_SOURCE)])
    source, out = integers(device, range(100)), zeros(device, 100)
    device.queue.launch(parts, [out, source], [4], groups=(100,))
    assert read(out) == [5 * i for i in range(100)]


@needs_clang
def test_clang_uses_the_widest_vectors_of_this_machine() -> None:
    macro = {64: "__AVX512F__", 32: "__AVX2__", 16: "__SIZEOF_INT128__"}
    wanted = macro[open_device("CPU").capabilities.vector_bytes]
    ClangCompiler().compile(f"#ifndef {wanted}\n#error narrow\n#endif\nint x;")


@needs_clang
def test_what_clang_says_is_in_the_error() -> None:
    with pytest.raises(CompileError, match="undeclared identifier 'nonsense'"):
        ClangCompiler().compile("int f(void) { return nonsense; }")


@needs_clang
def test_many_sources_in_order_and_errors_among_them() -> None:
    sources = [f"int f{i}(void) {{ return {i}; }}" for i in range(6)]
    binaries = ClangCompiler().compile_many(sources)
    assert all(f"f{i}\0".encode() in binary for i, binary in enumerate(binaries))
    with pytest.raises(CompileError, match="exit status"):
        ClangCompiler().compile_many([*sources, "int f("])


def test_without_clang(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get install clang" in (clang_compiler.available() or "")
    with pytest.raises(CompileError, match="no clang in PATH"):
        ClangCompiler().compile("int x;")


def test_a_clang_with_a_version_in_its_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("clang-14", "clang-19"):
        (tmp_path / name).write_text("#!/bin/sh\nexit 3\n")
        os.chmod(tmp_path / name, 0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clang_compiler.find() == str(tmp_path / "clang-19")
    with pytest.raises(CompileError, match="exit status 3"):
        ClangCompiler().compile("int x;")


def test_what_llvm_says_is_in_the_error() -> None:
    with pytest.raises(CompileError, match="expected instruction opcode"):
        LlvmCompiler().compile("define void @f() { nonsense }")


def test_llvm_modules_do_not_see_each_other() -> None:
    one = LlvmCompiler().compile("%T = type { i32 }\ndefine i32 @f() { ret i32 1 }")
    two = LlvmCompiler().compile("%T = type { i64 }\ndefine i32 @f() { ret i32 2 }")
    assert one != two


def test_compile_many_of_llvm_keeps_the_order() -> None:
    sources = [f"define i64 @f{i}() {{ ret i64 {i} }}" for i in range(8)]
    binaries = LlvmCompiler().compile_many(sources)
    assert binaries == [LlvmCompiler().compile(source) for source in sources]
    with pytest.raises(CompileError):
        LlvmCompiler().compile_many([*sources, "nonsense"])


def test_a_kernel_that_is_not_in_its_binary(device: CpuDevice) -> None:
    with pytest.raises(CompileError, match="'missing' is not in the binary"):
        device.load(LlvmCompiler().compile(LLVM), "missing")


def test_fingerprints_differ_between_compilers_and_are_stable() -> None:
    assert LlvmCompiler().fingerprint() == LlvmCompiler().fingerprint()
    if clang_compiler.find():
        assert LlvmCompiler().fingerprint() != ClangCompiler().fingerprint()
    assert llvm_compiler.available() is None


WARM = """
import sys
from dovetile.plugins import open_device
from cpu_kernels import programs, zeros, read
from dovetile.runtime import counters
device = open_device("CPU")
(parts,) = programs(device, "parts")
out = zeros(device, 8)
device.queue.launch(parts, [out, out], groups=(8,))
assert read(out) == list(range(8))
print(counters().compiled, "llvmlite" in sys.modules)
"""


WARM_STEP = """
import sys
from dovetile import Tensor, counters, jit
step = jit(lambda x: (x @ x).softmax(1).sum())
step(Tensor.ones(32, 32).contiguous()).item()
print(counters().compiled > 0, *[name in sys.modules for name in ("dovetile.render", "llvmlite")])
"""


def test_a_step_from_a_warm_cache_loads_neither_renderer_nor_compiler(tmp_path: Path) -> None:
    for expected in ("True True True\n", "False False False\n"):
        result = run_python(WARM_STEP, DOVETILE_CACHE_DIR=str(tmp_path))
        assert result.stdout == expected, result.stderr


def test_a_second_process_compiles_nothing_and_loads_no_compiler(tmp_path: Path) -> None:
    cache = str(tmp_path)
    first = run_python(WARM, DOVETILE_CACHE_DIR=cache)
    assert first.stdout == "2 True\n", first.stderr
    second = run_python(WARM, DOVETILE_CACHE_DIR=cache)
    assert second.stdout == "0 False\n", second.stderr


def test_importing_the_plugin_loads_next_to_nothing() -> None:
    result = run_python(
        "import sys\nimport dovetile.plugins\nbefore = set(sys.modules)\n"
        "import dovetile_cpu.plugin\n"
        "dovetile_cpu.plugin.dovetile_devices()\n"
        "new = set(sys.modules) - before\n"
        "print([m for m in new if m.startswith(('llvmlite', 'ctypes', 'numpy', 'subprocess'))])\n"
    )
    assert result.stdout == "[]\n", result.stderr
