"""ResNet-50 (He et al., "Deep Residual Learning for Image Recognition", 2015), random weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy

import dovetile_nn as nn
from dovetile import Tensor, jit, no_grad

_BLOCKS = (3, 4, 6, 3)
_EXPANSION = 4


class _Norm(nn.Module):
    """A convolution and its batch normalisation; `folded`: the second is part of the weights."""

    def __init__(self, inputs: int, outputs: int, size: int, stride: int, folded: bool):
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=folded)
        self.normalization = nn.Identity() if folded else nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.normalization(self.convolution(x))


class _Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int, folded: bool):
        super().__init__()
        outputs = width * _EXPANSION
        self.reduce = _Norm(inputs, width, 1, 1, folded)
        self.middle = _Norm(width, width, 3, stride, folded)
        self.expand = _Norm(width, outputs, 1, 1, folded)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else _Norm(inputs, outputs, 1, stride, folded)

    def forward(self, x: Tensor) -> Tensor:
        y = self.middle(self.reduce(x).relu()).relu()
        return (self.expand(y) + self.shortcut(x)).relu()


class ResNet50(nn.Module):
    """images (N, 3, 224, 224) -> logits (N, 1000)."""

    def __init__(self, folded: bool = False):
        super().__init__()
        self.stem = _Norm(3, 64, 7, 2, folded)
        self.pool = nn.MaxPool2d(3, 2, 1)
        blocks: list[nn.Module] = []
        channels = 64
        for stage, count in enumerate(_BLOCKS):
            width = 64 << stage
            for index in range(count):
                stride = 2 if stage and index == 0 else 1
                blocks.append(_Bottleneck(channels, width, stride, folded))
                channels = width * _EXPANSION
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, 1000)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.pool(self.stem(images).relu()))
        return self.head(x.mean((2, 3)))


def step(batch: int = 1, folded: bool = False) -> Callable[[], Tensor]:
    """A captured forward pass in evaluation mode: each call returns the logits (batch, 1000).

    Making it draws the weights and the images, and compiles nothing.
    """
    model = ResNet50(folded)
    model.eval()
    images = numpy.random.default_rng(0).standard_normal((batch, 3, 224, 224), numpy.float32)
    inputs = Tensor(images)

    @jit
    def forward(x: Tensor) -> Tensor:
        with no_grad():
            return model(x)

    return lambda: forward(inputs)
