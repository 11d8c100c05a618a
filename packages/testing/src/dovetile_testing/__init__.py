"""The conformance kit: ``pytest --pyargs dovetile_testing.suite --device=NAME``."""

from __future__ import annotations
