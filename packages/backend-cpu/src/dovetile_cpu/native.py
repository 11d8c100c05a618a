"""The native half of the CPU backend: the command processor (``*.ll``), loaded.

It is compiled through LLVM once for a machine; from then on its object file comes from the cache.
"""

from __future__ import annotations

import ctypes
import sys
import time
from functools import cache
from importlib import resources

from dovetile.runtime.compile import load_compiled
from dovetile_cpu import elf_loader, host
from dovetile_cpu.llvm_compiler import LlvmCompiler

# System call numbers of futex; FUTEX_WAIT and FUTEX_WAKE with FUTEX_PRIVATE_FLAG.
_FUTEX = {"x86_64": 202, "aarch64": 98}
_LINUX_DECLARATIONS = "declare i64 @syscall(i64, ...)"
_LINUX_WAIT = """
  %time = alloca [2 x i64]
  %seconds = sdiv i64 %timeout, 1000000000
  %rest = srem i64 %timeout, 1000000000
  store i64 %seconds, ptr %time
  %rest.address = getelementptr i64, ptr %time, i64 1
  store i64 %rest, ptr %rest.address
  %forever = icmp slt i64 %timeout, 0
  %limit = select i1 %forever, ptr null, ptr %time
  %ignored = call i64 (i64, ...) @syscall(
      i64 {futex}, ptr %word, i64 128, i32 %expected, ptr %limit, ptr null, i64 0)
"""
_LINUX_WAKE = """
  %ignored = call i64 (i64, ...) @syscall(
      i64 {futex}, ptr %word, i64 129, i32 %count, ptr null, ptr null, i64 0)
"""
# Without futexes: look again after a short nap. Nobody needs waking then.
_PORTABLE_DECLARATIONS = "declare i32 @usleep(i32)"
_PORTABLE_WAIT = """
  %now.value = load atomic i32, ptr %word seq_cst, align 4
  %same = icmp eq i32 %now.value, %expected
  br i1 %same, label %nap, label %over
nap:
  %ignored = call i32 @usleep(i32 50)
  br label %over
over:
"""
_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}


_FILES = ("worker_pool.ll", "commands.ll")


def source() -> str:
    """The command processor as LLVM IR for this machine and operating system."""
    instruction_set = host.machine().replace("arm64", "aarch64")
    pause_declaration, pause = _PAUSE[instruction_set]
    on_linux = sys.platform == "linux"
    declarations = _LINUX_DECLARATIONS if on_linux else _PORTABLE_DECLARATIONS
    number = str(_FUTEX[instruction_set])
    replacements = {
        "@FUTEX_DECLARATIONS@": f"{declarations}\n{pause_declaration}",
        "@FUTEX_WAIT@": _LINUX_WAIT.replace("{futex}", number) if on_linux else _PORTABLE_WAIT,
        "@FUTEX_WAKE@": _LINUX_WAKE.replace("{futex}", number) if on_linux else "",
        "@PAUSE@": pause,
        "@CLOCK@": str(time.CLOCK_MONOTONIC),
    }
    folder = resources.files("dovetile_cpu")
    text = "".join(folder.joinpath(name).read_text("utf-8") for name in _FILES)
    for placeholder, value in replacements.items():
        text = text.replace(placeholder, value)
    return text


class Library:
    """The native functions, callable from Python. Addresses are plain integers."""

    def __init__(self) -> None:
        functions = load_compiled(LlvmCompiler(), source(), elf_loader.load_object).functions
        word, address = ctypes.c_int64, ctypes.c_void_p
        # Short and never blocking: cheaper with the interpreter's lock held (PYFUNCTYPE).
        self.start = ctypes.PYFUNCTYPE(None, address, word)(functions["dovetile_start"])
        self.signal = ctypes.PYFUNCTYPE(None, address, word)(functions["dovetile_signal"])
        # These may run for long, so other Python threads go on meanwhile (CFUNCTYPE).
        self.wait = ctypes.CFUNCTYPE(ctypes.c_int32, address, word, word)(
            functions["dovetile_wait"]
        )
        self.wait_signal = ctypes.CFUNCTYPE(ctypes.c_int32, address, address, word, word)(
            functions["dovetile_wait_signal"]
        )
        self.stop = ctypes.CFUNCTYPE(None, address)(functions["dovetile_stop"])
        self.thread = functions["dovetile_thread"]
        self.copy = functions["dovetile_copy"]


@cache
def library() -> Library:
    """The native functions, compiled or read from the cache at the first call."""
    return Library()
