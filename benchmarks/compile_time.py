"""First steps from a cold and from a warm disk cache, each in a fresh process.

A model's first step is building its graph, scheduling and compiling it, and one run. The time of
a run is given beside it: what is left of the first step is what compiling costs.

python benchmarks/compile_time.py [--json FILE] [--repeats N] [MODEL ...]
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

MODELS = ("mnist", "resnet", "resnet-folded", "gpt")
Figures = dict[str, float]


def first_step(model: str, cache: Path) -> Figures:
    """What `first_step.py` prints, in a fresh process with `cache`."""
    environment = {**os.environ, "DOVETILE_CACHE_DIR": str(cache)}
    words = [sys.executable, str(Path(__file__).with_name("first_step.py")), model]
    output = subprocess.run(words, env=environment, check=True, capture_output=True, text=True)
    return json.loads(output.stdout)


def medians(runs: list[Figures]) -> Figures:
    """Of every figure."""
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def main() -> None:
    report = measure.Report(__doc__ or "")
    report.parser.add_argument("--repeats", type=int, default=3)
    report.parser.add_argument("models", nargs="*", default=MODELS, help=", ".join(MODELS))
    options = report.parser.parse_args()
    header = (
        "model",
        "cache",
        "kernels",
        "first step",
        "of it a run",
        "compiling",
        "model made in",
    )
    print("{:<14} {:<5} {:>7} {:>10} {:>11} {:>10} {:>13}".format(*header))
    for model in options.models:
        cold, warm = [], []
        for _ in range(options.repeats):
            with tempfile.TemporaryDirectory() as folder:
                cold.append(first_step(model, Path(folder)))
                warm.append(first_step(model, Path(folder)))
        for cache, runs in (("cold", cold), ("warm", warm)):
            found = medians(runs)
            compiling = found["first"] - found["run"]
            print(
                f"{model:<14} {cache:<5} {found['compiled']:7.0f} {found['first']:8.2f} s "
                f"{found['run']:9.2f} s {compiling:8.2f} s {found['model']:11.2f} s",
                flush=True,
            )
            report.figures[f"first step of {model}, {cache}"] = {
                "dovetile": found["first"],
                "compiling": compiling,
                "compiled": found["compiled"],
            }
    report.write(options.json)


if __name__ == "__main__":
    main()
