"""The first step of a model in this process: prints its figures as JSON.

python benchmarks/first_step.py {mnist,resnet,gpt}

Run by compile_time.py in fresh processes. All times begin after the imports: `model` makes the
model, its random weights and its optimiser, `first` is the first step up to its result on the host,
`second` another one.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable

import gpt
import numpy
import resnet
import train_mnist

from dovetile import Tensor, counters

STEPS: dict[str, Callable[[], Callable[[], Tensor]]] = {
    "mnist": train_mnist.step,
    "resnet": resnet.step,
    "resnet folded": lambda: resnet.step(folded=True),
    "gpt": gpt.step,
}
