"""One MNIST training step in this process: prints its seconds and how many kernels it compiled.

Run by compile_time.py in fresh processes. The time begins after the imports and includes making
the model and its optimiser.
"""

from __future__ import annotations

import time

import mnist_network
import numpy

import dovetile_nn
import dovetile_optim
from dovetile import Tensor, counters, jit


def main() -> None:
    generator = numpy.random.default_rng(0)
    images = generator.random((512, 1, 28, 28), dtype=numpy.float32)
    labels = generator.integers(0, 10, 512)
    start = time.perf_counter()
    model = dovetile_nn.Sequential(*mnist_network.layers(dovetile_nn))
    optimizer = dovetile_optim.Adam(model.parameters())

    @jit
    def train_step(inputs: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = model(inputs).cross_entropy(targets)
        loss.backward()
        optimizer.step()
        return loss

    loss = train_step(Tensor(images), Tensor(labels)).item()
    seconds = time.perf_counter() - start
    if not 1.0 < loss < 5.0:
        raise SystemExit(f"first_step.py: the loss is {loss}; with 10 classes it begins near 2.3")
    print(seconds, counters().compiled)


if __name__ == "__main__":
    main()
