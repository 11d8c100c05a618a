"""Where Tensors meet the runtime: device names, arrays in and out, running a graph.

Everything is imported at first use, so that building graphs costs no import of the runtime.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.errors import JitError
from dovetile.ir.held import attach, realized
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp

if TYPE_CHECKING:
    import numpy as np

lock = threading.RLock()
"""Held while nodes are computed, and while a state that all threads share moves on: the readers of
what is overwritten must be known by then."""


def default_device_name() -> str:
    """The device of Tensors that are made without naming one."""
    from dovetile.plugins import default_device_name

    return default_device_name()


def device_name(device: str | None) -> str:
    """The canonical name of `device`, of the default device for None. Raises DeviceError."""
    if device is None:
        return default_device_name()
    from dovetile.plugins import open_device

    return open_device(device).name


def place(array: np.ndarray, device: str, share: bool = False) -> UOp:
    """A BUFFER on `device` with the elements of a C-contiguous array.

    share: use the array's own memory where the device can address it, instead of a copy.
    """
    from dovetile import runtime, schedule

    dtype = dtypes.from_numpy(array.dtype)
    assert dtype is not None
    node = UOp.buffer(array.size, dtype, device)
    memory = runtime.Buffer.from_numpy(runtime.get_device(device), array, copy=not share)
    attach(node, memory)
    if (record := schedule.recording.get()) is not None:
        record.add_placed(memory, array)
    return node


def reserve(size: int, dtype: DType, device: str) -> UOp:
    """A BUFFER with memory of its own, which is taken when it is first written to."""
    from dovetile import runtime

    node = UOp.buffer(size, dtype, device)
    memory = runtime.Buffer(runtime.get_device(device), size * dtype.itemsize, dtype)
    attach(node, memory)
    return node


def renewed(buffer: UOp) -> UOp:
    """A new BUFFER for the memory of another."""
    from dovetile import schedule

    node = UOp.buffer(buffer.arg.size, buffer.dtype, buffer.arg.device)
    attach(node, schedule.buffer_of(buffer))
    return node


@cache
def _realize() -> Callable[[list[UOp]], None]:
    # Found once: an import statement costs as much as a small operation's whole launch.
    from dovetile.schedule import realize

    return realize


def realize(nodes: list[UOp]) -> None:
    """Compute the nodes: what :func:`realized` gives then is memory."""
    _realize()(nodes)


def buffer_array(buffer: UOp) -> np.ndarray:
    """A copy of the elements of a computed BUFFER, as a flat array.

    Raises IndexOutOfRangeError where a kernel met an index outside its range since the last call.
    """
    from dovetile import schedule
    from dovetile.runtime.faults import check_faults

    memory = schedule.buffer_of(buffer)
    array = memory.to_numpy()
    check_faults(memory.device)
    return array


def fetch(node: UOp) -> np.ndarray:
    """The value of a computed node as an array, a view of the buffer where possible."""
    import numpy as np

    from dovetile import schedule

    if schedule.recording.get() is not None:
        raise JitError(
            "[jit] the value of a tensor is asked for (by item, numpy, tolist, bool...) inside a "
            "captured function; return the tensor and ask outside: a replay runs no Python"
        )
    chain = []
    node = realized(node)
    while node.op is not Op.BUFFER:
        if node.op is Op.CONST:
            array = np.asarray(node.arg, dtypes.to_numpy(node.dtype))
            break
        chain.append(node)
        node = node.src[0]
    else:
        array = buffer_array(node)
    for link in reversed(chain):
        array = _moved(array, link)
    return array


def _moved(array: np.ndarray, node: UOp) -> np.ndarray:
    import numpy as np

    op, arg = node.op, node.arg
    if op is Op.RESHAPE:
        return array.reshape(arg)
    if op is Op.PERMUTE:
        return array.transpose(arg)
    if op is Op.SHRINK:
        return array[tuple(slice(start, stop) for start, stop in arg)]
    if op is Op.FLIP:
        return np.flip(array, arg)
    if op is Op.EXPAND:
        trailing = array.reshape(array.shape + (1,) * len(arg))
        return np.broadcast_to(trailing, array.shape + tuple(arg))
    assert op is Op.AFTER, op
    return array
