"""Side-by-side timing: contenders take turns in one process, and their medians are compared."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

THREADS = 2


def use_threads(count: int = THREADS) -> None:
    """Give every library the same number of threads. Call before any of them is imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "DOVETILE_THREADS"):
        os.environ.setdefault(name, str(count))


def alternate(
    contenders: dict[str, Callable[[], Any]], seconds: float = 4.0, least: int = 5, warm_up: int = 3
) -> dict[str, float]:
    """Median seconds of a call of each contender.

    They take turns, so that whatever else happens on the machine meets all of them alike, until
    `seconds` have passed and each has had at least `least` turns.
    """
    for _ in range(warm_up):
        for call in contenders.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(times.values()))) < least:
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


class Report:
    """Prints a line for each comparison, and keeps them for `--json`."""

    def __init__(self, description: str):
        self.parser = argparse.ArgumentParser(description=description)
        self.parser.add_argument("--json", type=Path, help="also write the figures to this file")
        self.figures: dict[str, dict[str, float]] = {}

    def add(self, name: str, medians: dict[str, float], work: float = 0.0, unit: str = "") -> None:
        """One comparison: `medians` in seconds, ours under "dovetile"; `work` in `unit` a call."""
        ours = medians["dovetile"]
        print(name)
        for contender, seconds in medians.items():
            rate = f"  {work / seconds / 1e9:8.1f} {unit}" if work else ""
            against = "" if contender == "dovetile" else f"  ours takes {ours / seconds:.2f} x this"
            print(f"  {contender:<16} {seconds * 1e3:10.3f} ms{rate}{against}", flush=True)
        self.figures[name] = medians

    def write(self, path: Path | None) -> None:
        """Write the figures as JSON, whole or not at all."""
        if path is None:
            return
        descriptor, temporary = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(descriptor, "w") as file:
            json.dump(self.figures, file, indent=2)
        os.replace(temporary, path)
