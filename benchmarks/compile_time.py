"""The first MNIST training step from a cold and from a warm disk cache, each in a fresh process.

python benchmarks/compile_time.py [--json FILE] [--repeats N]
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure


def first_step(cache: Path) -> tuple[float, int]:
    """Seconds of a fresh process's first step with `cache`, and how many kernels it compiled."""
    environment = {**os.environ, "DOVETILE_CACHE_DIR": str(cache)}
    program = Path(__file__).with_name("first_step.py")
    words = [sys.executable, str(program)]
    output = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    seconds, compiled = output.stdout.split()
    return float(seconds), int(compiled)


def main() -> None:
    report = measure.Report(__doc__ or "")
    report.parser.add_argument("--repeats", type=int, default=3)
    options = report.parser.parse_args()
    cold, warm = [], []
    for _ in range(options.repeats):
        with tempfile.TemporaryDirectory() as folder:
            cold.append(first_step(Path(folder)))
            warm.append(first_step(Path(folder)))
    for name, runs in (("cold", cold), ("warm", warm)):
        seconds = statistics.median(run[0] for run in runs)
        print(f"first step, {name} disk cache: {seconds:.2f} s, {runs[0][1]} kernels compiled")
        report.figures[f"first step, {name}"] = {"dovetile": seconds, "compiled": runs[0][1]}
    report.write(options.json)


if __name__ == "__main__":
    main()
