"""The emulated workgroup device: what kernels compute there, and which mistakes it finds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.errors import DeviceError, DeviceFault, UnsupportedError
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.spec import verify
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel
from dovetile.lower.linearize import linearize
from dovetile.plugins.selection import manager
from dovetile.runtime import Buffer, Device, Program, get_device
from dovetile_testing.kernels import load
from dovetile_testing.simt import threads as simt_threads

GROUPS, THREADS = 3, 64
COUNT = GROUPS * THREADS
FLOAT = dtypes.float32
_numbers = itertools.count()


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOVETILE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield get_device("SIMT")


# -- Kernels in the form that GPUs get ---------------------------------------------------------


def special(name: str, count: int) -> UOp:
    return UOp(Op.SPECIAL, dtypes.index, (UOp.const(count),), name)


group, local = special("group", GROUPS), special("local", THREADS)
everyone = group * THREADS + local


def memory(slot: int, count: int = COUNT, dtype: DType = FLOAT) -> UOp:
    return UOp.buffer(count, dtype, slot=slot)


def shared(count: int = THREADS, dtype: DType = FLOAT, offset: int = 0) -> UOp:
    return UOp.buffer(count, dtype, slot=offset, space=AddressSpace.LOCAL)


def register(start: float, *around: UOp) -> UOp:
    """A REG buffer of one number, set inside these loops."""
    buffer = UOp.buffer(1, FLOAT, slot=0, space=AddressSpace.REG)
    return buffer.after(buffer.after(*around).index(0).store(UOp.const(start, FLOAT)))


def barrier(*effects: UOp) -> UOp:
    return UOp(Op.BARRIER, dtypes.void, effects, "workgroup")


def shuffle(value: UOp, mask: int) -> UOp:
    return UOp(Op.SHUFFLE, value.dtype, (value,), mask)


def program(device: Device, *effects: UOp) -> tuple[Program, LinearKernel]:
    nodes = linearize(UOp.sink(*effects))
    verify(nodes, "program")
    kernel = LinearKernel.of(f"kernel_{next(_numbers)}", nodes)
    return load(device, kernel)[0], kernel


def launch(device: Device, effect: UOp, *contents: np.ndarray) -> np.ndarray:
    """What the first of these buffers holds after a launch."""
    loaded, kernel = program(device, effect)
    buffers = [Buffer.from_numpy(device, content) for content in contents]
    device.queue.launch(loaded, buffers, (), (kernel.parts,), (kernel.threads,))
    device.synchronize()
    return buffers[0].to_numpy()


def zeros(count: int = COUNT, dtype: type = np.float32) -> np.ndarray:
    return np.zeros(count, dtype)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(7).integers(-50, 50, COUNT).astype(np.float32)


def summed_by_halves(x: UOp, synchronised: bool) -> UOp:
    """The sum of each group's elements, in shared memory."""
    panel = shared()
    met = panel.index(local).store(x.index(everyone).load())
    half = THREADS
    while half > 1:
        half //= 2
        panel = shared().after(barrier(met) if synchronised else met)
        gate = UOp.const(0.0, FLOAT), local < half
        total = panel.index(local).load(*gate) + panel.index(local + half).load(*gate)
        met = panel.index(local).store(total, local < half)
    result = shared().after(barrier(met) if synchronised else met).index(0).load()
    return memory(0, GROUPS).index(group).store(result, local.eq(0))


# -- Results -----------------------------------------------------------------------------------


def test_every_thread_does_its_element(device, x):
    value = memory(1).index(everyone).load()
    result = launch(device, memory(0).index(everyone).store(value * value + value), zeros(), x)
    np.testing.assert_array_equal(result, x * x + x)


def test_workgroups_run_by_chunks(device, monkeypatch):
    monkeypatch.setattr(simt_threads, "_TOGETHER", 2 * THREADS)
    target = memory(0, dtype=dtypes.int32)
    result = launch(
        device, target.index(everyone).store(everyone.cast(dtypes.int32)), zeros(dtype=np.int32)
    )
    np.testing.assert_array_equal(result, np.arange(COUNT))


def test_numbers_are_of_their_dtype(device):
    """Integers wrap and floats round, whether all threads have the same value or not."""
    one, many = (memory(1, COUNT, dtypes.uint8).index(i).load() for i in (UOp.const(0), everyone))
    for value in (one + one, many * many):
        target = memory(0, COUNT, dtypes.uint8).index(everyone).store(value)
        content = np.full(COUNT, 200, np.uint8)
        result = launch(device, target, zeros(dtype=np.uint8), content)
        np.testing.assert_array_equal(result, 144 if value.op is Op.ADD else 64)
    third = UOp.const(1 / 3, FLOAT)
    stored = memory(0).index(everyone).store(third * third + third)
    expected = np.float32(1 / 3) * np.float32(1 / 3) + np.float32(1 / 3)
    np.testing.assert_array_equal(launch(device, stored, zeros()), expected)


def test_a_sum_in_shared_memory(device, x):
    result = launch(device, summed_by_halves(memory(1), True), zeros(GROUPS), x)
    np.testing.assert_array_equal(result, x.reshape(GROUPS, THREADS).sum(axis=1))


def test_a_sum_by_shuffles(device, x):
    value = memory(1).index(everyone).load()
    for bit in range(5):
        value = value + shuffle(value, 1 << bit)
    result = launch(device, memory(0).index(everyone).store(value), zeros(), x)
    np.testing.assert_array_equal(result, np.repeat(x.reshape(-1, 32).sum(axis=1), 32))


def test_vectors(device, x):
    wide, lanes = FLOAT.vec(4), 4
    value = memory(1, COUNT * lanes).index(everyone * lanes).load(dtype=wide)
    swapped = shuffle(value, 1)
    first = UOp(Op.VECTOR, wide, (UOp(Op.EXTRACT, FLOAT, (swapped,), (0,)),))
    turned = UOp(Op.EXTRACT, wide, (value,), (3, 2, 1, 0))
    stored = memory(0, COUNT * lanes).index(everyone * lanes).store(first + turned)
    content = np.arange(COUNT * lanes, dtype=np.float32)
    result = launch(device, stored, zeros(COUNT * lanes), content).reshape(-1, lanes)
    rows = content.reshape(-1, lanes)
    np.testing.assert_array_equal(result, rows[np.arange(COUNT) ^ 1, :1] + rows[:, ::-1])


def test_gates_keep_memory_from_being_touched(device, x):
    inside = everyone < 100
    value = memory(1, 100).index(everyone).load(UOp.const(-1.0, FLOAT), inside)
    result = launch(device, memory(0).index(everyone).store(value), zeros(), x[:100])
    np.testing.assert_array_equal(result, np.concatenate([x[:100], np.full(COUNT - 100, -1.0)]))
    stored = memory(0, 100).index(everyone).store(value, inside)
    np.testing.assert_array_equal(launch(device, stored, zeros(100), x[:100]), x[:100])


def test_a_loop_of_another_length_in_each_thread(device):
    step = UOp.range(local, id=0)
    total = register(0.0, step.src[0])
    held = total.after(step)
    added = held.index(0).load() + step.cast(FLOAT)
    done = total.after(held.index(0).store(added).end(step))
    result = launch(device, memory(0).index(everyone).store(done.index(0).load()), zeros())
    n = np.arange(COUNT) % THREADS
    np.testing.assert_array_equal(result, n * (n - 1) // 2)


# -- Mistakes ----------------------------------------------------------------------------------


def test_a_sum_without_barriers_is_a_race(device, x):
    with pytest.raises(
        DeviceFault,
        match=r"kernel 'kernel_\d+': race for element \d+ of the LOCAL buffer at byte 0: "
        r"thread \d+ of group 0 wrote it, thread \d+ of group 0 reads it, and no barrier",
    ):
        launch(device, summed_by_halves(memory(1), False), zeros(GROUPS), x)
    device.synchronize()  # the fault has been told


def test_no_trust_in_the_lockstep_of_a_warp(device):
    panel = shared().after(shared().index(local).store(local.cast(FLOAT)))
    neighbour = panel.index(local ^ 1).load()
    with pytest.raises(DeviceFault, match="thread 1 of group 0 wrote it, thread 0 of group 0 read"):
        launch(device, memory(0).index(everyone).store(neighbour), zeros())


def test_what_was_read_is_not_overwritten_before_a_barrier(device):
    met = barrier(shared().index(local).store(local.cast(FLOAT)))
    read = shared().after(met).index(local ^ 32).load()
    stored = memory(0).index(everyone).store(read)
    overwritten = shared().after(met).index(local).store(read + 1.0)
    with pytest.raises(DeviceFault, match="thread 32 of group 0 read it, thread 0 of group 0 writ"):
        launch(device, UOp.group(stored, overwritten), zeros())
    again = shared().after(barrier(stored)).index(local).store(read + 1.0)
    result = launch(device, UOp.group(stored, again), zeros())
    np.testing.assert_array_equal(result, np.arange(COUNT) % THREADS ^ 32)


def test_storing_the_same_is_no_race(device):
    same = shared().index(local // 2).store((local // 2).cast(FLOAT))
    read = shared().after(barrier(same)).index(local // 2).load()
    result = launch(device, memory(0).index(everyone).store(read), zeros())
    np.testing.assert_array_equal(result, np.arange(COUNT) % THREADS // 2)
    other = shared().index(local // 2).store(local.cast(FLOAT))
    read = shared().after(barrier(other)).index(local // 2).load()
    with pytest.raises(DeviceFault, match="writes another value to it"):
        launch(device, memory(0).index(everyone).store(read), zeros())


def test_elements_of_several_sizes_share_memory(device):
    """Bytes are what races are about: the two halves of an int32, each written as int16."""
    halves, whole = shared(2 * THREADS, dtypes.int16), shared(THREADS, dtypes.int32)
    stored = halves.index(local * 2 + 1).store(UOp.const(1, dtypes.int16))
    low = halves.index(local * 2).store(UOp.const(2, dtypes.int16))
    for offset, races in ((0, False), (1, True)):
        read = whole.after(stored, low).index((local + offset) % THREADS).load()
        effect = memory(0, COUNT, dtypes.int32).index(everyone).store(read)
        if races:
            with pytest.raises(DeviceFault, match="race for element"):
                launch(device, effect, zeros(dtype=np.int32))
        else:
            result = launch(device, effect, zeros(dtype=np.int32))
            np.testing.assert_array_equal(result, 1 << 16 | 2)


def test_a_barrier_that_some_threads_do_not_reach(device):
    step = UOp.range(local // 32 + 1, id=0)
    waits = barrier(shared().index(local).store(step.cast(FLOAT))).end(step)
    with pytest.raises(
        DeviceFault, match="thread 0 of group 0 has left the loop in which thread 32 waits"
    ):
        launch(device, waits)
    same = UOp.range(group + 1, id=0)  # all of a group make as many steps
    held = shared().after(barrier(shared().index(local).store(same.cast(FLOAT))).end(same))
    result = launch(device, memory(0).index(everyone).store(held.index(local ^ 1).load()), zeros())
    np.testing.assert_array_equal(result, np.arange(COUNT) // THREADS)


def test_a_shuffle_with_a_thread_that_has_left(device):
    step = UOp.range(local % 2 + 1, id=0)
    value = shuffle(step.cast(FLOAT), 1)
    effect = memory(0).index(everyone).store(value).end(step)
    with pytest.raises(DeviceFault, match="thread 1 of group 0 wants a value of thread 0"):
        launch(device, effect, zeros())


def test_threads_of_a_launch_that_store_different_values(device):
    effect = memory(0, GROUPS).index(group).store(local.cast(FLOAT))
    with pytest.raises(DeviceFault, match=r"race for element 0 of buffer 0: thread \d+ of group 0"):
        launch(device, effect, zeros(GROUPS))
    launch(device, memory(0, GROUPS).index(group).store(group.cast(FLOAT)), zeros(GROUPS))


@pytest.mark.parametrize("together", [THREADS, 1 << 16])
def test_reading_what_another_group_writes(device, monkeypatch, together):
    """Whichever group runs first."""
    monkeypatch.setattr(simt_threads, "_TOGETHER", together)
    for neighbour in ((group + 1) % GROUPS, (group + GROUPS - 1) % GROUPS):
        read = memory(0).index(neighbour * THREADS + local).load()
        with pytest.raises(DeviceFault, match=r"race for element \d+ of buffer 0.*nothing orders"):
            launch(device, memory(0).index(everyone).store(read + 1.0), zeros())
    own = memory(0).index(everyone).load()
    np.testing.assert_array_equal(
        launch(device, memory(0).index(everyone).store(own + 1.0), zeros()), 1
    )


def test_one_memory_as_two_arguments(device):
    """A race is one of memory, whatever the arguments are called."""
    read = memory(1, COUNT - 1).index((everyone + 1) % (COUNT - 1)).load()
    loaded, kernel = program(device, memory(0).index(everyone).store(read))
    whole = Buffer.from_numpy(device, zeros())
    part = whole.view(4, 4 * (COUNT - 1))
    device.queue.launch(loaded, (whole, part), (), (GROUPS,), (THREADS,))
    with pytest.raises(DeviceFault, match="race for element"):
        device.synchronize()


@pytest.mark.parametrize(
    ("effect", "message"),
    [
        (
            memory(0).index(everyone + 5).store(UOp.const(1.0, FLOAT)),
            "element 192 of buffer 0, which has 192, is out of bounds; thread 59 of group 2",
        ),
        (
            memory(0).index(everyone).store(shared().index(local - 1).load()),
            "element -1 of the LOCAL buffer at byte 0, which has 64, is out of bounds; thread 0 of",
        ),
    ],
)  # fmt: skip
def test_out_of_bounds(device, effect, message):
    with pytest.raises(DeviceFault, match=message):
        launch(device, effect, zeros())


def test_memory_that_nobody_wrote_is_no_zero(device):
    result = launch(device, memory(0).index(everyone).store(shared().index(local).load()), zeros())
    assert np.isnan(result).all()


# -- What the device refuses -------------------------------------------------------------------


def test_more_than_the_device_has(device):
    many = special("local", 2048)
    with pytest.raises(UnsupportedError, match="2048 threads of a workgroup; this device has 1024"):
        program(device, memory(0, 2048).index(many).store(many.cast(FLOAT)))
    with pytest.raises(UnsupportedError, match="bytes of LOCAL memory"):
        program(device, shared(1 << 14).index(local).store(local.cast(FLOAT)))
    across = memory(0).index(everyone).store(shuffle(local.cast(FLOAT), 32))
    with pytest.raises(UnsupportedError, match="SHUFFLE"):
        program(device, across)


def test_a_launch_of_another_shape(device):
    loaded, _ = program(device, memory(0).index(everyone).store(local.cast(FLOAT)))
    target = Buffer.from_numpy(device, zeros())
    device.queue.launch(loaded, (target,), (), (GROUPS,), (32,))
    with pytest.raises(DeviceError, match="3 groups of 32 threads; it is written for 3 groups of"):
        device.synchronize()


def test_nobody_gets_it_unasked():
    specs = manager().plugins.devices()
    assert [spec.name for spec in specs if spec.priority <= -1000] == ["SIMT"]
    assert specs[-1].name == "SIMT"
