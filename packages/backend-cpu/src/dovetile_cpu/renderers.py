"""The core's renderers for host functions, as the two CPU compilers want them."""

from __future__ import annotations

from dovetile.render import HostCStyleRenderer, HostLlvmIrRenderer


class CpuLlvm(HostLlvmIrRenderer):
    """LLVM IR for `LlvmCompiler`."""


class CpuC(HostCStyleRenderer):
    """C for `ClangCompiler`."""
