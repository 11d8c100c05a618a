"""What both renderers write beside the kernel itself, and what the runtime reads of it.

A kernel NAME is an entry that takes the addresses of its buffers in order of their slots, then the
values of its variables in order of their names, 8 bytes each. A workgroup is a block of the first
dimension; its shared memory is one dynamic block. How large both are stands in the binary, in eight
bytes of initialised data called NAME_geometry: threads of a workgroup, bytes of shared memory.
"""

from __future__ import annotations

from dovetile.ir.ops import Op
from dovetile.lower.linear import LinearKernel
from dovetile_nv.capabilities import ACCESS_BYTES

LOCAL_ALIGNMENT = 1024
"""Of shared memory: what swizzled tiles of the hardware's own copies begin at multiples of."""
GLOBAL_ALIGNMENT = ACCESS_BYTES
"""What the buffers of a launch begin at multiples of."""
REGISTERS = {"group": "ctaid", "local": "tid"}
"""The special registers that hold the hardware indices."""


def threads_of(kernel: LinearKernel) -> int:
    """How many threads a workgroup has."""
    for node in kernel.uops:
        if node.op is Op.SPECIAL and node.arg == "local":
            return int(node.src[0].maximum)
    return 1


def geometry_name(kernel: LinearKernel) -> str:
    return f"{kernel.name}_geometry"
