"""The tests themselves, one file per level."""

from __future__ import annotations
