"""Where Tensors meet the runtime: device names, arrays in and out, running a graph.

Everything is imported at first use, so that building graphs costs no import of the runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp

if TYPE_CHECKING:
    import numpy as np


def default_device_name() -> str:
    """The device of Tensors that are made without naming one."""
    from dovetile.plugins import devices

    return devices.default_name()


def device_name(device: str | None) -> str:
    """The canonical name of `device`, of the default device for None. Raises DeviceError."""
    if device is None:
        return default_device_name()
    from dovetile.plugins import devices

    return devices.open(device).name


def place(array: np.ndarray, device: str, share: bool = False) -> UOp:
    """A BUFFER on `device` with the elements of a C-contiguous array.

    share: use the array's own memory where the device can address it, instead of a copy.
    """
    from dovetile import runtime

    dtype = dtypes.from_numpy(array.dtype)
    assert dtype is not None
    node = UOp.buffer(array.size, dtype, device)
    runtime.attach(node, runtime.buffer_from_array(array, device, share=share))
    return node


def realize(nodes: list[UOp]) -> None:
    """Compute the nodes."""
    from dovetile import schedule

    schedule.realize(nodes)


def realized(node: UOp) -> UOp:
    """The view of a BUFFER that a computed node has become; the node itself before."""
    from dovetile import schedule

    return schedule.realized(node)


def forget(buffer: UOp) -> None:
    """No node is to be read from this BUFFER's memory any more: it will be written to."""
    from dovetile import schedule

    schedule.forget(buffer)


def renewed(buffer: UOp) -> UOp:
    """A new BUFFER for the memory of another."""
    from dovetile import runtime

    node = UOp.buffer(buffer.arg.size, buffer.dtype, buffer.arg.device)
    runtime.attach(node, runtime.buffer_of(buffer))
    return node


def buffer_array(buffer: UOp) -> np.ndarray:
    """The elements of a computed BUFFER as a flat array (not a copy where the host can see it)."""
    from dovetile import runtime

    return runtime.buffer_of(buffer).array()


def fetch(node: UOp) -> np.ndarray:
    """The value of a computed node as an array, a view of the buffer where possible."""
    import numpy as np

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
