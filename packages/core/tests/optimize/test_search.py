"""The search: finds what is faster, believes nothing, and survives what candidates do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import loop_kernels as kernels
import numpy as np
import pytest

from dovetile import cache, environment
from dovetile.ir.ops import AxisKind
from dovetile.lower import lower
from dovetile.optimize import optimize
from dovetile.optimize import search as module
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import Bind, OptError, Split, apply_opts
from dovetile.optimize.search import search
from dovetile.optimize.worker import Bench, Build, Built, Refused, Task, numbers, same
from dovetile.optimize.worker_pool import Worker, WorkerPool
from dovetile.runtime import Device, get_device

# Adds a compiler to a device: the same as its first one, but for sources longer than the variable
# BROKEN_LENGTH says, as those with copies of the body are.
BROKEN = """
from __future__ import annotations
import os, sys, time
from dovetile.plugins import *
DOVETILE_PLUGIN_API = PLUGIN_API

class Compiler:
    def __init__(self, capabilities, first):
        self.inner = first.compiler(capabilities)
        self.language = self.inner.language
    def available(self): return None
    def fingerprint(self): return "broken"
    def compile(self, source):
        if len(source) > int(os.environ["BROKEN_LENGTH"]):
            {how}
        return self.inner.compile(source)

def first():
    return registry().compilers("{device}")[0]

@hookimpl
def dovetile_compilers():
    return [CompilerSpec(
        "BROKEN", "{device}", "{language}", lambda c: Compiler(c, first()),
        lambda c: first().renderer(c),
    )]
"""


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(module, "_MOST_CANDIDATES", 10)
    monkeypatch.setattr(module, "_MOST_ROUNDS", 2)
    monkeypatch.setattr(module, "_found", {})
    yield


@pytest.fixture
def workers() -> Iterator[WorkerPool]:
    pool = WorkerPool(2)
    yield pool
    pool.close()


def seconds(device: Device, case: kernels.Case, opts: Any) -> float:
    bench = Bench(Task(case.kernel, device.name, "kernel"))
    return bench.measure(bench.build(tuple(opts)), float("inf"), 40)


def test_result_is_right_and_not_slower(device: Device):
    case = kernels.matmul(48, 64, 40)
    start = heuristic(case.kernel, device.capabilities)
    opts = search(case.kernel, start, device, 1, "kernel")
    case.run_on(device, apply_opts(case.kernel, opts))
    # Twice the time would be noise of a busy machine; more would be a wrong choice.
    assert seconds(device, case, opts) <= 2 * seconds(device, case, start)


def test_improves_on_a_bad_start(device: Device):
    case = kernels.matmul(64, 64, 64)
    opts = search(case.kernel, (), device, 2, "kernel")
    assert seconds(device, case, opts) < 0.7 * seconds(device, case, ())


@pytest.fixture
def workgroups() -> Device:
    """A device of workgroups, emulated."""
    pytest.importorskip("dovetile_testing")
    return get_device("SIMT")


def test_finds_threads_and_workgroups(workgroups: Device, monkeypatch: pytest.MonkeyPatch):
    case = kernels.elementwise(16, 40)
    opts = search(case.kernel, (), workgroups, 1, "kernel")
    kinds = {o.kind for o in opts if isinstance(o, Bind)}
    assert kinds & {AxisKind.GROUP, AxisKind.LOCAL}
    case.run_on(workgroups, apply_opts(case.kernel, opts))
    monkeypatch.setattr(module, "pool", lambda: pytest.fail("searched again"))
    module._found.clear()
    assert search(case.kernel, (), workgroups, 1, "kernel") == opts


def test_what_one_thread_takes_long_for_is_compared_with_the_heuristics(
    workgroups: Device, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "_MOST_STEPS", 8 * workgroups.capabilities.group_threads)
    tasks: list[Task] = []
    monkeypatch.setattr(module, "_Search", lambda task, *rest: tasks.append(task) or Nothing())
    for case in (kernels.elementwise(1, 3), kernels.elementwise(17, 40)):
        start = heuristic(case.kernel, workgroups.capabilities)
        assert search(case.kernel, start, workgroups, 1, "kernel") == tuple(start)
    assert [task.reference for task in tasks] == [(), tuple(start)]


class Nothing:
    """A search that finds nothing."""

    def run(self) -> None:
        return None


def test_is_remembered_on_disk(device: Device, monkeypatch: pytest.MonkeyPatch):
    case = kernels.row_sums(30, 70)
    start = heuristic(case.kernel, device.capabilities)
    found = search(case.kernel, start, device, 1, "kernel")

    def fails() -> None:
        raise AssertionError("searched again")

    monkeypatch.setattr(module, "pool", fails)
    assert search(case.kernel, start, device, 1, "kernel") == found
    module._found.clear()
    assert search(case.kernel, start, device, 1, "kernel") == found
    with pytest.raises(AssertionError):
        search(case.kernel, start, device, 3, "kernel")  # another width is another search


@pytest.mark.parametrize("content", [b"", b"[]x", b'[["Split", {"axis": 99, "size": 2}]]', b"{}"])
def test_damaged_entries_are_searched_again(device: Device, content: bytes):
    case = kernels.total(50)
    cache.put("beam", module._key(case.kernel, device, 1), {}, content)
    opts = search(case.kernel, (), device, 1, "kernel")
    case.run_on(device, apply_opts(case.kernel, opts))


def test_keys_name_everything(device: Device):
    def other(**changes: Any) -> Any:
        values = {
            "name": device.name, "capabilities": device.capabilities, "compiler": device.compiler
        }  # fmt: skip
        return SimpleNamespace(**{**values, **changes})

    case, another = kernels.total(50), kernels.total(51)
    compiler = SimpleNamespace(fingerprint=lambda: "another")
    capabilities = replace(device.capabilities, architecture="another")
    keys = [
        module._key(case.kernel, device, 1),
        module._key(case.kernel, device, 2),
        module._key(another.kernel, device, 1),
        module._key(case.kernel, other(name="ANOTHER"), 1),
        module._key(case.kernel, other(compiler=compiler), 1),
        module._key(case.kernel, other(capabilities=capabilities), 1),
    ]
    assert len(set(keys)) == len(keys)


def test_beam_turns_the_search_on(device: Device, monkeypatch: pytest.MonkeyPatch):
    asked = []

    def record(kernel, start, device, width, name):
        asked.append(width)
        return (Split(0, 2),)

    monkeypatch.setattr(module, "search", record)
    kernel = kernels.elementwise(8, 8).kernel
    optimize(kernel, device.capabilities, "kernel", device)
    assert asked == []
    with environment.context(BEAM=3):
        optimize(kernel, device.capabilities, "kernel")
        assert asked == []
        assert optimize(kernel, device.capabilities, "kernel", device) is Split(0, 2).apply(kernel)
    assert asked == [3]


# -- Candidates that misbehave -----------------------------------------------------------------


def broken(
    device: Device, how: str, folder: Path, monkeypatch: pytest.MonkeyPatch, case: kernels.Case
) -> Any:
    """The device with a compiler that misbehaves for some candidates, but not for the kernel as it
    is."""
    name = device.name.split(":")[0]
    text = BROKEN.format(how=how, device=name, language=device.compiler.language)
    (folder / "dovetile_broken.py").write_text(text, encoding="utf-8")
    info = folder / "dovetile_broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dovetile-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dovetile]\nbroken = dovetile_broken\n")
    monkeypatch.syspath_prepend(str(folder))
    assert metadata.version("dovetile-broken") == "1.0"
    source = device.renderer.render(lower(case.kernel, device.capabilities, "kernel"))
    monkeypatch.setenv("BROKEN_LENGTH", str(len(source) * 5 // 4))
    compiler = SimpleNamespace(fingerprint=lambda: f"broken {how}")
    return SimpleNamespace(
        name=f"{name}:BROKEN", capabilities=device.capabilities, compiler=compiler
    )


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("os.abort()", "its process ended with status"),
        ("time.sleep(1000)", "its process ended with status"),
        ("while True: pass", "its process ended with status"),
        ("sys.exit(3)", "its process ended with status"),
        ("raise ValueError('bad source')", "bad source"),
        ("return b'no code'", ""),
        ("print('noise')", None),
    ],
)
def test_search_goes_on(
    device: Device, how: str, reason: str | None, tmp_path: Path, workers: WorkerPool,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
):  # fmt: skip
    case = kernels.elementwise(30, 30)
    monkeypatch.setattr(module, "_BUILD_SECONDS", 2.0)
    monkeypatch.setattr(module, "_MOST_CANDIDATES", 6)
    monkeypatch.setattr(module, "_MOST_ROUNDS", 1)
    monkeypatch.setattr(module, "pool", lambda: workers)
    stand_in = broken(device, how, tmp_path, monkeypatch, case)
    with environment.context(DEBUG=3):
        opts = search(case.kernel, (), stand_in, 1, "kernel")
    notes = capfd.readouterr().err
    assert "won" in notes, notes
    lost = [n for n in notes.splitlines() if "refused" in n or "dropped" in n]
    assert (reason is None) == (lost == []), notes
    assert all(reason in n or "Error" in n for n in lost if reason)
    assert not reason or any(reason in n for n in lost), notes
    case.run_on(device, apply_opts(case.kernel, opts))


def test_heuristics_decide_where_nothing_can_be_measured(
    device: Device, workers: WorkerPool, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
):  # fmt: skip
    monkeypatch.setattr(module, "pool", lambda: workers)
    nowhere = SimpleNamespace(
        name="NOWHERE", capabilities=device.capabilities, compiler=device.compiler
    )
    start = (Split(0, 2),)
    with environment.context(DEBUG=1):
        assert search(kernels.elementwise(4, 4).kernel, start, nowhere, 1, "kernel") == start  # type: ignore[arg-type]
    assert "no search: DeviceError" in capfd.readouterr().err


def test_processes_that_cannot_start_are_no_error(
    device: Device, workers: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "pool", lambda: workers)
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    kernel = kernels.elementwise(4, 4).kernel
    assert search(kernel, (Split(0, 2),), device, 1, "kernel") == (Split(0, 2),)


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_interruption_ends_the_workers(
    device: Device, tmp_path: Path, workers: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    case = kernels.elementwise(30, 30)
    stand_in = broken(device, "time.sleep(1000)", tmp_path, monkeypatch, case)
    task = Task(case.kernel, stand_in.name, "kernel")
    assert isinstance(workers.ask_first(Build(task, ()), 30.0), Built)
    monkeypatch.setenv("BROKEN_LENGTH", "0")
    workers.close()
    started = time.monotonic()
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        workers.ask_all([Build(task, ())] * 5, 300.0)
    assert time.monotonic() - started < 20
    assert all(w._process is None for w in workers.workers)
    monkeypatch.setenv("BROKEN_LENGTH", "1000000")
    assert isinstance(workers.ask_first(Build(task, ()), 30.0), Built)


@pytest.mark.skipif(os.name != "posix", reason="sends a POSIX signal")
def test_interruption_while_workers_start(
    device: Device, tmp_path: Path, workers: WorkerPool, monkeypatch: pytest.MonkeyPatch
):
    case = kernels.elementwise(30, 30)
    stand_in = broken(device, "time.sleep(1000)", tmp_path, monkeypatch, case)
    monkeypatch.setenv("BROKEN_LENGTH", "0")
    start = Worker._start

    def slow(worker: Worker):
        time.sleep(1.0)
        return start(worker)

    monkeypatch.setattr(Worker, "_start", slow)
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        workers.ask_all([Build(Task(case.kernel, stand_in.name, "kernel"), ())] * 5, 300.0)
    assert time.monotonic() - started < 20
    assert all(w._process is None for w in workers.workers)


# -- The bench itself --------------------------------------------------------------------------


def test_wrong_results_are_refused(device: Device):
    right = kernels.row_sums(8, 8)
    bench = Bench(Task(right.kernel, device.name, "kernel"))
    assert bench.measure(bench.build([Bind(1, AxisKind.UNROLL)]), 1.0, 2) > 0
    other = Bench(Task(kernels.column_maxima(8, 8).kernel, device.name, "kernel"))
    with pytest.raises(OptError, match="other content than the reference"):
        bench.measure(other.build(()), 1.0, 2)


def test_accumulation_starts_afresh_each_time(device: Device):
    bench = Bench(Task(kernels.accumulated(20).kernel, device.name, "kernel"))
    for _ in range(3):
        assert bench.measure(bench.build([Bind(0, AxisKind.UNROLL)]), 1.0, 3) > 0


def test_too_many_copies_are_refused(device: Device):
    bench = Bench(Task(kernels.elementwise(2000).kernel, device.name, "kernel"))
    with pytest.raises(OptError, match="2000 copies"):
        bench.build([Bind(0, AxisKind.UNROLL)])


def test_workers_answer_refused_for_what_raises(device: Device, workers: WorkerPool):
    task = Task(kernels.elementwise(8).kernel, device.name, "kernel")
    answers = workers.ask_all([Build(task, ()), Build(task, (Split(5, 2),))], 30.0)
    assert isinstance(answers[0], Built)
    assert isinstance(answers[1], Refused) and "no axis 5" in answers[1].reason


def test_comparison():
    x = np.array([1.0, np.nan, np.inf, -2.0], np.float32)
    assert same(x, x)
    assert same(x + np.float32(1e-6), x)
    assert not same(x * np.float32(1.01), x)
    assert not same(np.array([1.0, 0.0, np.inf, -2.0], np.float32), x)
    assert not same(np.array([1, 2]), np.array([1, 3]))


def test_numbers_are_reproducible_and_small():
    from dovetile import dtypes

    for dtype in dtypes.TENSOR_DTYPES:
        first, second = (numbers(np.random.default_rng(0), dtype, 100) for _ in range(2))
        np.testing.assert_array_equal(first, second)
        assert first.size == 100 and first.dtype == dtypes.to_numpy(dtype)
        assert np.abs(first.astype(np.float64)).max() < 32
