"""A language model of Llama's kind (Touvron et al., 2023) that makes text, token by token.

The default sizes are those of Llama 3.2 1B. A step reads all weights once, so memory is the limit.
The code is the same for Dovetile and PyTorch, whose tensors have the same methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy


@dataclass(frozen=True)
class Sizes:
    """heads: of queries; keys: heads of keys and values. context: the longest text."""

    layers: int = 16
    width: int = 2048
    heads: int = 32
    keys: int = 8
    hidden: int = 8192
    vocabulary: int = 128256
    context: int = 1024

    @property
    def head(self) -> int:
        """Width of a head."""
        return self.width // self.heads

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of all weights, those of the layers together: one row for each output."""
        inside = self.heads * self.head
        return {
            "tokens": (self.vocabulary, self.width),
            "attend": (self.layers, inside + 2 * self.keys * self.head, self.width),
            "output": (self.layers, self.width, inside),
            "gate": (self.layers, self.hidden, self.width),
            "up": (self.layers, self.hidden, self.width),
            "down": (self.layers, self.width, self.hidden),
        }

    def rotations(self) -> numpy.ndarray:
        """Cosine and sine for every position (Su et al., 2021): (context, 2, head)."""
        frequencies = 500000.0 ** (-numpy.arange(0, self.head, 2) / self.head)
        angles = numpy.arange(self.context)[:, None] * frequencies
        cosine, sine = numpy.cos(angles), numpy.sin(angles)
        halves = numpy.stack([numpy.tile(cosine, 2), numpy.concatenate([-sine, sine], 1)], 1)
        return halves.astype("float32")


@dataclass
class Decoder:
    """The model.

    weights: by the names of `Sizes.shapes`, a list with an entry a layer where there are layers.
    rotations: (context, 2, head) in float32. keys, values: (context, keys, head) a layer, which a
    step writes to. positions: 0 to context - 1.
    """

    sizes: Sizes
    weights: dict[str, Any]
    rotations: Any
    positions: Any
    keys: list[Any]
    values: list[Any]

    def step(self, token: Any, position: Any) -> Any:
        """(token (1,), its position (1,)) -> the scores (vocabulary) of the token that follows."""
        weights, sizes = self.weights, self.sizes
        x = weights["tokens"][token].reshape(sizes.width)
        table = self.rotations[position].reshape(2, sizes.head)
        seen = self.positions <= position
        for layer in range(sizes.layers):
            x = x + self._attention(layer, _normal(x), table, seen, position)
            inside = _normal(x)
            gate, up = weights["gate"][layer] @ inside, weights["up"][layer] @ inside
            x = x + weights["down"][layer] @ (gate * gate.sigmoid() * up)
        return weights["tokens"] @ _normal(x)

    def _attention(self, layer: int, x: Any, table: Any, seen: Any, position: Any) -> Any:
        sizes, weights = self.sizes, self.weights
        mixed = (weights["attend"][layer] @ x).reshape(sizes.heads + 2 * sizes.keys, sizes.head)
        turned = self._rotated(mixed[: sizes.heads + sizes.keys], table)
        keys, values = self.keys[layer], self.values[layer]
        keys[position] = turned[sizes.heads :].unsqueeze(0)
        values[position] = mixed[sizes.heads + sizes.keys :].unsqueeze(0)
        query = turned[: sizes.heads].reshape(sizes.keys, -1, sizes.head)
        # (keys, queries of each, context) and back.
        scores = (query * sizes.head**-0.5) @ keys.permute(1, 2, 0)
        scores = scores.masked_fill(~seen, float("-inf"))
        mixed = scores.float().softmax(-1).to(x.dtype) @ values.permute(1, 0, 2)
        return weights["output"][layer] @ mixed.reshape(sizes.width)

    def _rotated(self, x: Any, table: Any) -> Any:
        """Rotary embedding of (heads, head)."""
        halves = x.reshape(x.shape[0], 2, self.sizes.head // 2).flip(1)
        return (x * table[0] + halves.reshape(*x.shape) * table[1]).to(x.dtype)


def _normal(x: Any) -> Any:
    """Root-mean-square normalisation; its factors are part of the weights that follow."""
    wide = x.float()
    return (wide * ((wide * wide).mean(-1, keepdim=True) + 1e-5).rsqrt()).to(x.dtype)
