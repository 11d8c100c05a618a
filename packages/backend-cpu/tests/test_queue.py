"""Commands one by one, in order, and in captured lists."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from cpu_kernels import integers, programs, read, zeros

from dovetile.errors import ArgumentError, DeviceError, DeviceFault
from dovetile.plugins import open_device
from dovetile.runtime import Buffer, Copy, Launch, SignalStore, SignalWait, Timestamp
from dovetile_cpu.device import CpuDevice
from dovetile_cpu.processor import RING_WORDS


def test_launches_run_in_order(device: CpuDevice) -> None:
    add, mix = programs(device, "add", "mix")
    buffer = zeros(device, 1)
    expected = 0
    for k in range(7):
        device.queue.launch(add, [buffer], [k])
        device.queue.launch(mix, [buffer])
        expected = (expected + k) * 3 + 1
    assert read(buffer) == [expected]


def test_negative_scalars(device: CpuDevice) -> None:
    (add,) = programs(device, "add")
    buffer = integers(device, [5])
    device.queue.launch(add, [buffer], [-12])
    assert read(buffer) == [-7]


@pytest.mark.parametrize("count", [1, 2, 3, 64, 1000])
def test_every_part_runs_exactly_once(device: CpuDevice, count: int) -> None:
    (parts,) = programs(device, "parts")
    source = integers(device, np.arange(count) * 10)
    out = zeros(device, count)
    for _ in range(50):
        device.queue.launch(parts, [out, source], groups=(count,))
        device.queue.launch(parts, [source, out], groups=(count,))
        device.queue.submit()
    assert read(source) == [i * 10 + i * 100 for i in range(count)]


def test_groups_of_several_axes_and_of_none(device: CpuDevice) -> None:
    (parts,) = programs(device, "parts")
    source, out = zeros(device, 12), zeros(device, 12)
    device.queue.launch(parts, [out, source], groups=(3, 4))
    assert read(out) == list(range(12))
    device.queue.launch(parts, [source, out], groups=(0,))
    assert read(source) == [0] * 12


def test_scratch_is_aligned_and_one_for_each_worker(device: CpuDevice) -> None:
    (scratch,) = programs(device, "scratch")
    out = zeros(device, 4000)
    device.queue.launch(scratch, [out], groups=(4000,))
    addresses = set(read(out))
    assert len(addresses) <= device.capabilities.threads
    assert all(address and address % 64 == 0 for address in addresses)


def test_more_commands_than_the_ring_holds(device: CpuDevice) -> None:
    (add,) = programs(device, "add")
    buffer = zeros(device, 1)
    count = RING_WORDS // 5 * 3
    for k in range(count):
        device.queue.launch(add, [buffer], [k])
        if k % 1000 == 0:
            device.queue.submit()
    assert read(buffer) == [sum(range(count))]


def test_a_command_too_large_for_the_ring(device: CpuDevice) -> None:
    (add,) = programs(device, "add")
    buffer = zeros(device, 1)
    with pytest.raises(ArgumentError, match="words"):
        device.queue.launch(add, [buffer], list(range(RING_WORDS)))
    device.queue.launch(add, [buffer], [1])
    assert read(buffer) == [1]


@pytest.mark.parametrize("nbytes", [0, 8, 4096, (1 << 20) * 3 + 24])
def test_copies(device: CpuDevice, nbytes: int) -> None:
    content = np.random.default_rng(1).integers(0, 256, nbytes, np.uint8)
    source = Buffer.from_numpy(device, content)
    target = Buffer(device, nbytes)
    device.queue.copy(target, source)
    np.testing.assert_array_equal(target.to_numpy(), content)


def test_copies_of_different_sizes_are_refused(device: CpuDevice) -> None:
    with pytest.raises(ArgumentError, match="sizes must be equal"):
        device.queue.copy(Buffer(device, 8), Buffer(device, 16))


def test_signals_are_set_after_earlier_commands(device: CpuDevice) -> None:
    (spin, add) = programs(device, "spin", "add")
    buffer, signal = zeros(device, 1), device.new_signal()
    device.queue.launch(spin, [], [2_000_000])
    device.queue.launch(add, [buffer], [3])
    device.queue.signal(signal, 7)
    device.queue.submit()
    signal.wait(7, timeout=30)  # without synchronize: submit must have started the work
    assert buffer.as_numpy()[0] == 3


def test_a_queue_waits_for_a_signal_of_the_host(device: CpuDevice) -> None:
    (add,) = programs(device, "add")
    buffer, signal = zeros(device, 1), device.new_signal()
    done = device.new_signal()
    device.queue.wait(signal, 2)
    device.queue.launch(add, [buffer], [1])
    device.queue.signal(done, 1)
    position = device.queue.submit()
    signal.value = 1
    time.sleep(0.02)
    assert done.value == 0 and not device.queue.is_complete(position)
    signal.value = 2
    device.synchronize()
    assert read(buffer) == [1] and done.value == 1


def test_queues_of_two_devices_order_each_other(device: CpuDevice) -> None:
    other = open_device("CPU:1")
    (add,), (mix,) = programs(device, "add"), programs(other, "mix")
    buffer = integers(device, [1])
    ping, pong = device.new_signal(), other.new_signal()
    value = 1
    for turn in range(1, 20):
        device.queue.wait(pong, turn - 1)
        device.queue.launch(add, [buffer], [turn])
        device.queue.signal(ping, turn)
        other.queue.wait(ping, turn)
        other.queue.launch(mix, [buffer])
        other.queue.signal(pong, turn)
        other.queue.submit()
        device.queue.submit()
        value = (value + turn) * 3 + 1
    other.synchronize()
    assert read(buffer) == [value]


def test_waiting_on_the_host_times_out(device: CpuDevice) -> None:
    signal = device.new_signal()
    with pytest.raises(DeviceError, match="is 0 after 0.06 s; 1 was awaited"):
        signal.wait(1, timeout=0.06)


def test_timestamps_measure_what_lies_between(device: CpuDevice) -> None:
    (spin,) = programs(device, "spin")
    begin, end = device.new_signal(), device.new_signal()
    before = time.monotonic_ns()
    device.queue.timestamp(begin)
    device.queue.launch(spin, [], [3_000_000])
    device.queue.timestamp(end)
    device.synchronize()
    after = time.monotonic_ns()
    assert before <= begin.value < end.value <= after
    assert end.value - begin.value > 100_000


# -- Faults ----------------------------------------------------------------------------------


def test_a_fault_names_its_kernel_and_the_queue_goes_on(device: CpuDevice) -> None:
    fail, add = programs(device, "fail", "add")
    buffer, signal = zeros(device, 1), device.new_signal()
    device.queue.launch(add, [buffer], [1])
    device.queue.launch(fail, [], [42])
    device.queue.launch(add, [buffer], [10])
    device.queue.signal(signal, 1)
    with pytest.raises(DeviceFault, match="kernel fail failed with status 42"):
        device.synchronize()
    assert signal.value == 1, "whoever waits for the signal must not hang"
    assert read(buffer) == [1], "what comes after a fault must not run"
    device.queue.launch(add, [buffer], [100])
    assert read(buffer) == [101]


def test_a_fault_in_one_of_many_parts(device: CpuDevice) -> None:
    (fail,) = programs(device, "fail")
    device.queue.launch(fail, [], [-3], groups=(100,))
    with pytest.raises(DeviceFault, match="status -3"):
        device.synchronize()
    device.synchronize()


# -- Captured lists --------------------------------------------------------------------------


def test_a_captured_list_runs_in_order_every_time(device: CpuDevice) -> None:
    add, mix = programs(device, "add", "mix")
    buffer = zeros(device, 1)
    commands = []
    for k in range(20):
        commands += [Launch(add, (buffer,), (k,)), Launch(mix, (buffer,))]
    captured = device.queue.capture(commands)
    assert read(buffer) == [0], "capturing runs nothing"
    value = 0
    for _ in range(3):
        captured.submit()
        device.queue.launch(add, [buffer], [-9])
        for k in range(20):
            value = (value + k) * 3 + 1
        value -= 9
    wrapped = (value + 2**63) % 2**64 - 2**63
    assert read(buffer) == [wrapped]


def test_captured_lists_hold_every_kind_of_command(device: CpuDevice) -> None:
    (parts,) = programs(device, "parts")
    source, out, copied = integers(device, range(50)), zeros(device, 50), zeros(device, 50)
    gate, done, begin, end = (device.new_signal() for _ in range(4))
    captured = device.queue.capture(
        [
            Timestamp(begin),
            SignalWait(gate, 1),
            Launch(parts, (out, source), groups=(5, 10)),
            Copy(copied, out),
            Timestamp(end),
            SignalStore(done, 5),
        ]
    )
    captured.submit()
    assert done.value == 0
    gate.value = 1
    done.wait(5, timeout=30)
    assert 0 < begin.value < end.value
    assert read(copied) == [2 * i for i in range(50)]


def test_patches_hold_from_their_replay_on_and_not_before(device: CpuDevice) -> None:
    add, spin = programs(device, "add", "spin")
    buffers = [zeros(device, 1) for _ in range(4)]
    captured = device.queue.capture(
        [Launch(spin, (), (1_000_000,)), Launch(add, (buffers[0],), (1,))]
    )
    buffer_slot, scalar_slot = captured.buffer_slot(1, 0), captured.scalar_slot(1, 0)
    # All of these are in flight at once: a patch must not reach into an earlier replay.
    captured.submit()
    captured.submit([(buffer_slot, buffers[1])])
    captured.submit([(buffer_slot, buffers[2]), (scalar_slot, 20)])
    captured.submit()
    captured.submit([(buffer_slot, buffers[0]), (scalar_slot, 300)])
    assert [read(buffer)[0] for buffer in buffers] == [301, 1, 40, 0]


def test_slots_that_do_not_exist(device: CpuDevice) -> None:
    (add,) = programs(device, "add")
    captured = device.queue.capture([Launch(add, (zeros(device, 1),), (1,))])
    with pytest.raises(ArgumentError, match="takes 1"):
        captured.buffer_slot(0, 1)
    with pytest.raises(ArgumentError, match="takes 1"):
        captured.scalar_slot(0, 1)


def test_a_captured_list_outlives_its_python_object_while_it_runs(device: CpuDevice) -> None:
    add, spin = programs(device, "add", "spin")
    buffer = zeros(device, 1)
    gate = device.new_signal()
    for _ in range(20):
        captured = device.queue.capture(
            [SignalWait(gate, 1), Launch(spin, (), (1000,)), Launch(add, (buffer,), (1,))]
        )
        captured.submit()
        del captured
    gate.value = 1
    assert read(buffer) == [20]


def test_an_empty_list(device: CpuDevice) -> None:
    device.queue.capture([]).submit()
    device.synchronize()


# -- Python threads --------------------------------------------------------------------------


def test_many_python_threads_submit_and_synchronize(device: CpuDevice) -> None:
    add, parts = programs(device, "add", "parts")
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            buffer, out = zeros(device, 1), zeros(device, 16)
            for k in range(200):
                device.queue.launch(add, [buffer], [seed])
                device.queue.launch(parts, [out, out], groups=(16,))
                if k % 10 == seed % 10:
                    device.queue.synchronize()
            assert read(buffer) == [200 * seed]
            assert read(out) == [200 * i for i in range(16)]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_more_patches_than_one_command_holds(device: CpuDevice) -> None:
    (add,) = programs(device, "add")
    first, second = zeros(device, 1), zeros(device, 1)
    count = 700
    captured = device.queue.capture([Launch(add, (first,), (1,))] * count)
    slots = [captured.buffer_slot(i, 0) for i in range(count)]
    for turn in range(100):  # goes round the ring several times
        captured.submit([(slot, (first, second)[turn % 2]) for slot in slots])
    assert read(first) == read(second) == [50 * count]
