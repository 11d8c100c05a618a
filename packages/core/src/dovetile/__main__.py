"""``python -m dovetile`` is ``dovetile``."""

from __future__ import annotations

import sys

from dovetile.cli import main

if __name__ == "__main__":
    sys.exit(main())
