"""What importing Dovetile costs beyond `import numpy`, each in a fresh process.

python benchmarks/import_time.py [--json FILE] [--repeats N]
"""

from __future__ import annotations

import statistics
import subprocess
import sys

import measure

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
    report = measure.Report(__doc__ or "")
    report.parser.add_argument("--repeats", type=int, default=9)
    options = report.parser.parse_args()
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for _ in range(options.repeats):
        for name, values in times.items():
            values.append(import_seconds(STATEMENTS[name]))
    medians = {name: statistics.median(values) for name, values in times.items()}
    report.add("import and a first Tensor", medians)
    print(f"  beyond numpy: {medians['dovetile'] - medians['numpy']:.3f} s")
    report.write(options.json)


if __name__ == "__main__":
    main()
