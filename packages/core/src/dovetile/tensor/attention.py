"""Scaled dot-product attention, as in torch.nn.functional."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from dovetile import dtypes
from dovetile.errors import ArgumentError, ShapeError
from dovetile.gradient.composed import Rule, compose
from dovetile.ir.uop import UOp
from dovetile.tensor.base import TensorBase
from dovetile.tensor.nodes import arrange, iota
from dovetile.tensor.random import Random

if TYPE_CHECKING:
    from typing_extensions import Self


class Attention(Random):
    """Attention of queries (the Tensor itself) to keys and values."""

    __slots__ = ()

    def scaled_dot_product_attention(
        self,
        key: Self,
        value: Self,
        attn_mask: TensorBase | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Self:
        """softmax(self @ key.T * scale + mask) @ value (Vaswani et al., 2017).

        self (..., L, E), key (..., S, E), value (..., S, V) -> (..., L, V). `attn_mask`
        broadcasts to (..., L, S): where a bool mask is False there is no attention; a float mask is
        added. `is_causal`: query i sees keys 0 to i. `scale`: 1 / sqrt(E) by default.
        `enable_gqa`: fewer heads (axis -3) of keys and values, each for a group of query heads.
        A query that may see no key gets NaN.

        Raises ShapeError where the sizes do not fit, ArgumentError for a mask beside `is_causal`.
        """
        name = "scaled_dot_product_attention"
        shapes = f"queries {self.shape}, keys {key.shape}, values {value.shape}"
        if min(self.ndim, key.ndim, value.ndim) < 2:
            raise ShapeError(f"[{name}] {shapes}; each needs at least 2 dims")
        if self.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]:
            raise ShapeError(
                f"[{name}] {shapes}; queries and keys must have the same last size, keys and "
                "values the same number of rows"
            )
        if is_causal and attn_mask is not None:
            raise ArgumentError(f"[{name}] attn_mask with is_causal=True; give only one of them")
        if enable_gqa:
            key, value = key._for_heads(self, name), value._for_heads(self, name)
        if scale is None:
            scale = 1 / math.sqrt(max(1, self.shape[-1]))
        # Scores have 32 bits at least: neither the scale nor a maximum rounds them to 16 first.
        wide = self.dtype if self.dtype.itemsize > 2 else dtypes.float32
        scores = self.cast(wide) @ key.cast(wide).transpose(-2, -1) * scale
        if is_causal:
            attn_mask = self._new(_earlier(*scores.shape[-2:]))
        if attn_mask is not None and attn_mask.dtype.kind == "b":
            scores = scores.masked_fill(~attn_mask, -math.inf)  # type: ignore[operator]
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = scores.softmax(-1)
        result = weights.dropout(dropout_p).cast(self.dtype) @ value
        if not dropout_p and scores.shape[:-2] == value.shape[:-2]:
            compose(result.uop, (scores.uop, value.uop), _gradient(weights))
        return result

    def _for_heads(self, query: TensorBase, name: str) -> Self:
        """Keys or values with each head repeated for its group of the query's heads."""
        if query.ndim < 3 or self.ndim < 3 or query.shape[-3] % self.shape[-3]:
            raise ShapeError(
                f"[{name}] queries {query.shape} in groups for {self.shape}; the number of query "
                "heads (axis -3) must be a multiple of the other"
            )
        *outer, heads, rows, width = self.shape
        group = query.shape[-3] // heads
        repeated = self.unsqueeze(-3).expand(*outer, heads, group, rows, width)
        return repeated.reshape(*outer, heads * group, rows, width)


def _gradient(weights: TensorBase) -> Rule:
    """The gradients of weights @ value by the scores that the weights are the softmax of, and by
    the value.

    A softmax subtracts from the gradients by a row's weights their mean, by these weights. That is
    how far the row's result goes along its own gradient, so it takes no pass over the weights.
    """
    new, dtype, softmax = weights._new, weights.dtype, weights.uop

    def gradient(y: UOp, inputs: tuple[UOp, ...], g: UOp) -> tuple[UOp, UOp]:
        value, along, result = new(inputs[1]), new(g), new(y)
        wide = along.cast(dtype)
        by_weight = wide @ value.cast(dtype).transpose(-2, -1)
        mean = (wide * result.cast(dtype)).sum(-1, keepdim=True)
        by_score = new(softmax) * (by_weight - mean)
        by_value = new(softmax).cast(value.dtype).transpose(-2, -1) @ along
        return by_score.uop, by_value.uop

    return gradient


def _earlier(queries: int, keys: int) -> UOp:
    """bool (queries, keys): whether the key is not later than the query."""
    query = arrange(iota(queries), [0], (queries, keys))
    key = arrange(iota(keys), [1], (queries, keys))
    return key < query + 1
