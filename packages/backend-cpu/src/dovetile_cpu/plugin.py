"""The plugin that makes the CPU known. Importing it is cheap; everything else happens at use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dovetile.plugins import (
    Capabilities,
    CompilerSpec,
    DeviceSpec,
    ProbeResult,
    Selection,
    hookimpl,
)

if TYPE_CHECKING:
    from dovetile.runtime import Compiler, Device, Renderer

DOVETILE_PLUGIN_API = (0, 1)

_DEVICES = 8
"""Devices CPU, CPU:1, ... are queues of their own on the same cores: for trying out several."""


def _probe() -> ProbeResult:
    from dovetile_cpu import host

    reason = host.unsupported()
    return ProbeResult(0, reason) if reason else ProbeResult(_DEVICES)


def _open(selection: Selection) -> Device:
    from dovetile_cpu.device import CpuDevice

    return CpuDevice(selection)


def _llvm(capabilities: Capabilities) -> Compiler:
    from dovetile_cpu.llvm_compiler import LlvmCompiler

    return LlvmCompiler()


def _llvm_renderer(capabilities: Capabilities) -> Renderer:
    from dovetile_cpu import renderers

    return renderers.CpuLlvm(capabilities)


def _llvm_available() -> str | None:
    from dovetile_cpu import llvm_compiler

    return llvm_compiler.available()


def _clang(capabilities: Capabilities) -> Compiler:
    from dovetile_cpu.clang_compiler import ClangCompiler

    return ClangCompiler()


def _clang_renderer(capabilities: Capabilities) -> Renderer:
    from dovetile_cpu import renderers

    return renderers.CpuC(capabilities)


def _clang_available() -> str | None:
    from dovetile_cpu import clang_compiler

    return clang_compiler.available()


@hookimpl
def dovetile_devices() -> Sequence[DeviceSpec]:
    return [
        DeviceSpec(
            "CPU",
            probe=_probe,
            open=_open,
            compilers=(
                CompilerSpec("LLVM", "CPU", "llvm-ir", _llvm, _llvm_renderer, _llvm_available),
                CompilerSpec("CLANG", "CPU", "c", _clang, _clang_renderer, _clang_available),
            ),
        )
    ]
