"""What importing Dovetile costs beyond `import numpy`, each in a fresh process.

python benchmarks/import_time.py [--json FILE] [--repeats N]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from measure import write_whole

# `import dovetile` alone loads next to nothing, so the Tensor is measured too.
STATEMENTS = {
    "numpy": "import numpy",
    "import dovetile": "import dovetile",
    "dovetile": "from dovetile import Tensor; Tensor([1.0])",
}
PROGRAM = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def import_seconds(statement: str) -> float:
    words = [sys.executable, "-c", PROGRAM.format(statement)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(options.repeats):
        for name, values in times.items():
            values.append(import_seconds(STATEMENTS[name]))
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, seconds in medians.items():
        print(f"{name:<16} {seconds:.3f} s, {seconds / medians['numpy']:.2f} x numpy's")
    if options.json is not None:
        write_whole(options.json, json.dumps(medians, indent=2) + "\n")


if __name__ == "__main__":
    main()
