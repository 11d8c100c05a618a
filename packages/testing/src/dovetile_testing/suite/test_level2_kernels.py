"""Level 2: small kernels built by hand are rendered, compiled, loaded and launched."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.errors import CompileError, DovetileError
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.uop import UOp
from dovetile.runtime import Buffer, Device, Launch
from dovetile_testing.kernels import buffer, elementwise, empty, linear, load, numbers, run

COUNT = 37
Requires = Callable[[bool, str], None]
every_dtype = pytest.mark.parametrize("dtype", dtypes.TENSOR_DTYPES, ids=lambda dtype: dtype.name)


@every_dtype
def test_copying(device: Device, random: np.random.Generator, requires: Requires, dtype: DType):
    requires(dtype.name in device.capabilities.dtypes, f"{dtype.name} is not stored")
    expected = numbers(random, dtype, COUNT)
    kernel = elementwise(lambda x: x, [dtype], dtype, COUNT)
    result = run(device, kernel, empty(device, COUNT, dtype), buffer(device, expected))
    assert result.tobytes() == expected.tobytes()


@every_dtype
@pytest.mark.parametrize("op", [Op.ADD, Op.MUL, Op.MAX, Op.MIN], ids=lambda op: op.name)
def test_arithmetic(
    device: Device, random: np.random.Generator, requires: Requires, dtype: DType, op: Op
):
    native = dtype.name in device.capabilities.arithmetic_dtypes
    requires(native, f"no arithmetic in {dtype.name}")
    reference = {Op.ADD: np.add, Op.MUL: np.multiply, Op.MAX: np.maximum, Op.MIN: np.minimum}[op]
    x, y = numbers(random, dtype, COUNT), numbers(random, dtype, COUNT)
    kernel = elementwise(lambda a, b: a.alu(op, b), [dtype, dtype], dtype, COUNT)
    result = run(device, kernel, empty(device, COUNT, dtype), buffer(device, x), buffer(device, y))
    np.testing.assert_array_equal(result, reference(x, y))


@pytest.mark.parametrize("op", [Op.LT, Op.NE], ids=lambda op: op.name)
def test_comparisons_and_selection(device: Device, random: np.random.Generator, op: Op):
    x, y = (random.integers(-2, 3, COUNT).astype(np.float32) for _ in range(2))
    x[:3], y[1:4] = np.nan, np.nan
    truth = x < y if op is Op.LT else x != y
    types = [dtypes.float32, dtypes.float32]
    kernel = elementwise(lambda a, b: a.alu(op, b), types, dtypes.bool_, COUNT)
    inputs = buffer(device, x), buffer(device, y)
    np.testing.assert_array_equal(
        run(device, kernel, empty(device, COUNT, dtypes.bool), *inputs), truth
    )
    kernel = elementwise(lambda a, b: a.alu(op, b).where(a, b), types, dtypes.float32, COUNT)
    result = run(device, kernel, empty(device, COUNT, dtypes.float32), *inputs)
    np.testing.assert_array_equal(result, np.where(truth, x, y))


@pytest.mark.parametrize("target", ["int32", "uint8", "float64", "bool", "int64"])
def test_casts(device: Device, random: np.random.Generator, requires: Requires, target: str):
    requires(target in device.capabilities.arithmetic_dtypes, f"no arithmetic in {target}")
    to = getattr(dtypes, target)
    x = random.integers(0, 100, COUNT).astype(np.float32) + np.float32(0.5)
    x[0] = 0
    kernel = elementwise(lambda a: a.cast(to), [dtypes.float32], to, COUNT)
    result = run(device, kernel, empty(device, COUNT, to), buffer(device, x))
    np.testing.assert_array_equal(result, x.astype(dtypes.to_numpy(to)))


def test_bitcasts(device: Device, random: np.random.Generator):
    x = random.standard_normal(COUNT).astype(np.float32)
    kernel = elementwise(lambda a: a.bitcast(dtypes.int32), [dtypes.float32], dtypes.int32, COUNT)
    result = run(device, kernel, empty(device, COUNT, dtypes.int32), buffer(device, x))
    np.testing.assert_array_equal(result, x.view(np.int32))


def test_integers_wrap_and_bits_move(device: Device, random: np.random.Generator):
    x, y = (random.integers(-(2**31), 2**31, COUNT).astype(np.int32) for _ in range(2))

    def mix(a: UOp, b: UOp) -> UOp:
        shifted = a.alu(Op.SHL, UOp.const(3, dtypes.int32)).alu(Op.XOR, b)
        return (shifted * b + a).alu(Op.SHR, UOp.const(2, dtypes.int32))

    kernel = elementwise(mix, [dtypes.int32] * 2, dtypes.int32, COUNT)
    result = run(
        device, kernel, empty(device, COUNT, dtypes.int32), buffer(device, x), buffer(device, y)
    )
    np.testing.assert_array_equal(result, ((x << 3 ^ y) * y + x) >> 2)


def test_special_floats_stay(device: Device):
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, 3.4e38, -1.5], np.float32)
    kernel = elementwise(lambda a: a * 1.0, [dtypes.float32], dtypes.float32, len(x))
    result = run(device, kernel, empty(device, len(x), dtypes.float32), buffer(device, x))
    np.testing.assert_array_equal(result, x)
    np.testing.assert_array_equal(np.signbit(result[:2]), [False, True])
    kernel = elementwise(
        lambda a: UOp.const(1.0, dtypes.float32).alu(Op.DIV, a),
        [dtypes.float32],
        dtypes.float32,
        len(x),
    )
    result = run(device, kernel, empty(device, len(x), dtypes.float32), buffer(device, x))
    with np.errstate(all="ignore"):
        np.testing.assert_allclose(result, np.float32(1) / x, rtol=3e-7)


def test_nested_loops_and_an_accumulator(device: Device, random: np.random.Generator):
    rows, columns = 5, 7
    x = random.integers(-4, 5, (rows, columns)).astype(np.float32)
    row, column = UOp.range(rows, id=0), UOp.range(columns, id=1)
    accumulator = UOp.buffer(1, dtypes.float32, slot=0, space=AddressSpace.REG)
    source = UOp.buffer(rows * columns, dtypes.float32, slot=1)
    # The loop over rows is entered before the accumulator is set.
    start = UOp.const(0.0, dtypes.float32)
    begin = accumulator.after(row).index(0).store(start)
    current = accumulator.after(begin, column)
    total = current.index(0).load() + source.index(row * columns + column).load()
    summed = accumulator.after(current.index(0).store(total).end(column))
    out = UOp.buffer(rows, dtypes.float32, slot=0)
    kernel = linear(out.index(row).store(summed.index(0).load()).end(row))
    result = run(device, kernel, empty(device, rows, dtypes.float32), buffer(device, x.ravel()))
    np.testing.assert_array_equal(result, x.sum(axis=1))


def test_gates_keep_memory_from_being_touched(device: Device, random: np.random.Generator):
    count, limit = 24, 10
    x = random.standard_normal(limit).astype(np.float32)
    loop = UOp.range(count, id=0)
    inside = loop < limit
    source = UOp.buffer(limit, dtypes.float32, slot=1)
    other = UOp.const(-1.0, dtypes.float32)
    out = UOp.buffer(count, dtypes.float32, slot=0)
    kernel = linear(out.index(loop).store(source.index(loop).load(other, inside)).end(loop))
    result = run(device, kernel, empty(device, count, dtypes.float32), buffer(device, x))
    np.testing.assert_array_equal(result, np.concatenate([x, np.full(count - limit, -1.0)]))
    target = buffer(device, np.zeros(count, np.float32))
    kernel = linear(out.index(loop).store(UOp.const(1.0, dtypes.float32), inside).end(loop))
    result = run(device, kernel, target)
    np.testing.assert_array_equal(result, np.arange(count) < limit)


def test_variables_are_arguments(device: Device):
    loop = UOp.range(8, id=0)
    a, b = UOp.variable("a", 0, 1000), UOp.variable("b", -1000, 1000)
    out = UOp.buffer(8, dtypes.int32, slot=0)
    kernel = linear(out.index(loop).store((loop * a + b).cast(dtypes.int32)).end(loop))
    (program,) = load(device, kernel)
    target = empty(device, 8, dtypes.int32)
    for values in ((3, -5), (1000, 1000)):
        device.queue.launch(program, (target,), values)
        np.testing.assert_array_equal(target.to_numpy(), np.arange(8) * values[0] + values[1])


def test_a_thread_axis_runs_in_parts(device: Device, requires: Requires):
    requires("THREAD" in device.capabilities.parallel_axes, "no THREAD axis")
    parts, each = 6, 10
    part = UOp(Op.SPECIAL, dtypes.index, (UOp.const(parts),), "part")
    loop = UOp.range(each, id=0)
    out = UOp.buffer(parts * each, dtypes.int32, slot=0)
    position = part * each + loop
    kernel = linear(out.index(position).store(position.cast(dtypes.int32)).end(loop))
    (program,) = load(device, kernel)
    target = empty(device, parts * each, dtypes.int32)
    for _ in range(20):
        target.copy_in(np.zeros(parts * each, np.int32))
        device.queue.launch(program, (target,), (), (parts,))
        np.testing.assert_array_equal(target.to_numpy(), np.arange(parts * each))


def test_local_memory(device: Device, requires: Requires):
    requires(device.capabilities.local_bytes >= 64, "no LOCAL memory")
    count = 16
    first, second = UOp.range(count, id=0), UOp.range(count, id=1)
    panel = UOp.buffer(count, dtypes.int32, slot=0, space=AddressSpace.LOCAL)
    filled = panel.after(panel.index(first).store((first * first).cast(dtypes.int32)).end(first))
    out = UOp.buffer(count, dtypes.int32, slot=0)
    mirrored = filled.index(second * -1 + (count - 1)).load()
    kernel = linear(out.index(second).store(mirrored).end(second))
    result = run(device, kernel, empty(device, count, dtypes.int32))
    np.testing.assert_array_equal(result, np.arange(count)[::-1] ** 2)


@pytest.mark.parametrize("lanes", [2, 4])
def test_vectors(device: Device, random: np.random.Generator, requires: Requires, lanes: int):
    wide = device.capabilities.vector_bytes >= 4 * lanes
    requires(wide, f"no vectors of {lanes} float32")
    count = 8 * lanes
    x = random.standard_normal(count + 1).astype(np.float32)
    loop = UOp.range(8, id=0)
    vector = dtypes.float32.vec(lanes)
    source = UOp.buffer(count + 1, dtypes.float32, slot=1)
    # Not aligned: one element off.
    value = source.index(loop * lanes + 1).load(dtype=vector)
    doubled = value + value
    lane = UOp(Op.EXTRACT, dtypes.float32, (value,), (lanes - 1,))
    repeated = UOp(Op.VECTOR, vector, (lane,))
    out = UOp.buffer(count, dtypes.float32, slot=0)
    kernel = linear(out.index(loop * lanes).store(doubled + repeated).end(loop))
    result = run(device, kernel, empty(device, count, dtypes.float32), buffer(device, x))
    rows = x[1:].reshape(8, lanes)
    np.testing.assert_allclose(result.reshape(8, lanes), rows * 2 + rows[:, -1:], rtol=1e-6)


def _increment(device: Device, amount: float) -> tuple:
    kernel = elementwise(lambda a: a + amount, [dtypes.float32], dtypes.float32, COUNT)
    (program,) = load(device, kernel)
    return program, buffer(device, np.zeros(COUNT, np.float32))


def test_launches_run_in_order(device: Device):
    program, target = _increment(device, 1.0)
    for _ in range(100):
        device.queue.launch(program, (target, target))
    np.testing.assert_array_equal(target.to_numpy(), np.full(COUNT, 100.0))


def test_a_captured_list_of_kernels_replays_with_patches(device: Device):
    program, first = _increment(device, 1.0)
    second = buffer(device, np.full(COUNT, 10.0, np.float32))
    captured = device.queue.capture([Launch(program, (first, first))] * 3)
    slots = [captured.buffer_slot(0, 0), captured.buffer_slot(0, 1)]
    for _ in range(5):
        captured.submit()
    np.testing.assert_array_equal(first.to_numpy(), np.full(COUNT, 15.0))
    captured.submit([(slot, second) for slot in slots])
    np.testing.assert_array_equal(first.to_numpy(), np.full(COUNT, 17.0))
    np.testing.assert_array_equal(second.to_numpy(), np.full(COUNT, 11.0))


def test_a_view_is_an_argument_like_any_other(device: Device, random: np.random.Generator):
    x = random.standard_normal(2 * COUNT).astype(np.float32)
    whole = buffer(device, x)
    part = whole.view(COUNT * 4, COUNT * 4)
    kernel = elementwise(lambda a: a, [dtypes.float32], dtypes.float32, COUNT)
    result = run(device, kernel, empty(device, COUNT, dtypes.float32), part)
    np.testing.assert_array_equal(result, x[COUNT:])


def test_compiling_is_repeatable(device: Device):
    kernel = elementwise(lambda a: a * a, [dtypes.float32], dtypes.float32, COUNT)
    source = device.renderer.render(kernel)
    assert device.renderer.render(kernel) == source
    one, two = device.compiler.compile_many([source, source])
    assert one == two == device.compiler.compile(source)


def test_a_source_that_is_not_of_the_language_is_a_compile_error(device: Device):
    with pytest.raises(CompileError):
        device.compiler.compile("}{ this is a source in no language @@@")


def test_a_binary_that_is_damaged_is_refused(device: Device):
    for binary in (b"", b"neither code nor anything"):
        with pytest.raises(DovetileError):
            device.load(binary, "missing")


def test_empty_buffers_can_be_arguments(device: Device):
    kernel = elementwise(lambda a: a, [dtypes.float32], dtypes.float32, COUNT)
    (program,) = load(device, kernel)
    nothing = Buffer(device, 0, dtypes.float32)
    device.queue.copy(nothing, nothing)
    device.synchronize()
    assert program.name == kernel.name
