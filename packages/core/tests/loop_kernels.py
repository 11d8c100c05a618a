"""Kernels at loop level, as the scheduler makes them, and ways to run them without a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import interpreter
import numpy as np

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.lower import lower
from dovetile.optimize.opts import Opt, apply_opts
from dovetile.plugins import Capabilities
from dovetile.runtime import Buffer, Device
from dovetile.schedule.loops import canonical
from dovetile.schedule.make import schedule

SCALAR = Capabilities(architecture="test-scalar")
"""One thread, no vectors."""
WIDE = Capabilities(
    architecture="test-wide",
    native_ops=frozenset({"SQRT", "TRUNC", "MULACC"}),
    parallel_axes=("THREAD",),
    threads=2,
    vector_bytes=32,
    vector_registers=16,
    cache_bytes=(32768, 1 << 20),
    local_bytes=1 << 20,
    host_visible=True,
)
GROUPS = replace(
    WIDE,
    architecture="test-groups",
    parallel_axes=("GROUP", "LOCAL"),
    threads=4,
    group_threads=64,
    warp=8,
    vector_bytes=16,
    vector_registers=64,
    cache_bytes=(),
    local_bytes=48 << 10,
    supports_barrier=True,
)
"""Two threads, eight float32 lanes."""


@dataclass(frozen=True)
class Case:
    """A kernel in canonical form and what it computes.

    arrays: content of its buffers by slot; expected: {slot: content afterwards}.
    """

    name: str
    kernel: UOp
    arrays: tuple[np.ndarray, ...]
    expected: dict[int, np.ndarray]

    def run(self, opts: Sequence[Opt] = (), capabilities: Capabilities = WIDE) -> None:
        """Runs the kernel under Opts and compares everything that it wrote."""
        self.compare(self.results(apply_opts(self.kernel, opts), capabilities))

    def results(self, kernel: UOp, capabilities: Capabilities = WIDE) -> list[np.ndarray]:
        """The content of all buffers after a run of this form of the kernel."""
        arrays = [a.copy() for a in self.arrays]
        interpreter.run(lower(kernel, capabilities), arrays)
        return arrays

    def run_on(self, device: Device, kernel: UOp) -> None:
        """Runs this form of the kernel on a device, and compares."""
        program = lower(kernel, device.capabilities, "kernel")
        binary = device.compiler.compile(device.renderer.render(program))
        buffers = [Buffer.from_numpy(device, a) for a in self.arrays]
        loaded = device.load(binary, "kernel")
        device.queue.launch(loaded, buffers, (), (program.parts,), (program.threads,))
        device.synchronize()
        self.compare([b.to_numpy() for b in buffers])

    def compare(self, arrays: Sequence[np.ndarray]) -> None:
        for slot, array in enumerate(arrays):
            expected = self.expected.get(slot, self.arrays[slot])
            if array.dtype.kind == "f":
                np.testing.assert_allclose(array, expected, 1e-5, 1e-5, err_msg=self.name)
            else:
                np.testing.assert_array_equal(array, expected, err_msg=self.name)


def tensor(*shape: int, dtype: DType = dtypes.float32) -> UOp:
    """An input of this shape."""
    return UOp.buffer(int(np.prod(shape)), dtype, "HOST").reshape(shape)


def numbers(count: int, dtype: DType, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if dtype.kind == "f":
        return random.uniform(-1, 1, count).astype(dtypes.to_numpy(dtype))
    return random.integers(0, 2 if dtype.kind == "b" else 50, count).astype(dtypes.to_numpy(dtype))


def case(
    name: str, value: UOp, inputs: Sequence[UOp], reference: Callable[..., np.ndarray],
    capabilities: Capabilities = SCALAR,
) -> Case:  # fmt: skip
    """The case of a value that the scheduler computes in one kernel."""
    devices = {"HOST": SimpleNamespace(capabilities=capabilities)}
    kernels, _, _ = schedule(UOp.sink(value), devices, "HOST")  # type: ignore[arg-type]
    assert len(kernels) == 1, f"{name}: {len(kernels)} kernels"
    ast = kernels[0].ast
    assert ast is not None
    kernel, buffers = canonical(ast)
    content = {}
    for seed, node in enumerate(inputs):
        base = node if node.op is Op.BUFFER else node.src[0]
        content[base] = numbers(base.arg.size, base.dtype, seed)
    arrays = tuple(
        content[b] if b in content else np.full(b.arg.size, 77, dtypes.to_numpy(b.dtype))
        for b in buffers
    )
    shaped = [content[n if n.op is Op.BUFFER else n.src[0]].reshape(n.shape) for n in inputs]
    (slot,) = [i for i, b in enumerate(buffers) if b not in content]
    return Case(name, kernel, arrays, {slot: reference(*shaped).reshape(-1)})


# -- Examples ----------------------------------------------------------------------------------


def matmul(m: int, k: int, n: int) -> Case:
    a, b = tensor(m, k), tensor(k, n)
    left = a.expand((n,)).permute((0, 2, 1))
    right = b.permute((1, 0)).expand((m,)).permute((2, 0, 1))
    value = (left * right).reduce(Op.ADD, 1)
    return case(f"matmul {m}x{k}x{n}", value, [a, b], lambda a, b: a @ b)


def cast_matmul(
    m: int, k: int, n: int, layout: str = "nn", types: tuple[DType, DType] | None = None
) -> Case:
    """Axes: 0 m, 1 n, 2 k. Matrices are stored by rows ("n") or by columns ("t")."""
    first, second = types or (dtypes.bfloat16, dtypes.bfloat16)
    wide = dtypes.float32 if first.is_float else dtypes.int32
    a = tensor(*((m, k) if layout[0] == "n" else (k, m)), dtype=first)
    b = tensor(*((k, n) if layout[1] == "n" else (n, k)), dtype=second)
    rows = a if layout[0] == "n" else a.permute((1, 0))
    columns = b if layout[1] == "n" else b.permute((1, 0))
    left = rows.cast(wide).expand((n,)).permute((0, 2, 1))
    right = columns.permute((1, 0)).cast(wide).expand((m,)).permute((2, 0, 1))

    def reference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        a, b = (x.astype(dtypes.to_numpy(wide)) for x in (a, b))
        return (a if layout[0] == "n" else a.T) @ (b if layout[1] == "n" else b.T)

    value = (left * right).reduce(Op.ADD, 1)
    return case(f"{layout} {m}x{k}x{n}", value, [a, b], reference)


def attention(
    queries: int, keys: int, sizes: tuple[int, int] = (8, 8), heads: int = 2, causal: bool = False,
    dtype: DType = dtypes.float32, capabilities: Capabilities = WIDE, transposed: bool = False,
) -> Case:  # fmt: skip
    """softmax(q @ k.T) @ v with base 2; sizes: of a key and of a value. Axes: 0 heads, 1 queries,
    2 columns. dtype: of inputs and result. transposed: whether keys and values lie by columns."""
    width, columns = sizes
    inputs = [(heads, n, m) for n, m in ((queries, width), (keys, width), (keys, columns))]
    if transposed:
        inputs[1:] = [(h, m, n) for h, n, m in inputs[1:]]
    given = [tensor(*shape, dtype=dtype) for shape in inputs]
    q, k, v = (x if x.dtype is dtypes.float32 else x.cast(dtypes.float32) for x in given)
    if transposed:
        k, v = k.permute((0, 2, 1)), v.permute((0, 2, 1))
    products = q.expand((keys,)).permute((0, 1, 3, 2)) * k.expand((queries,)).permute((0, 3, 1, 2))
    scores = products.reduce(Op.ADD, 1)
    if causal:
        row = UOp(Op.IOTA, dtypes.index, (), queries).expand((heads, keys)).permute((1, 0, 2))
        key = UOp(Op.IOTA, dtypes.index, (), keys).expand((heads, queries)).permute((1, 2, 0))
        scores = (row < key).where(scores.const_like(float("-inf")), scores)
    grown = (scores + scores.reduce(Op.MAX, 1).expand((keys,)) * -1.0).alu(Op.EXP2)
    total = grown.reduce(Op.ADD, 1)
    weights = grown * (total.const_like(1.0) / total).expand((keys,))
    values = v.expand((queries,)).permute((0, 3, 2, 1))
    value = (weights.expand((columns,)).permute((0, 1, 3, 2)) * values).reduce(Op.ADD, 1)
    value = value.cast(dtype) if dtype is not dtypes.float32 else value

    def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
        q, k, v = (x.astype(np.float64) for x in (q, k, v))
        if transposed:
            k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
        scores = q @ k.swapaxes(1, 2)
        if causal:
            scores[:, ~np.tri(queries, keys, dtype=bool)] = -np.inf
        grown = np.exp2(scores - scores.max(2, keepdims=True))
        return grown / grown.sum(2, keepdims=True) @ v

    name = f"attention {heads}x{queries}x{keys} {sizes}"
    return case(name, value, given, reference, capabilities)


def convolution(batch: int, inputs: int, outputs: int, size: int, window: int) -> Case:
    """Stride 1, no padding."""
    x, w = tensor(batch, inputs, size, size), tensor(outputs, inputs, window, window)
    out = size - window + 1
    rows = _windows(x, window)  # batch, inputs, x, y, dy
    both = _windows(rows, window)  # batch, inputs, y, dy, x, dx
    windows = both.permute((0, 1, 2, 4, 3, 5))
    images = windows.expand((outputs,)).permute((0, 6, 2, 3, 1, 4, 5))
    weights = w.expand((batch, out, out)).permute((4, 0, 5, 6, 1, 2, 3))
    total = (images * weights).reduce(Op.ADD, 3)

    def reference(x: np.ndarray, w: np.ndarray) -> np.ndarray:
        windows = np.lib.stride_tricks.sliding_window_view(x, (window, window), (2, 3))
        return np.einsum("bihwyx,oiyx->bohw", windows, w)

    return case(f"convolution {batch} {inputs} {outputs} {size} {window}", total, [x, w], reference)


def _windows(x: UOp, window: int) -> UOp:
    """(a, b, n, *rest) -> (a, b, *rest, n - window + 1, window), views of neighbours.

    Rows repeated one element too far start one element later each: no copy is made.
    """
    n = x.shape[2]
    others = tuple(range(3, len(x.shape)))
    x = x.permute((0, 1, *others, 2))
    lead = x.shape[:-1]
    keep = tuple((0, m) for m in lead)
    x = x.expand((window + 1,)).permute((*range(len(lead)), len(lead) + 1, len(lead)))
    x = x.reshape((*lead, (window + 1) * n)).shrink((*keep, (0, window * (n + 1))))
    x = x.reshape((*lead, window, n + 1)).shrink((*keep, (0, window), (0, n - window + 1)))
    return x.permute((*range(len(lead)), len(lead) + 1, len(lead)))


def elementwise(*shape: int) -> Case:
    a, b = tensor(*shape), tensor(*shape)
    value = (a * b + a).maximum_with(0.25)
    return case(f"elementwise {shape}", value, [a, b], lambda a, b: np.maximum(a * b + a, 0.25))


def transpose(*shape: int) -> Case:
    a = tensor(*shape)
    order = tuple(reversed(range(len(shape))))
    return case(f"transpose {shape}", a.permute(order) + 1.0, [a], lambda a: a.T + 1)


def row_sums(rows: int, columns: int) -> Case:
    a = tensor(rows, columns)
    value = (a * a).reduce(Op.ADD, 1)
    return case(f"row sums {rows}x{columns}", value, [a], lambda a: (a * a).sum(1))


def column_maxima(rows: int, columns: int) -> Case:
    a = tensor(rows, columns)
    value = a.permute((1, 0)).reduce(Op.MAX, 1)
    return case(f"column maxima {rows}x{columns}", value, [a], lambda a: a.max(0))


def total(*shape: int) -> Case:
    a = tensor(*shape, dtype=dtypes.int32)
    value = a.reduce(Op.ADD, len(shape))
    return case(f"total {shape}", value, [a], lambda a: a.sum(dtype=np.int32))


def padded(size: int, before: int, after: int) -> Case:
    a = tensor(size)
    value = a.pad(((before, after),)) * 2.0
    name = f"padded {before} {size} {after}"
    return case(name, value, [a], lambda a: 2 * np.pad(a, (before, after)))


def normalized(rows: int, columns: int) -> Case:
    """Two reductions, the second of which needs the first."""
    a = tensor(rows, columns)
    mean = a.reduce(Op.ADD, 1) * (1 / columns)
    centered = a - mean.expand((columns,))
    value = (centered * centered).reduce(Op.ADD, 1)

    def reference(a: np.ndarray) -> np.ndarray:
        return ((a - a.mean(1, keepdims=True)) ** 2).sum(1)

    return case(f"normalized {rows}x{columns}", value, [a], reference)


def centered(rows: int, columns: int) -> Case:
    """What is written depends on the row and on its sum. Axes: 0 rows, 1 columns, 2 in the sum."""
    a = tensor(rows, columns)
    value = a - (a.reduce(Op.ADD, 1) * (1 / columns)).expand((columns,))
    return case(f"centered {rows}x{columns}", value, [a], lambda a: a - a.mean(1, keepdims=True))


def accumulated(count: int) -> Case:
    """A store that reads what it overwrites, so that nothing may be computed twice."""
    x, out = UOp.buffer(count, dtypes.float32, slot=1), UOp.buffer(count, dtypes.float32, slot=0)
    r = UOp.range(count, id=0)
    address = out.index(r)
    kernel = UOp.sink(address.store(address.load() + x.index(r).load()).end(r))
    old, new = numbers(count, dtypes.float32, 0), numbers(count, dtypes.float32, 1)
    return Case(f"accumulated {count}", kernel, (old, new), {0: old + new})
