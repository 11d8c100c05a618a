"""The life of the worker pool: threads, Ctrl-C, fork, exit."""

from __future__ import annotations

import ctypes
import re
import textwrap
from importlib import resources

import pytest
from cpu_kernels import programs, read, run_python, zeros

from dovetile.plugins import open_device
from dovetile_cpu import memory_map, native
from dovetile_cpu.device import CpuDevice
from dovetile_cpu.processor import Control

PRELUDE = """
import os, signal, sys, threading, time
from dovetile.errors import DeviceError, DeviceFault
from dovetile.plugins import open_device
from cpu_kernels import integers, programs, read, zeros
device = open_device("CPU")
add, parts, spin = programs(device, "add", "parts", "spin")
def threads():
    return len(os.listdir("/proc/self/task"))
others = threads()  # NumPy has some
"""


def run(code: str, **environment: str) -> str:
    result = run_python(PRELUDE + textwrap.dedent(code), **environment)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_python_and_the_native_code_agree_on_the_layout() -> None:
    text = resources.files("dovetile_cpu").joinpath("worker_pool.ll").read_text()
    struct = text.split("%Control = type {")[1].split("\n}")[0]
    fields = {name: int(index) for index, name in re.findall(r"; +(\d+) (\w+)", struct)}
    names = {name for name, _ in Control._fields_ if not name.startswith("padding")}
    assert set(fields) == names
    for index, (name, _) in enumerate(Control._fields_):
        assert fields.get(name, index) == index
    # Fields that different threads write lie on different cache lines.
    for one, other in (
        ("head", "requested"),
        ("unclaimed", "unfinished"),
        ("parts", "fault_status"),
    ):
        distance = getattr(Control, other).offset - getattr(Control, one).offset
        assert distance >= 96


def test_single_parts_start_no_thread() -> None:
    run(
        """
        buffer = zeros(device, 1)
        for _ in range(100):
            device.queue.launch(add, [buffer], [1])
        assert read(buffer) == [100]
        assert threads() == others
        """
    )


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_number_of_threads_is_chosen_by_the_environment(count: int) -> None:
    run(
        f"""
        assert device.capabilities.threads == {count}
        source, out = zeros(device, 999), zeros(device, 999)
        for _ in range(100):
            device.queue.launch(parts, [out, source], groups=(999,))
        assert read(out) == list(range(999))
        time.sleep(0.1)
        assert threads() == others + {count}
        """,
        DOVETILE_THREADS=str(count),
    )


def test_work_that_nobody_waits_for_is_done() -> None:
    run(
        """
        buffer = zeros(device, 64)
        view = buffer.as_numpy()
        device.queue.launch(parts, [buffer, buffer], groups=(64,))
        device.queue.submit()
        limit = time.monotonic() + 10
        while view[63] != 63 and time.monotonic() < limit:
            time.sleep(0.001)
        assert view.tolist() == list(range(64))
        """
    )


def test_idle_threads_use_no_processor_time() -> None:
    run(
        """
        source, out = zeros(device, 64), zeros(device, 64)
        device.queue.launch(parts, [out, source], groups=(64,))
        device.synchronize()
        time.sleep(0.05)
        before = time.process_time()
        time.sleep(0.3)
        assert time.process_time() - before < 0.05
        """
    )


def test_ctrl_c_ends_waiting_for_a_signal() -> None:
    output = run(
        """
        never = device.new_signal()
        device.queue.wait(never, 1)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        try:
            device.synchronize()
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - start < 5)
        never.value = 1
        buffer = zeros(device, 1)
        device.queue.launch(add, [buffer], [3])
        print(read(buffer))
        """
    )
    assert output.split("\n")[:2] == ["interrupted True", "[3]"]


def test_ctrl_c_ends_waiting_for_long_work() -> None:
    output = run(
        """
        for _ in range(2000):
            device.queue.launch(spin, [], [10_000_000])
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        start = time.monotonic()
        try:
            device.synchronize()
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - start < 3)
        sys.stdout.flush()
        os._exit(0)
        """
    )
    assert output == "interrupted True\n"


def test_a_forked_child_computes() -> None:
    output = run(
        """
        source, out = zeros(device, 64), zeros(device, 64)
        device.queue.launch(parts, [out, source], groups=(64,))
        device.queue.submit()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            for _ in range(50):
                device.queue.launch(parts, [source, out], groups=(64,))
            assert read(source) == [2 * i for i in range(64)]
            assert threads() > 1
            os._exit(7)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
        device.queue.launch(add, [out], [5])
        print(read(out)[:2], read(source)[:2])
        """
    )
    assert output == "7\n[5, 1] [0, 0]\n"


def test_a_child_forked_while_commands_wait_gets_a_clear_error() -> None:
    output = run(
        """
        from dovetile_cpu import processor
        processor._FORK_PATIENCE = 0.2
        never = device.new_signal()
        device.queue.wait(never, 1)
        device.queue.submit()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            try:
                device.synchronize()
            except DeviceError as error:
                os._exit(7 if "synchronize before forking" in str(error) else 1)
            os._exit(2)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status))
        never.value = 1
        device.synchronize()
        """
    )
    assert output == "7\n"


@pytest.mark.parametrize(
    "pending",
    [
        "device.queue.launch(parts, [out, out], groups=(64,)); device.queue.submit()",
        "device.queue.launch(spin, [], [300_000_000], groups=(2,)); device.queue.submit()",
        "device.queue.wait(device.new_signal(), 1); device.queue.submit()",
        "device.queue.launch(add, [out], [1])",
        "threading.Thread(target=device.synchronize, daemon=True).start()",
    ],
)
def test_the_interpreter_exits_with_work_pending(pending: str) -> None:
    run(f"out = zeros(device, 64)\n{pending}")


def test_work_after_the_threads_have_stopped() -> None:
    # Other exit handlers may still compute: those registered earlier run after ours.
    output = run_python(
        "import atexit\n"
        "@atexit.register\n"
        "def late():\n"
        "    device.queue.launch(parts, [out, out], groups=(64,))\n"
        "    print(read(out)[63])\n" + PRELUDE + "out = zeros(device, 64)\n"
        "device.queue.launch(parts, [out, out], groups=(64,))\n"
        "device.synchronize()\n"
    )
    assert output.stdout == "126\n", output.stderr


def test_the_portable_sleep_works_without_futexes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other systems than Linux use."""
    monkeypatch.setattr(native.sys, "platform", "other")
    assert "@usleep" in native.source() and "@syscall" not in native.source()
    output = run_python(
        "from dovetile_cpu import native\n"
        "class sys:\n    platform = 'other'\n"
        "native.sys = sys\n" + PRELUDE + "source, out = zeros(device, 500), zeros(device, 500)\n"
        "for _ in range(200):\n"
        "    device.queue.launch(parts, [out, source], groups=(500,))\n"
        "    device.queue.submit()\n"
        "    time.sleep(0.0001)\n"
        "assert read(out) == list(range(500))\n"
        "print('done')\n"
    )
    assert output.stdout == "done\n", output.stderr


def test_devices_of_one_index_share_their_queue(device: CpuDevice) -> None:
    other = open_device("CPU:1")
    assert isinstance(other, CpuDevice)
    assert other.queue is not device.queue
    assert open_device("CPU:LLVM").queue is device.queue


def test_memory_that_the_system_refuses() -> None:
    with pytest.raises(MemoryError, match="the system refused"):
        memory_map.map_memory(1 << 60)


def test_control_starts_on_a_page(device: CpuDevice) -> None:
    assert device.queue.processor.address % memory_map.PAGE == 0
    assert ctypes.sizeof(Control) <= memory_map.PAGE
    (add,) = programs(device, "add")
    buffer = zeros(device, 1)
    device.queue.launch(add, [buffer], [1])
    assert read(buffer) == [1]
