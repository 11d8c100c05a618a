"""The first step of a model in this process: prints its times and counts as JSON.

python benchmarks/first_step.py {mnist,resnet,resnet-folded,gpt}

Run by compile_time.py in fresh processes. Everything is timed after the imports, in seconds:
`model` makes the model, its random weights and its optimiser; `first` is the first step, up to its
result on the host; `run` is what a step takes once everything is compiled.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import gpt
import mnist
import numpy
import resnet

from dovetile import Tensor, counters

STEPS: dict[str, Callable[[], Callable[[], Tensor]]] = {
    "mnist": mnist.step,
    "resnet": resnet.step,
    "resnet-folded": lambda: resnet.step(folded=True),
    "gpt": gpt.step,
}


def main() -> None:
    name = sys.argv[1]
    times = [time.perf_counter()]
    step = STEPS[name]()
    times.append(time.perf_counter())
    result = step().numpy()
    times.append(time.perf_counter())
    work = counters()
    if not numpy.isfinite(result).all():
        raise SystemExit(f"first_step.py: the result of {name} is not finite")
    step().numpy()  # captures
    again = time.perf_counter()
    step().numpy()
    figures = {
        "model": times[1] - times[0],
        "first": times[2] - times[1],
        "run": time.perf_counter() - again,
        "launches": work.kernels,
        "compiled": work.compiled,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
