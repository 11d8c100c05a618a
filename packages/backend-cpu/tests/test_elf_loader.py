"""The ELF loader, on objects of both compilers and on damaged ones."""

from __future__ import annotations

import ctypes
import re
import struct

import pytest

from dovetile.errors import CompileError
from dovetile_cpu import clang_compiler, elf_loader, memory_map, native
from dovetile_cpu.clang_compiler import ClangCompiler
from dovetile_cpu.llvm_compiler import LlvmCompiler
from dovetile_cpu.relocations import AArch64

needs_clang = pytest.mark.skipif(
    clang_compiler.find() is None, reason="needs clang, which is not installed"
)

MODULE = """
@table = internal constant [4 x i64] [i64 10, i64 20, i64 30, i64 40]
@counter = internal global i64 5
@zeroed = internal global [16 x i64] zeroinitializer
@pointer = internal global ptr @table
@weights = internal constant <8 x float> <float 1.0, float 2.0, float 3.0, float 4.0,
                                          float 5.0, float 6.0, float 7.0, float 8.0>
declare ptr @memset(ptr, i32, i64)

define internal i64 @callee(i64 %i) noinline {
  %table = load volatile ptr, ptr @pointer
  %address = getelementptr i64, ptr %table, i64 %i
  %value = load i64, ptr %address
  ret i64 %value
}
define i64 @read(i64 %i) {
  %value = call i64 @callee(i64 %i)
  ret i64 %value
}
define i64 @count() {
  %old = load i64, ptr @counter
  %new = add i64 %old, 1
  store i64 %new, ptr @counter
  %place = getelementptr i64, ptr @zeroed, i64 3
  %more = load i64, ptr %place
  store i64 %new, ptr %place
  %sum = add i64 %old, %more
  ret i64 %sum
}
define i64 @fill(ptr %to) {
  %ignored = call ptr @memset(ptr %to, i32 7, i64 100)
  ret i64 0
}
define float @weight(i64 %i) {
  %v = load <8 x float>, ptr @weights
  %w = extractelement <8 x float> %v, i64 %i
  ret float %w
}
define i64 @dispatch(i64 %i) {
  switch i64 %i, label %other [ i64 0, label %a  i64 1, label %b  i64 2, label %c  i64 3, label %d
                                i64 4, label %e ]
a:
  ret i64 100
b:
  ret i64 7
c:
  ret i64 -1
d:
  ret i64 55
e:
  ret i64 12
other:
  ret i64 0
}
"""


def call(address: int, *arguments: int, result: type = ctypes.c_int64):
    return ctypes.CFUNCTYPE(result, *[ctypes.c_int64] * len(arguments))(address)(*arguments)


def test_calls_data_and_external_functions() -> None:
    loaded = elf_loader.load_object(LlvmCompiler().compile(MODULE))
    functions = loaded.functions
    assert [call(functions["read"], i) for i in range(4)] == [10, 20, 30, 40]
    assert [call(functions["count"]) for _ in range(3)] == [5, 12, 14]
    buffer = ctypes.create_string_buffer(100)
    call(functions["fill"], ctypes.addressof(buffer))
    assert buffer.raw == b"\7" * 100
    assert [call(functions["weight"], i, result=ctypes.c_float) for i in range(8)] == [
        1, 2, 3, 4, 5, 6, 7, 8
    ]  # fmt: skip
    assert [call(functions["dispatch"], i) for i in range(6)] == [100, 7, -1, 55, 12, 0]
    loaded.unload()
    assert not loaded.functions


@needs_clang
def test_objects_of_clang() -> None:
    source = """
        static long table[] = {3, 1, 4};
        long counter;
        long (*pick)(long);
        static long lookup(long i) { return table[i % 3]; }
        long visible(long i) { pick = lookup; counter += 1; return pick(i) * 10 + counter; }
        void *memcpy(void *, const void *, unsigned long);
        long copy(void *to, void *from, long n) { memcpy(to, from, n); return n; }
        long named(long i) {
            switch (i) {
                case 0: return 9; case 1: return 8; case 2: return 1; case 3: return 44;
                case 4: return 2; case 5: return 0; case 6: return 77; default: return -5;
            }
        }
    """
    functions = elf_loader.load_object(ClangCompiler().compile(source)).functions
    assert [call(functions["visible"], i) for i in range(3)] == [31, 12, 43]
    source_bytes = ctypes.create_string_buffer(b"some bytes", 11)
    target = ctypes.create_string_buffer(11)
    call(functions["copy"], ctypes.addressof(target), ctypes.addressof(source_bytes), 11)
    assert target.value == b"some bytes"
    assert [call(functions["named"], i) for i in range(8)] == [9, 8, 1, 44, 2, 0, 77, -5]


def test_code_is_not_writable_and_data_is_not_executable() -> None:
    loaded = elf_loader.load_object(LlvmCompiler().compile(MODULE))
    pages = {}
    with open("/proc/self/maps") as maps:
        for line in maps:
            start, end, flags = re.match(r"(\w+)-(\w+) (\S+)", line).groups()  # type: ignore
            pages.update(
                dict.fromkeys(range(int(start, 16), int(end, 16), memory_map.PAGE), flags)
                if int(end, 16) > loaded.address >= int(start, 16) - loaded.nbytes
                else {}
            )
    flags = [pages[loaded.address + i] for i in range(0, loaded.nbytes, memory_map.PAGE)]
    assert flags[0] == "r-xp" and flags[-1] == "rw-p"
    assert not any("w" in f and "x" in f for f in flags)


def test_unknown_external_functions_are_named() -> None:
    module = """
        declare void @no_such_function()
        define void @f() {
            call void @no_such_function()
            ret void
        }
    """
    with pytest.raises(CompileError, match="'no_such_function'"):
        elf_loader.load_object(LlvmCompiler().compile(module))


@pytest.mark.parametrize("content", [b"", b"not an object", b"\x7fELF\x01\x01" + bytes(100)])
def test_files_that_are_no_objects(content: bytes) -> None:
    with pytest.raises(CompileError):
        elf_loader.load_object(content)


def test_truncated_objects_raise_and_never_crash() -> None:
    binary = LlvmCompiler().compile(MODULE)
    for length in range(0, len(binary), 97):
        with pytest.raises(CompileError):
            elf_loader.load_object(binary[:length])


class _Image:
    """An image far away from everything, to check encodings that this machine cannot run."""

    def __init__(self, instruction: int) -> None:
        self.address = 0x7F00_0000_1000
        self.image = bytearray(struct.pack("<I", instruction) + bytes(12))
        self.stubs: list[int] = []

    def stub(self, target: int) -> int:
        self.stubs.append(target)
        return self.address + 0x800

    def word(self, target: int) -> int:
        return self.address + 0x2348


@pytest.mark.parametrize(
    ("kind", "instruction", "distance", "expected"),
    [
        (283, 0x94000000, 0x400, 0x94000100),  # bl +0x400
        (283, 0x94000000, -8, 0x97FFFFFE),  # bl -8
        (283, 0x94000000, 1 << 40, 0x94000200),  # bl to the stub at +0x800
        (275, 0x90000000, 0x3234, 0xF0000000),  # adrp x0, 3 pages further
        (277, 0x91000000, 0x3234, 0x9108D000),  # add x0, x0, #0x234
        (286, 0xF9400000, 0x3238, 0xF9411C00),  # ldr x0, [x0, #0x238]
        (299, 0x3DC00000, 0x3230, 0x3DC08C00),  # ldr q0, [x0, #0x230]
        (311, 0x90000000, 1 << 40, 0xD0000000),  # adrp x0, page of the address word
        (312, 0xF9400000, 1 << 40, 0xF941A400),  # ldr x0, [x0, #0x348]
    ],
)
def test_aarch64_relocations(kind: int, instruction: int, distance: int, expected: int) -> None:
    image = _Image(instruction)
    AArch64.apply(image, 0, kind, image.address + distance, 0)
    assert struct.unpack_from("<I", image.image)[0] == expected
    assert bool(image.stubs) == (kind == 283 and distance > 1 << 28)


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_the_command_processor_for_aarch64(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """It compiles, and the loader knows all its relocations; running it needs such a machine."""
    binding = pytest.importorskip("llvmlite.binding")
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    try:
        target = binding.Target.from_triple("aarch64-unknown-none-elf")
    except RuntimeError as error:
        pytest.skip(f"this llvmlite has no AArch64: {error}")
    machine = target.create_target_machine(opt=2, reloc="pic", codemodel="small")
    monkeypatch.setattr(native.host, "machine", lambda: "aarch64")
    monkeypatch.setattr(native.sys, "platform", system)
    for text in (native.source(), MODULE):
        module = binding.parse_assembly(text, binding.create_context())
        module.triple = machine.triple
        content = machine.emit_object(module)
        monkeypatch.undo()
        loaded = elf_loader.load_object(content)
        monkeypatch.setattr(native.host, "machine", lambda: "aarch64")
        assert loaded.functions
        loaded.unload()
