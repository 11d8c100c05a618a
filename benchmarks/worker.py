"""One contender's process for one row: builds the case, then times calls when it is asked to.

Run by measure.py as `worker.py CONTENDER ROW`. It answers in lines of JSON: first how long the
first call took and its values, then one answer for each question.
"""

from __future__ import annotations

import importlib
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import contenders
import inputs
import rows

# Seconds timed at once: long beside the clock's own cost, and short beside a time slice, so that
# what another process takes falls on few of them.
_SHORTEST = 1e-4


def peak_bytes() -> int:
    """The most memory that this process has had (VmHWM)."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def timed(case: inputs.Case, seconds: float) -> list[float]:
    """Seconds of calls, for so long; calls too short for the clock are timed in groups."""
    start = time.perf_counter()
    case.call()
    group = max(1, round(_SHORTEST / max(time.perf_counter() - start, 1e-9)))
    end = time.perf_counter() + seconds
    times = []
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(group):
            case.call()
        times.append((time.perf_counter() - start) / (group * case.times))
    return times


def build(contender: contenders.Contender, row: rows.Row) -> inputs.Case | None:
    """The row's case with this contender; None where it has no such case."""
    module = importlib.import_module(f"cases.{contender.cases}")
    if contender is contenders.LIMIT:
        return module.limit(row)
    function = getattr(module, row.case, None)
    return None if function is None else function(module.MODES[contender.mode], **row.size)


def main() -> None:
    # Whatever a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(**content: Any) -> None:
        answers.write(json.dumps(content) + "\n")

    contender, row = contenders.PROCESSES[sys.argv[1]], rows.ROWS[sys.argv[2]]
    case = build(contender, row)
    if case is None:
        answer(skipped="no such case")
        return
    start = time.perf_counter()
    result = case.call()
    first = time.perf_counter() - start
    answer(first=first, values=case.values(result).astype("float64").ravel().tolist())
    del result
    for line in sys.stdin:
        times = timed(case, float(line))
        answer(seconds=times, median=statistics.median(times), bytes=peak_bytes())


if __name__ == "__main__":
    main()
