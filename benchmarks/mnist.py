"""A training step of the network known as "beautiful MNIST": batch 512, Adam, random images."""

from __future__ import annotations

from collections.abc import Callable

import mnist_network
import numpy

import dovetile_nn
import dovetile_optim
from dovetile import Tensor, jit


def step(batch: int = 512) -> Callable[[], Tensor]:
    """A captured training step: each call returns the loss before its update."""
    generator = numpy.random.default_rng(0)
    images = Tensor(generator.random((batch, 1, 28, 28), dtype=numpy.float32))
    labels = Tensor(generator.integers(0, 10, batch))
    model = dovetile_nn.Sequential(*mnist_network.layers(dovetile_nn))
    optimizer = dovetile_optim.Adam(model.parameters())

    @jit
    def train(inputs: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        loss = model(inputs).cross_entropy(targets)
        loss.backward()
        optimizer.step()
        return loss

    return lambda: train(images, labels)
