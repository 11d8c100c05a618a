"""What holds for all tests."""

from __future__ import annotations

import signal

# A shell's background jobs ignore Ctrl-C, and so would the processes that they start: the tests of
# interruption would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
