"""Tensor: the array that users compute with, as a lazy graph."""

from __future__ import annotations

from dovetile.tensor.base import enable_grad as enable_grad
from dovetile.tensor.base import is_grad_enabled as is_grad_enabled
from dovetile.tensor.base import live_tensors as live_tensors
from dovetile.tensor.base import no_grad as no_grad
from dovetile.tensor.base import realize_all as realize_all
from dovetile.tensor.tensor import Tensor as Tensor
