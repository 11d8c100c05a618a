"""Keys of what is kept on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from dovetile.schedule import keys


def test_edited_code_has_another_fingerprint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = tmp_path / "schedule"
    stage.mkdir()
    monkeypatch.setattr(keys, "__file__", str(stage / "keys.py"))
    code = stage / "make.py"
    code.write_text("answer = 1\n")
    first = keys.code_fingerprint.__wrapped__()
    assert keys.code_fingerprint.__wrapped__() == first
    code.write_text("answer = 2\n")
    assert keys.code_fingerprint.__wrapped__() != first
