"""Fixtures of the core's tests."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# How long an example takes says more about what else the machine does.
settings.register_profile("patient", settings(deadline=None))
settings.load_profile("patient")


class ReferenceRuntime:
    """Stands in for devices: keeps arrays by BUFFER, and computes graphs by the reference."""

    # For all tests: a node that outlives one has become a BUFFER that the next must know.
    arrays: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self.made: list = []

    def default_device_name(self) -> str:
        return "REFERENCE"

    def device_name(self, device: str | None) -> str:
        return "REFERENCE" if device is None else device

    def place(self, array: np.ndarray, device: str, share: bool = False):
        from dovetile import dtypes
        from dovetile.ir.uop import UOp

        node = UOp.buffer(array.size, dtypes.from_numpy(array.dtype), device)
        self.arrays[node] = array if share else np.array(array)
        return node

    def realize(self, nodes: list) -> None:
        from reference import evaluate_all

        from dovetile.ir.held import become, realized
        from dovetile.ir.ops import Op
        from dovetile.ir.uop import UOp
        from dovetile.tensor.base import buffer_of

        nodes = [n for n in dict.fromkeys(nodes) if realized(n) is n]
        nodes += self.readers(nodes)
        nodes = [n for n in dict.fromkeys(nodes) if realized(n) is n]
        values = evaluate_all(nodes, self.arrays)
        for node, value in zip(nodes, values):
            buffer = buffer_of(node)
            if buffer is node:
                continue
            if buffer is not None:
                become(node, _plain(node))
            elif node.op is not Op.CONST:
                self.made.append(node)
                fresh = UOp.buffer(value.size, node.dtype, node.device or "REFERENCE")
                self.arrays[fresh] = value.reshape(-1)
                become(node, fresh.reshape(value.shape))

    def readers(self, nodes: list) -> list:
        """Pending readers of the buffers that `nodes` write to."""
        from dovetile.ir.ops import Op
        from dovetile.ir.uop import toposort
        from dovetile.tensor import live_tensors

        written = {n for n in toposort(nodes) if n.op is Op.AFTER and len(n.src) > 1}
        buffers = {n for a in written for n in toposort(a.src[0]) if n.op is Op.BUFFER}
        live = [t.uop for t in live_tensors() if t._buffer is None]
        return [n for n in live if not buffers.isdisjoint(toposort(n))]

    def reserve(self, size: int, dtype, device: str):
        from dovetile.ir.uop import UOp

        return UOp.buffer(size, dtype, device)

    def renewed(self, buffer):
        from dovetile.ir.uop import UOp

        node = UOp.buffer(buffer.arg.size, buffer.dtype, buffer.arg.device)
        self.arrays[node] = self.arrays[buffer]
        return node

    def buffer_array(self, buffer) -> np.ndarray:
        return self.arrays[buffer]


def _plain(node):
    """The view without the writes that led to the present state."""
    from dovetile.ir.ops import Op

    if node.op is Op.BUFFER:
        return node
    inner = _plain(node.src[0])
    return inner if node.op is Op.AFTER else node.replace(src=(inner,))


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReferenceRuntime]:
    """Tensors computed by the reference evaluator instead of a device."""
    from dovetile.ir.held import forget
    from dovetile.ir.ops import Op
    from dovetile.ir.uop import toposort
    from dovetile.tensor import placement, random

    runtime = ReferenceRuntime()
    for name in ("default_device_name", "device_name", "place", "realize", "buffer_array",
                 "renewed", "reserve"):  # fmt: skip
        monkeypatch.setattr(placement, name, getattr(runtime, name))
    monkeypatch.setattr(random, "_states", {})
    monkeypatch.setattr(random, "_seed", 0)
    yield runtime
    # A value that depends on no memory is the same node for graphs of real devices.
    for node in runtime.made:
        if all(n.op is not Op.BUFFER for n in toposort(node)):
            forget(node)


@pytest.fixture(scope="session", autouse=True)
def checked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Every pass is checked, here and in processes that tests start; the cache is our own, since
    a plan that is found there went through no pass."""
    from dovetile import environment

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHECK", "1")
        patch.setenv("DOVETILE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        environment.reload()
        yield
    environment.reload()
