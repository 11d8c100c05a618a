"""A small GPT (Radford et al., 2019) over characters, as it is trained."""

from __future__ import annotations

from typing import Any

import numpy
from inputs import integers

from models.framework import Framework

VOCABULARY = 65
HEAD_WIDTH = 64


def tokens(batch: int, context: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Inputs (batch, context), and the targets, in one line for the cross entropy."""
    text = integers("text", VOCABULARY, batch, context + 1)
    return text[:, :-1].copy(), text[:, 1:].reshape(-1).copy()


def shapes(layers: int, width: int, context: int) -> dict[str, tuple[int, ...]]:
    """The parameters' names and shapes, for frameworks without modules."""
    block = {
        "first_norm.weight": (width,),
        "first_norm.bias": (width,),
        "second_norm.weight": (width,),
        "second_norm.bias": (width,),
        "attention.inputs.weight": (3 * width, width),
        "attention.output.weight": (width, width),
        "network.0.weight": (4 * width, width),
        "network.2.weight": (width, 4 * width),
    }
    return {
        "tokens.weight": (VOCABULARY, width),
        "positions.weight": (context, width),
        **{f"blocks.{n}.{name}": shape for n in range(layers) for name, shape in block.items()},
        "norm.weight": (width,),
        "norm.bias": (width,),
        "head.weight": (VOCABULARY, width),
    }


def gpt(framework: Framework, layers: int, width: int, context: int) -> Any:
    """The network as a module: tokens (batch, context) -> logits (batch * context, 65)."""
    nn = framework.nn

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inputs = nn.Linear(width, 3 * width, bias=False)
            self.output = nn.Linear(width, width, bias=False)

        def forward(self, x: Any) -> Any:
            batch = x.shape[0]
            heads = [
                part.reshape(batch, context, width // HEAD_WIDTH, HEAD_WIDTH).transpose(1, 2)
                for part in self.inputs(x).split(width, 2)
            ]
            seen = framework.attention(*heads, is_causal=True)
            return self.output(seen.transpose(1, 2).reshape(batch, context, width))

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
            self.attention = Attention()
            self.network = nn.Sequential(
                nn.Linear(width, 4 * width, bias=False),
                nn.GELU(),
                nn.Linear(4 * width, width, bias=False),
            )

        def forward(self, x: Any) -> Any:
            x = x + self.attention(self.first_norm(x))
            return x + self.network(self.second_norm(x))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(VOCABULARY, width)
            self.positions = nn.Embedding(context, width)
            self.blocks = nn.Sequential(*(Block() for _ in range(layers)))
            self.norm = nn.LayerNorm(width)
            self.head = nn.Linear(width, VOCABULARY, bias=False)

        def forward(self, text: Any) -> Any:
            x = self.tokens(text) + self.positions.weight
            x = self.head(self.norm(self.blocks(x)))
            return x.reshape(-1, VOCABULARY)

    return Network()
