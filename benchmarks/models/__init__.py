"""The networks, each written once for Dovetile and PyTorch alike."""

from __future__ import annotations
