"""What both renderers write beside the kernel itself, and what the runtime reads of it.

A kernel NAME is an entry that takes the addresses of its buffers in order of their slots, then the
values of its variables in order of their names, 8 bytes each. A workgroup is a block of the first
dimension, and has as many threads as the launch says. Its shared memory is one static block, which
the binary describes, up to the size that those may have; above that a dynamic one, and then its
size stands in the binary too, in four bytes of initialised data called NAME_local_bytes.
"""

from __future__ import annotations

from dovetile.lower.linear import LinearKernel
from dovetile_nv.capabilities import ACCESS_BYTES

LOCAL_ALIGNMENT = 1024
"""Of shared memory: what swizzled tiles of the hardware's own copies begin at multiples of."""
GLOBAL_ALIGNMENT = ACCESS_BYTES
"""What the buffers of a launch begin at multiples of."""
REGISTERS = {"group": "ctaid", "local": "tid"}
"""The special registers that hold the hardware indices."""
_MOST_STATIC = 48 << 10


def is_dynamic(kernel: LinearKernel) -> bool:
    """Whether the launch must say how much shared memory the kernel needs."""
    return kernel.local_bytes > _MOST_STATIC


def size_name(kernel: LinearKernel) -> str:
    """The name of the data that holds the size of dynamic shared memory."""
    return f"{kernel.name}_local_bytes"
