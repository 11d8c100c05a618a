"""One command processor: its ring, its threads, and their life from start over fork to exit."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import threading
import time
import weakref

from dovetile.errors import DeviceError
from dovetile_cpu import host, memory_map, native


class Control(ctypes.Structure):
    """What Python and the native threads share: `%Control` of ``worker_pool.ll``."""

    _fields_ = (
        ("head", ctypes.c_int64),
        ("list_position", ctypes.c_int64),
        ("list_end", ctypes.c_int64),
        ("head_waiters", ctypes.c_int32),
        ("head_sequence", ctypes.c_int32),
        ("padding_1", ctypes.c_char * 96),
        ("requested", ctypes.c_int64),
        ("driving", ctypes.c_int32),
        ("background_sleeping", ctypes.c_int32),
        ("background_sequence", ctypes.c_int32),
        ("stopping", ctypes.c_int32),
        ("padding_2", ctypes.c_char * 104),
        ("unclaimed", ctypes.c_int32),
        ("padding_3", ctypes.c_char * 124),
        ("unfinished", ctypes.c_int32),
        ("driver_sleeping", ctypes.c_int32),
        ("padding_4", ctypes.c_char * 120),
        ("function", ctypes.c_int64),
        ("buffers", ctypes.c_int64),
        ("scalars", ctypes.c_int64),
        ("parts", ctypes.c_int64),
        ("padding_5", ctypes.c_char * 96),
        ("sleeping_helpers", ctypes.c_int32),
        ("helper_sequence", ctypes.c_int32),
        ("padding_6", ctypes.c_char * 120),
        ("fault_function", ctypes.c_int64),
        ("fault_status", ctypes.c_int32),
        ("threads_alive", ctypes.c_int32),
        ("next_worker", ctypes.c_int32),
        ("helpers", ctypes.c_int32),
        ("ring", ctypes.c_int64),
        ("ring_mask", ctypes.c_int64),
        ("scratch", ctypes.c_int64),
        ("scratch_stride", ctypes.c_int64),
    )


RING_WORDS = 1 << 15
_SLICE = 50_000_000  # nanoseconds of waiting in native code before Python may handle Ctrl-C
_FORK_PATIENCE = 10.0  # seconds
_EXIT_PATIENCE = 2.0


class Processor:
    """A ring of commands and the threads that execute them.

    Args:
        worker_count: threads that work at once, the one that waits for a result included.
    """

    def __init__(self, worker_count: int) -> None:
        self.worker_count = worker_count
        self.native = native.library()
        self._wait = self.native.wait
        # Mapped for ever: the threads may look at it until the process is gone.
        self.address = memory_map.map_memory(ctypes.sizeof(Control))
        self.control = Control.from_address(self.address)
        ring = memory_map.map_memory(RING_WORDS * 8)
        self.ring = (ctypes.c_char * (RING_WORDS * 8)).from_address(ring)
        self.control.ring = ring
        self.control.ring_mask = RING_WORDS - 1
        scratch_bytes = host.LOCAL_BYTES * worker_count
        scratch = memory_map.map_memory(scratch_bytes + memory_map.HUGE_PAGE)
        scratch += -scratch % memory_map.HUGE_PAGE
        memory_map.prefer_huge_pages(scratch, scratch_bytes)
        self.control.scratch = scratch
        self.control.scratch_stride = host.LOCAL_BYTES
        self.lock = threading.RLock()
        """Held while commands are recorded."""
        self.submitted = 0
        """Ring position up to which commands may be executed by whoever waits."""
        self.threads_started = False
        self.broken: str | None = None
        _processors.add(self)

    def start_threads(self) -> None:
        """Start the background driver and the helpers, once."""
        with self.lock:
            if self.threads_started or self.control.stopping:
                return
            self.threads_started = True
            self.control.next_worker = 0
            # Signals are for Python's own threads: a native one must not swallow Ctrl-C.
            previous = signal.pthread_sigmask(signal.SIG_SETMASK, signal.valid_signals())
            try:
                started = 0
                while started < self.worker_count and self._start_thread():
                    started += 1
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, previous)
            # With fewer threads than wished for everything still works: parts are claimed.
            self.control.helpers = max(0, started - 1)
            if not started:
                self.threads_started = False

    def _start_thread(self) -> bool:
        thread = ctypes.c_void_p()
        result = memory_map.libc().pthread_create(
            ctypes.byref(thread),
            None,
            ctypes.c_void_p(self.native.thread),
            ctypes.c_void_p(self.address),
        )
        return result == 0

    def start(self, position: int) -> None:
        """Have commands up to `position` executed in the background."""
        if not self.threads_started:
            self.start_threads()
        self.native.start(self.address, position)

    def wait(self, position: int) -> None:
        """Wait until commands are complete up to `position`, executing them if nobody does."""
        if self.broken:
            raise DeviceError(self.broken)
        while self._wait(self.address, position, _SLICE):
            if self.control.stopping:
                raise DeviceError("[exit] the interpreter exits while commands wait for a signal")

    def take_fault(self) -> tuple[int, int] | None:
        """(status, function address) of the first kernel that failed, and forget it."""
        control = self.control
        if not control.fault_status:
            return None
        with self.lock:
            fault = (control.fault_status, control.fault_function)
            control.fault_status = 0
        return fault if fault[0] else None

    # -- fork ----------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """Bring everything to rest, so that the child finds no half-done command."""
        self.lock.acquire()
        limit = time.monotonic() + _FORK_PATIENCE
        while self.native.wait(self.address, self.submitted, _SLICE):
            if time.monotonic() > limit:
                return
        while self.control.driving and time.monotonic() < limit:
            time.sleep(0)

    def after_fork_in_parent(self) -> None:
        self.lock.release()

    def after_fork_in_child(self) -> None:
        """The threads are gone: forget them, they start again when needed."""
        control = self.control
        if control.head < self.submitted:
            self.broken = (
                "[fork] the parent forked while commands waited for a signal; this device cannot "
                "be used in the child: synchronize before forking"
            )
        for name in (
            "head_waiters", "driving", "background_sleeping", "unclaimed", "unfinished",
            "driver_sleeping", "sleeping_helpers", "threads_alive", "helpers",
        ):  # fmt: skip
            setattr(control, name, 0)
        self.threads_started = False
        self.lock.release()

    # -- exit ----------------------------------------------------------------------------------

    def stop(self) -> None:
        """End the threads. Commands may still be executed by whoever waits for them."""
        limit = time.monotonic() + _EXIT_PATIENCE
        control = self.control
        while control.head < control.requested and time.monotonic() < limit:
            self.native.wait(self.address, control.requested, _SLICE)
        self.native.stop(self.address)
        while control.threads_alive and time.monotonic() < limit:
            time.sleep(0.0001)


_processors: weakref.WeakSet[Processor] = weakref.WeakSet()


def _each(method: str) -> None:
    for processor in list(_processors):
        getattr(processor, method)()


atexit.register(_each, "stop")
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _each("before_fork"),
        after_in_parent=lambda: _each("after_fork_in_parent"),
        after_in_child=lambda: _each("after_fork_in_child"),
    )
