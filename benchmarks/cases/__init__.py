"""The rows' work, one module for each library; a function's name is the row's case."""

from __future__ import annotations
