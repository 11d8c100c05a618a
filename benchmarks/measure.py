"""Side-by-side timing: every contender is its own process, and they take turns.

All but the process whose turn it is are stopped, so that no library's waiting threads take time
from another; the order is reversed from round to round. All values are checked against float64.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import selectors
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import contenders
import numpy
from contenders import Contender
from rows import Row

_WORKER = Path(__file__).with_name("worker.py")
_LONGEST = 900.0  # seconds that a contender may take for an answer


class Absent(Exception):
    """This contender has no result, and why."""


class Process:
    """A contender's process for one row; exists within `with`."""

    def __init__(self, contender: Contender, row: Row, caches: Path | None = None) -> None:
        if not contender.installed:
            raise Absent("not installed")
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [sys.executable, str(_WORKER), contender.name, row.name],
            env=contender.environment(caches),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
        )

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def answer(self) -> dict[str, Any]:
        """Its next answer. Raises Absent with its last words where there is none."""
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(_LONGEST):
                raise Absent(f"no answer in {_LONGEST:.0f} s")
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            words = self.errors.read().decode(errors="replace").strip().splitlines()
            raise Absent(words[-1] if words else f"ended with {self.process.returncode}")
        content = json.loads(line)
        if "skipped" in content:
            raise Absent(content["skipped"])
        return content

    def turn(self, seconds: float) -> dict[str, Any]:
        """Times of calls for so long, all other processes being stopped."""
        assert self.process.stdin is not None
        self.process.send_signal(signal.SIGCONT)
        self.process.stdin.write(f"{seconds}\n".encode())
        self.process.stdin.flush()
        content = self.answer()
        self.pause()
        return content

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)


@dataclass
class Protocol:
    """How long to measure, and what to hold meanwhile.

    Args:
        rounds: turns of each contender; half of them, two at least, where a round takes longer than
            `longest`.
        seconds: of one turn, which has at least one call.
        longest: seconds of a round, for each contender that takes part in it.
        starts: new processes of a row that measures those.
        lock: a file to hold while timing, so that runs beside this one wait.
    """

    rounds: int = 6
    seconds: float = 0.4
    longest: float = 1.5
    starts: int = 3
    lock: Path | None = None
    caches: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="dovetile-benchmark-")
    )

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else who holds the same lock measures."""
        if self.lock is None:
            yield
            return
        with self.lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


@dataclass
class Figures:
    """What was measured of one row.

    Args:
        seconds: of a call, by contender: medians.
        difference: from float64, relative to the largest value, by contender.
        nbytes: the most memory of the process, by contender.
        limit: the machine's limit in the row's unit.
        absent: why a contender has no figure.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    difference: dict[str, float] = field(default_factory=dict)
    nbytes: dict[str, int] = field(default_factory=dict)
    limit: float | None = None
    absent: dict[str, str] = field(default_factory=dict)


def measure(row: Row, names: list[str], protocol: Protocol) -> Figures:
    """The row with these contenders, those that cannot take part being noted."""
    figures = Figures()
    chosen = [
        contenders.CONTENDERS[name]
        for name in names
        if not row.contenders or name == "dovetile" or name in row.contenders
    ]
    reference = _reference(row, figures)
    if row.start:
        for contender in chosen:
            with _noting(contender, figures):
                _measure_start(contender, row, protocol, figures, reference)
    elif row.large:
        for contender in chosen:
            _take_turns([contender], row, protocol, figures, reference)
    else:
        _take_turns(chosen, row, protocol, figures, reference)
    return figures


@contextlib.contextmanager
def _noting(contender: Contender, figures: Figures) -> Iterator[None]:
    try:
        yield
    except Absent as reason:
        figures.absent[contender.name] = str(reason)


def _reference(row: Row, figures: Figures) -> numpy.ndarray | None:
    try:
        with Process(contenders.REFERENCE, row) as process:
            return numpy.asarray(process.answer()["values"])
    except Absent as reason:
        figures.absent["float64"] = str(reason)
        return None


def _check(
    contender: Contender, row: Row, first: dict[str, Any], expected: numpy.ndarray | None,
    figures: Figures,
) -> None:  # fmt: skip
    """A speed is worth nothing where the result is wrong."""
    if expected is None:
        return
    values = numpy.asarray(first["values"])
    if values.shape != expected.shape:
        raise Absent(f"{values.size} values instead of {expected.size}")
    difference = float(numpy.abs(values - expected).max() / numpy.abs(expected).max())
    if not difference <= row.tolerance:
        raise Absent(f"wrong: differs from float64 by {difference:.1e}")
    figures.difference[contender.name] = difference


def _take_turns(
    chosen: list[Contender], row: Row, protocol: Protocol, figures: Figures,
    reference: numpy.ndarray | None,
) -> None:  # fmt: skip
    times: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        processes: dict[str, Process] = {}
        for contender in chosen:
            with _noting(contender, figures):
                process = stack.enter_context(Process(contender, row))
                _check(contender, row, process.answer(), reference, figures)
                process.turn(protocol.seconds)  # warms up; a captured function is captured
                processes[contender.name] = process
        if row.limit and figures.limit is None:
            with _noting(contenders.LIMIT, figures):
                process = stack.enter_context(Process(contenders.LIMIT, row))
                process.answer()
                process.pause()
                processes[contenders.LIMIT.name] = process
        order = list(processes)
        for number in range(protocol.rounds):
            with protocol.alone():
                began = time.monotonic()
                for name in order:
                    content = processes[name].turn(protocol.seconds)
                    times.setdefault(name, []).extend(content["seconds"])
                    figures.nbytes[name] = content["bytes"]
            order.reverse()
            slow = time.monotonic() - began > protocol.longest * len(order)
            if slow and number + 1 >= max(2, protocol.rounds / 2):
                break
    medians = {name: statistics.median(values) for name, values in times.items()}
    if contenders.LIMIT.name in medians:
        figures.limit = row.work / medians.pop(contenders.LIMIT.name)
        figures.nbytes.pop(contenders.LIMIT.name)
    figures.seconds.update(medians)


def _measure_start(
    contender: Contender, row: Row, protocol: Protocol, figures: Figures,
    reference: numpy.ndarray | None,
) -> None:  # fmt: skip
    """New processes' first calls; each has its caches empty, or filled by one before."""
    folder = Path(protocol.caches.name) / f"{contender.name}-{row.case}"
    times = []
    for number in range(protocol.starts):
        if row.start == "cold":
            shutil.rmtree(folder, ignore_errors=True)
        elif number == 0 and not folder.exists():
            with Process(contender, row, folder) as process:
                process.answer()
        folder.mkdir(parents=True, exist_ok=True)
        with protocol.alone(), Process(contender, row, folder) as process:
            first = process.answer()
        _check(contender, row, first, reference, figures)
        times.append(first["first"])
    figures.seconds[contender.name] = statistics.median(times)


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    os.chmod(temporary, 0o644)
    os.replace(temporary, path)
