"""The worker processes of the search, as its parent sees them.

Each worker is a fresh interpreter. One that crashes, hangs or is killed costs the answer to its
current request; the next request starts another.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from queue import SimpleQueue
from typing import Any

from dovetile import environment
from dovetile.optimize.worker import Refused, Request, receive, send

_MOST_WORKERS = 8
_SLICE = 0.1
# Starting takes an import of the compiler, on a machine that may be busy.
_START_SECONDS = 60.0
_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from dovetile.optimize.worker import main; main()"
)


class Worker:
    """One process; serves one request at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: Request, seconds: float) -> Any:
        """The answer, or Refused: also where the worker crashed, or took longer than `seconds`."""
        try:
            process, allowed = self._process, seconds
            if process is None or process.poll() is not None:
                process, allowed = self._start(), seconds + _START_SECONDS
        except OSError as error:
            return Refused(f"no worker process can be started ({error})")
        assert process.stdin is not None and process.stdout is not None
        # The worker ends itself after `seconds`; this is for one that cannot even do that.
        overdue = threading.Timer(allowed + 1.0, process.kill)
        overdue.daemon = True
        overdue.start()
        try:
            send(process.stdin, (seconds, request))
            return receive(process.stdout)
        except (EOFError, OSError):
            self.close()
            return Refused(f"its process ended with status {process.returncode}")
        except BaseException:
            self.close()
            raise
        finally:
            overdue.cancel()

    def _start(self) -> subprocess.Popen[bytes]:
        self.close()
        quiet = environment.DEBUG.value < 2
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _START, json.dumps(sys.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            env=_environment(),
        )
        return self._process

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


class WorkerPool:
    """Workers that share the requests of a search."""

    def __init__(self, count: int) -> None:
        self.workers = [Worker() for _ in range(count)]
        self.process_id = os.getpid()

    def ask_all(self, requests: Sequence[Request], seconds: float) -> list[Any]:
        """The answers in order; `seconds` are allowed for each."""
        idle: SimpleQueue[Worker] = SimpleQueue()
        for worker in self.workers:
            idle.put(worker)

        def ask(request: Request) -> Any:
            worker = idle.get()
            try:
                return worker.ask(request, seconds)
            finally:
                idle.put(worker)

        return self._all([partial(ask, request) for request in requests])

    def ask_first(self, request: Request, seconds: float) -> Any:
        """The answer of one worker, always the same, while all others are idle."""
        return self._all([partial(self.workers[0].ask, request, seconds)])[0]

    def _all(self, jobs: Sequence[Callable[[], Any]]) -> list[Any]:
        """What the jobs return, in order; they run in threads, as many as there are workers."""
        pool = ThreadPoolExecutor(len(self.workers))
        answers = [pool.submit(job) for job in jobs]
        try:
            # In slices: Ctrl-C may reach another thread, and is then only seen between two waits.
            while wait(answers, _SLICE).not_done:
                pass
            return [answer.result() for answer in answers]
        except BaseException:
            # Ctrl-C: nothing new begins, and what is under way ends with its process. More than
            # once, as a process may be starting that cannot be ended yet.
            pool.shutdown(wait=False, cancel_futures=True)
            self.close()
            while not all(answer.done() for answer in answers):
                time.sleep(0.05)
                self.close()
            raise
        finally:
            pool.shutdown()

    def close(self) -> None:
        """End all processes; a later request starts new ones."""
        if self.process_id != os.getpid():
            return  # a fork inherits our handlers, not our children
        for worker in self.workers:
            worker.close()


_pool: WorkerPool | None = None


def pool() -> WorkerPool:
    """The workers of this process, started with the first request and ended at exit."""
    global _pool
    # After a fork the pipes belong to the parent.
    if _pool is None or _pool.process_id != os.getpid():
        _pool = WorkerPool(min(_usable_cores(), _MOST_WORKERS))
        atexit.register(_pool.close)
    return _pool


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _environment() -> dict[str, str]:
    """The parent's settings, also those made by `environment.context`; no search of its own."""
    chosen = {
        "CHECK": str(int(environment.CHECK.value)),
        "DOVETILE_THREADS": str(environment.DOVETILE_THREADS.value),
        "DOVETILE_PLUGINS": ",".join(environment.DOVETILE_PLUGINS.value),
    }
    unset = {"DEV", "BEAM", "DEBUG"}
    return {k: v for k, v in os.environ.items() if k not in unset} | chosen
