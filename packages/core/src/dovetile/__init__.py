"""Dovetile: a deep-learning tensor compiler whose devices plug in."""

from __future__ import annotations

__version__ = "0.1.0"
