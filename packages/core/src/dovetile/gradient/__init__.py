"""Gradients, from graph to graph: so the gradient of a gradient is one more call."""

from __future__ import annotations

from dovetile.gradient.backward import gradients as gradients
from dovetile.gradient.backward import leaf_gradients as leaf_gradients
