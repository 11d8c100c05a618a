"""A language model in the manner of Llama (Touvron et al., 2023), as it makes text, token by token.

134 million parameters. One step reads all of them: memory is the limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy
from inputs import integers

from models.framework import Framework

LAYERS, WIDTH, HIDDEN, VOCABULARY = 12, 768, 2048, 32000
HEAD_WIDTH = 64
HEADS = WIDTH // HEAD_WIDTH
CONTEXT = 64


def empty_state() -> list[numpy.ndarray]:
    """Keys or values of each layer (HEADS, CONTEXT, HEAD_WIDTH) before the first token."""
    return [numpy.zeros((HEADS, CONTEXT, HEAD_WIDTH), numpy.float32) for _ in range(LAYERS)]


def steps() -> Iterator[tuple[numpy.ndarray, numpy.ndarray, numpy.ndarray]]:
    """(token (1,), its position (1,), its rotations (2, HEAD_WIDTH)), round and round."""
    text = integers("text", VOCABULARY, CONTEXT)
    frequencies = 10000.0 ** (-numpy.arange(0, HEAD_WIDTH, 2) / HEAD_WIDTH)
    while True:
        for position in range(CONTEXT):
            angles = position * frequencies
            cosine, sine = numpy.cos(angles), numpy.sin(angles)
            table = numpy.stack([numpy.tile(cosine, 2), numpy.concatenate([-sine, sine])])
            yield text[position : position + 1], numpy.array([position]), table.astype("float32")


def llama(framework: Framework) -> Any:
    """The network as a module.

    (token, position, rotations, slots, keys, values) -> (logits (1, VOCABULARY), new keys, new
    values); `slots` counts the positions, keys and values come as a list with an entry a layer.
    """
    nn = framework.nn

    class Norm(nn.Module):
        """Root-mean-square normalisation (Zhang & Sennrich, 2019)."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = framework.ones(WIDTH)

        def forward(self, x: Any) -> Any:
            return x * ((x * x).mean(-1, keepdim=True) + 1e-5).rsqrt() * self.weight

    def rotated(x: Any, table: Any) -> Any:
        """Rotary embedding (Su et al., 2021) of (HEADS, 1, HEAD_WIDTH)."""
        halves = x.reshape(HEADS, 1, 2, HEAD_WIDTH // 2)
        return x * table[0] + halves.flip(-2).reshape(HEADS, 1, HEAD_WIDTH) * table[1]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first_norm, self.second_norm = Norm(), Norm()
            self.query, self.key, self.value, self.output = (
                nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(4)
            )
            self.gate = nn.Linear(WIDTH, HIDDEN, bias=False)
            self.up = nn.Linear(WIDTH, HIDDEN, bias=False)
            self.down = nn.Linear(HIDDEN, WIDTH, bias=False)
            self.activation = nn.SiLU()

        def forward(self, x: Any, table: Any, now: Any, past: Any, keys: Any, values: Any) -> Any:
            normal = self.first_norm(x)
            parts = (self.query(normal), self.key(normal), self.value(normal))
            query, key, value = (part.reshape(HEADS, 1, HEAD_WIDTH) for part in parts)
            keys = rotated(key, table).where(now, keys)
            values = value.where(now, values)
            seen = framework.attention(rotated(query, table), keys, values, attn_mask=past)
            x = x + self.output(seen.reshape(1, WIDTH))
            normal = self.second_norm(x)
            inside = self.activation(self.gate(normal)) * self.up(normal)
            return x + self.down(inside), keys, values

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens = nn.Embedding(VOCABULARY, WIDTH)
            self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
            self.norm = Norm()
            self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

        def forward(
            self, token: Any, position: Any, table: Any, slots: Any, keys: Any, values: Any
        ) -> tuple[Any, list[Any], list[Any]]:
            now, past = (slots == position).unsqueeze(-1), (slots <= position).unsqueeze(0)
            x = self.tokens(token)
            new_keys, new_values = [], []
            for block, key, value in zip(self.blocks, keys, values):
                x, key, value = block(x, table, now, past, key, value)
                new_keys.append(key)
                new_values.append(value)
            return self.head(self.norm(x)), new_keys, new_values

    return Network()
