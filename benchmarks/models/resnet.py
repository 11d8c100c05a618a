"""ResNet-50 (He et al., 2015), with its batch normalisations or with them folded into biases."""

from __future__ import annotations

from typing import Any

from models.framework import Framework

STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))  # width, blocks, stride
EXPANSION = 4


def resnet50(framework: Framework, folded: bool) -> Any:
    """The network as a module: images (batch, 3, 224, 224) -> logits (batch, 1000)."""
    nn = framework.nn

    def convolution(inputs: int, outputs: int, size: int, stride: int = 1) -> list[Any]:
        layer = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=folded)
        return [layer] if folded else [layer, nn.BatchNorm2d(outputs)]

    class Block(nn.Module):
        """Three convolutions beside a shortcut."""

        def __init__(self, inputs: int, width: int, stride: int) -> None:
            super().__init__()
            outputs = width * EXPANSION
            self.body = nn.Sequential(
                *convolution(inputs, width, 1),
                nn.ReLU(),
                *convolution(width, width, 3, stride),
                nn.ReLU(),
                *convolution(width, outputs, 1),
            )
            same = inputs == outputs and stride == 1
            shortcut = [] if same else convolution(inputs, outputs, 1, stride)
            self.shortcut = nn.Sequential(*shortcut)

        def forward(self, inputs: Any) -> Any:
            return (self.body(inputs) + self.shortcut(inputs)).relu()

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            stem = [*convolution(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
            blocks, channels = [], 64
            for width, count, stride in STAGES:
                for number in range(count):
                    blocks.append(Block(channels, width, stride if number == 0 else 1))
                    channels = width * EXPANSION
            self.body = nn.Sequential(*stem, *blocks)
            self.head = nn.Linear(channels, 1000)

        def forward(self, images: Any) -> Any:
            return self.head(self.body(images).mean((2, 3)))

    return Network()
