"""The compiler of Python text: it checks the syntax, and the text is its own binary."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dovetile.errors import CompileError


class PythonCompiler:
    language = "python"

    def available(self) -> str | None:
        return None

    def fingerprint(self) -> str:
        return f"dovetile-testing simt 1 {sys.implementation.cache_tag}"

    def compile(self, source: str) -> bytes:
        try:
            compile(source, "<kernel>", "exec")
        except (SyntaxError, ValueError) as error:
            raise CompileError(f"[compile] the source is not Python: {error}") from error
        return source.encode()

    def compile_many(self, sources: Sequence[str]) -> list[bytes]:
        return [self.compile(source) for source in sources]
