"""The convolutional network the MNIST benchmarks train."""

from __future__ import annotations

from typing import Any


def layers(nn: Any) -> list[Any]:
    """Its layers, from `dovetile_nn` or `torch.nn`: images (batch, 1, 28, 28) -> (batch, 10)."""
    return [
        nn.Conv2d(1, 32, 5),
        nn.ReLU(),
        nn.Conv2d(32, 32, 5),
        nn.ReLU(),
        nn.BatchNorm2d(32),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3),
        nn.ReLU(),
        nn.BatchNorm2d(64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(576, 10),
    ]
