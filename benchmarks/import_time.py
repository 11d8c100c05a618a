"""What `import dovetile` costs beyond `import numpy`, each in a fresh process.

python benchmarks/import_time.py [--json FILE] [--repeats N]
"""

from __future__ import annotations

import statistics
import subprocess
import sys

import measure

PROGRAM = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"


def import_seconds(module: str) -> float:
    words = [sys.executable, "-c", PROGRAM.format(module)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    report = measure.Report(__doc__ or "")
    report.parser.add_argument("--repeats", type=int, default=9)
    options = report.parser.parse_args()
    times: dict[str, list[float]] = {"numpy": [], "dovetile": []}
    for _ in range(options.repeats):
        for module, values in times.items():
            values.append(import_seconds(module))
    medians = {module: statistics.median(values) for module, values in times.items()}
    report.add("import", medians)
    print(f"  beyond numpy: {medians['dovetile'] - medians['numpy']:.3f} s")
    report.write(options.json)


if __name__ == "__main__":
    main()
