"""Where the time goes: compiling by stage, running by kernel, while somebody asks.

    with profiling.record() as profile:
        step()
    profile.stages["lower", False].seconds

Nothing is measured otherwise: `stage` then costs one look at a global variable.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field


@dataclass
class StageTime:
    """One stage. seconds: by the clock, without the stages inside; processor: of the thread."""

    calls: int = 0
    seconds: float = 0.0
    processor: float = 0.0


@dataclass
class KernelTime:
    """One kernel. operations, nbytes: planned for a launch; seconds: of all launches together."""

    label: str
    operations: int
    nbytes: int
    launches: int = 0
    seconds: float = 0.0


@dataclass
class Profile:
    """What `record` gathers.

    stages: by name, and whether it ran in another thread than the one that records. kernels: by
    name. elapsed: seconds from the begin of the recording to its end.
    """

    stages: dict[tuple[str, bool], StageTime] = field(default_factory=dict)
    kernels: dict[str, KernelTime] = field(default_factory=dict)
    elapsed: float = 0.0
    thread: int = field(default_factory=threading.get_ident)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add_stage(self, name: str, seconds: float, processor: float) -> None:
        """One call of a stage, in the thread that it ran in."""
        key = (name, threading.get_ident() != self.thread)
        with self._lock:
            entry = self.stages.setdefault(key, StageTime())
            entry.calls += 1
            entry.seconds += seconds
            entry.processor += processor

    def add_launch(self, name: str, seconds: float) -> None:
        """One launch of a kernel that was planned before."""
        with self._lock:
            kernel = self.kernels[name]
            kernel.launches += 1
            kernel.seconds += seconds

    def plan_kernel(self, name: str, label: str, operations: int, nbytes: int) -> None:
        """What a launch of a kernel is planned to do."""
        with self._lock:
            self.kernels.setdefault(name, KernelTime(label, operations, nbytes))


_current: Profile | None = None
_open = threading.local()
_NOTHING = contextlib.nullcontext()


def current() -> Profile | None:
    """The profile that is being recorded."""
    return _current


@contextlib.contextmanager
def record() -> Iterator[Profile]:
    """Measures what the code inside makes this process do, in all of its threads."""
    global _current
    profile, before = Profile(), _current
    start = time.perf_counter()
    _current = profile
    try:
        yield profile
    finally:
        _current = before
        profile.elapsed = time.perf_counter() - start


def stage(name: str) -> AbstractContextManager[object]:
    """Measures the code inside as the stage `name`; a stage inside it is taken off its time."""
    return _NOTHING if _current is None else _Stage(_current, name)


class _Stage:
    def __init__(self, profile: Profile, name: str) -> None:
        self.profile = profile
        self.name = name
        self.inner_seconds = self.inner_processor = 0.0

    def __enter__(self) -> None:
        self.outer: _Stage | None = getattr(_open, "stage", None)
        _open.stage = self
        self.start, self.start_processor = time.perf_counter(), time.thread_time()

    def __exit__(self, *error: object) -> None:
        seconds = time.perf_counter() - self.start
        processor = time.thread_time() - self.start_processor
        _open.stage = self.outer
        if self.outer is not None:
            self.outer.inner_seconds += seconds
            self.outer.inner_processor += processor
        self.profile.add_stage(
            self.name, seconds - self.inner_seconds, processor - self.inner_processor
        )
