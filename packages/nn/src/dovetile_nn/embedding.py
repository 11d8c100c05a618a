"""Embedding tables."""

from __future__ import annotations

from typing import Any

from dovetile import Tensor
from dovetile_nn import init
from dovetile_nn.module import Module


class Embedding(Module):
    """Rows of a table, by integer indices, as `torch.nn.Embedding`.

    indices (...) of an integer dtype -> (..., embedding_dim); weight
    (num_embeddings, embedding_dim), normal at first.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, device: Any = None, dtype: Any = None
    ):
        super().__init__()
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.weight = init.normal(num_embeddings, embedding_dim, dtype=dtype, device=device)

    def forward(self, indices: Tensor) -> Tensor:
        return self.weight[indices]

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"
