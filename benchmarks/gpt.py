"""A GPT (Radford et al., "Language Models are Unsupervised Multitask Learners", 2019) to train."""

from __future__ import annotations

from collections.abc import Callable

import numpy

import dovetile_nn as nn
import dovetile_optim
from dovetile import Tensor, dtypes, jit


class _Block(nn.Module):
    """Causal self-attention, then a perceptron; each added to its normalised input."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention = nn.LayerNorm(width)
        self.projections = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.before_perceptron = nn.LayerNorm(width)
        self.widen = nn.Linear(width, 4 * width)
        self.narrow = nn.Linear(4 * width, width)

    def attention(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        shape = (batch, length, 3, self.heads, width // self.heads)
        q, k, v = self.projections(x).reshape(*shape).permute(2, 0, 3, 1, 4)
        y = q.scaled_dot_product_attention(k, v, is_causal=True)
        return self.attended(y.transpose(1, 2).reshape(batch, length, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before_attention(x))
        return x + self.narrow(self.widen(self.before_perceptron(x)).gelu())


class GPT(nn.Module):
    """tokens (N, T) -> logits (N, T, vocabulary)."""

    def __init__(self, vocabulary: int, context: int, layers: int, width: int, heads: int):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def step(
    batch: int = 16,
    context: int = 256,
    layers: int = 6,
    width: int = 384,
    heads: int = 6,
    vocabulary: int = 65,
) -> Callable[[], Tensor]:
    """A captured training step with AdamW: each call returns the loss before its update.

    Making it draws the weights and the tokens, and compiles nothing.
    """
    model = GPT(vocabulary, context, layers, width, heads)
    optimizer = dovetile_optim.AdamW(model.parameters(), lr=1e-3)
    text = numpy.random.default_rng(0).integers(0, vocabulary, (batch, context + 1))
    inputs, targets = Tensor(text[:, :-1], dtypes.int64), Tensor(text[:, 1:], dtypes.int64)

    @jit
    def train(tokens: Tensor, wanted: Tensor) -> Tensor:
        optimizer.zero_grad()
        logits = model(tokens)
        loss = logits.reshape(-1, vocabulary).cross_entropy(wanted.reshape(-1))
        loss.backward()
        optimizer.step()
        return loss

    return lambda: train(inputs, targets)
