"""Beam search: the best Opts for a kernel by measuring candidates on the device.

Two schedules start, that of the heuristics and none at all. In every round each survivor is
extended and varied; worker processes compile all candidates, then one of them runs them, one at a
time. Results must be those of the kernel without Opts, or of the heuristics where that would take
too long. The best `width` candidates survive; the search ends when a round brings no gain, or after
a minute. What it found is kept on disk.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dovetile
from dovetile import cache
from dovetile.errors import DovetileError
from dovetile.ir.uop import UOp, toposort
from dovetile.optimize.actions import extensions, variations
from dovetile.optimize.analysis import extent
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.opts import Opt, apply_opts, describe
from dovetile.optimize.opts_json import from_json, to_json
from dovetile.optimize.worker import Build, Built, Measure, Reference, Refused, Task
from dovetile.optimize.worker_pool import WorkerPool, pool

if TYPE_CHECKING:
    from dovetile.runtime import Device

Opts = tuple[Opt, ...]
_NAMESPACE = "beam"
_VERSION = 2  # of the search and of the Opts' meaning; part of every key
_MOST_ROUNDS = 16
_MOST_CANDIDATES = 40  # per round and survivor
_LEAST_GAIN = 0.98
_SEARCH_SECONDS = 60.0  # the round in which they pass is the last
# Steps of loops that a kernel without Opts may have to be run at all, by one thread of a CPU. One
# of a workgroup is the slower the more of them there are.
_MOST_STEPS = 1 << 30
_BUILD_SECONDS = 20.0
_RUN_SECONDS = 10.0
_REFERENCE_SECONDS = 60.0
# Measured again, more often, before one of them wins.
_FINALISTS = 3
_FINAL_RUNS = 40

_found: dict[str, Opts] = {}


def search(kernel: UOp, start: Sequence[Opt], device: Device, width: int, name: str) -> Opts:
    """The fastest Opts found for a canonical kernel on a device.

    start: the Opts of the heuristics, which are also what comes back where nothing can be measured.
    width: how many candidates survive a round.
    """
    key = _key(kernel, device, width)
    opts = _found.get(key)
    if opts is None:
        opts = _stored(key, kernel)
    if opts is None:
        task = Task(kernel, device.name, name, () if _short(kernel, device) else tuple(start))
        found = _Search(task, tuple(start), device, width, pool()).run()
        if found is None:
            return tuple(start)
        opts = found.opts
        header = {"name": name, "seconds": found.seconds}
        cache.put(_NAMESPACE, key, header, json.dumps(to_json(opts)).encode())
    _found[key] = opts
    return opts


def _key(kernel: UOp, device: Device, width: int) -> str:
    from dovetile.schedule.keys import digest

    return digest(
        kernel,
        dovetile.__version__,
        _VERSION,
        device.name,
        device.capabilities.architecture,
        device.capabilities.threads,
        device.compiler.fingerprint(),
        width,
    )


def _stored(key: str, kernel: UOp) -> Opts | None:
    """The Opts in the cache on disk, where they are there and still mean something."""
    entry = cache.get(_NAMESPACE, key)
    if entry is None:
        return None
    try:
        opts = tuple(from_json(json.loads(entry[1])))
        return opts if prove(apply_opts(kernel, opts)) is None else None
    except (DovetileError, ValueError):
        return None


@dataclass(frozen=True)
class Candidate:
    opts: Opts
    built: Built
    seconds: float


class _Search:
    """One search."""

    def __init__(
        self, task: Task, start: Opts, device: Device, width: int, workers: WorkerPool
    ) -> None:
        self.task = task
        self.start = start
        self.capabilities = device.capabilities
        self.width = width
        self.workers = workers
        self.tried: set[Opts] = set()
        self.binaries: set[bytes] = set()
        self.measured: list[Candidate] = []

    def run(self) -> Candidate | None:
        """The best candidate, or None where not even the kernel as it came can be measured."""
        reason = prove(self.task.kernel)
        seconds: float | Refused = Refused(reason or "")
        if reason is None:
            seconds = self.workers.ask_first(Reference(self.task), _REFERENCE_SECONDS)
        if isinstance(seconds, Refused):
            _note(1, f"{self.task.name}: no search: {seconds.reason}")
            return None
        self.run_seconds = _RUN_SECONDS + 4 * seconds  # a fresh worker needs the reference again
        beam = self._round(list(dict.fromkeys([self.start, self.task.reference])))
        if not beam:
            return None
        first = next((c for c in beam if c.opts == self.start), None)
        end = time.monotonic() + _SEARCH_SECONDS
        for number in range(_MOST_ROUNDS):
            best = beam[0].seconds
            candidates = [opts for c in beam for opts in self._next(c.opts)]
            beam = sorted([*beam, *self._round(candidates)], key=_seconds)[: self.width]
            _note(
                2,
                f"{self.task.name}: round {number + 1}, {len(candidates)} candidates, best "
                f"{beam[0].seconds * 1e6:.1f} us: {describe(beam[0].opts)}",
            )
            if beam[0].seconds > best * _LEAST_GAIN or time.monotonic() > end:
                break
        return self._final(first)

    def _next(self, opts: Opts) -> list[Opts]:
        """Candidates that follow from one survivor, at most so many, evenly out of all kinds."""
        kernel = apply_opts(self.task.kernel, opts)
        new = [(*opts, *more) for more in extensions(kernel, self.capabilities)]
        found = [o for o in dict.fromkeys([*variations(opts), *new]) if o not in self.tried]
        step = max(len(found) / _MOST_CANDIDATES, 1.0)
        return [found[int(i * step)] for i in range(int(len(found) / step))]

    def _round(self, candidates: Sequence[Opts]) -> list[Candidate]:
        """Builds all, measures those that are new code; fastest first."""
        new = [c for c in dict.fromkeys(candidates) if c not in self.tried]
        self.tried.update(new)
        answers = self.workers.ask_all([Build(self.task, c) for c in new], _BUILD_SECONDS)
        measured = []
        for opts, built in zip(new, answers):
            if isinstance(built, Refused):
                _note(3, f"  refused {describe(opts)}: {built.reason}")
            elif built.binary not in self.binaries:
                self.binaries.add(built.binary)
                seconds = self._measure(opts, built)
                if seconds is not None:
                    measured.append(Candidate(opts, built, seconds))
        self.measured += measured
        return sorted(measured, key=_seconds)

    def _measure(self, opts: Opts, built: Built, runs: int = 10) -> float | None:
        best = min((c.seconds for c in self.measured), default=float("inf"))
        request = Measure(self.task, built, best, runs)
        seconds = self.workers.ask_first(request, self.run_seconds)
        if isinstance(seconds, Refused):
            _note(2, f"  dropped {describe(opts)}: {seconds.reason}")
            return None
        _note(3, f"  {seconds * 1e6:9.1f} us {describe(opts)}")
        return seconds

    def _final(self, first: Candidate | None) -> Candidate | None:
        """The best of the best when measured longer; the heuristics' own Opts win a draw."""
        best = sorted(self.measured, key=_seconds)[:_FINALISTS]
        if first is not None and first not in best:
            best.append(first)
        again = []
        for c in best:
            seconds = self._measure(c.opts, c.built, _FINAL_RUNS)
            if seconds is not None:
                again.append(Candidate(c.opts, c.built, seconds))
        winner = min(again, key=_seconds, default=None)
        heuristics = next((c for c in again if c.opts == self.start), None)
        if winner is None:
            return None
        if heuristics is not None and winner.seconds > heuristics.seconds * _LEAST_GAIN:
            winner = heuristics
        before = f" (heuristics: {heuristics.seconds * 1e6:.1f} us)" if heuristics else ""
        _note(
            2,
            f"{self.task.name}: {len(self.tried)} candidates, won {winner.seconds * 1e6:.1f} us"
            f"{before}: {describe(winner.opts)}",
        )
        return winner


def _short(kernel: UOp, device: Device) -> bool:
    """Whether one thread is soon done with it."""
    steps = max(extent(tuple(n.ranges)) for n in toposort(kernel))
    return steps * max(device.capabilities.group_threads, 1) <= _MOST_STEPS


def _seconds(candidate: Candidate) -> float:
    return candidate.seconds


def _note(level: int, text: str) -> None:
    from dovetile.schedule import debug

    if debug.level() >= level:
        debug.write(f"beam: {text}")
