"""The plugin that makes compilers for NVIDIA's GPUs known. Importing it is cheap."""

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


def _cuda(capabilities: Capabilities) -> Compiler:
    from dovetile_nv.cuda_compiler import CudaCompiler

    return CudaCompiler(capabilities)


def _cuda_renderer(capabilities: Capabilities) -> Renderer:
    from dovetile_nv.cuda_renderer import CudaRenderer

    return CudaRenderer(capabilities)


def _cuda_available() -> str | None:
    from dovetile_nv import cuda_compiler

    return cuda_compiler.available()


def _ptx(capabilities: Capabilities) -> Compiler:
    from dovetile_nv.ptx_compiler import PtxCompiler

    return PtxCompiler(capabilities)


def _ptx_renderer(capabilities: Capabilities) -> Renderer:
    from dovetile_nv.ptx_renderer import PtxRenderer

    return PtxRenderer(capabilities)


def _ptx_available() -> str | None:
    from dovetile_nv import ptx_compiler

    return ptx_compiler.available()


COMPILERS = (
    CompilerSpec("CUDA", "NV", "cuda", _cuda, _cuda_renderer, _cuda_available),
    CompilerSpec("PTX", "NV", "llvm-ir", _ptx, _ptx_renderer, _ptx_available),
)
"""In order of preference."""


def _probe() -> ProbeResult:
    from dovetile_nv import selection

    name, why = selection.choose()
    return ProbeResult(selection.count(), f"over {name}: {why}") if name else ProbeResult(0, why)


def _open(selection: Selection) -> Device:
    from dovetile_nv.device import NvDevice

    return NvDevice(selection)


@hookimpl
def dovetile_devices() -> Sequence[DeviceSpec]:
    return [DeviceSpec("NV", _probe, _open, COMPILERS, priority=100)]
