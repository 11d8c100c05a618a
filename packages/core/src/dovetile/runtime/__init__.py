"""Devices, buffers, queues and programs: what runs once everything is compiled.

One hierarchy serves all targets. A Device allocates memory, loads programs and owns a Queue; a
Queue takes commands (launch, copy, signal, wait, timestamp), and replays captured lists of them.
"""

from __future__ import annotations

from dovetile.runtime.allocator import Allocation, CachingAllocator
from dovetile.runtime.buffer import Buffer
from dovetile.runtime.compile import Compiler, Renderer, compile_programs
from dovetile.runtime.counting import Counters, counters
from dovetile.runtime.device import Device, get_device
from dovetile.runtime.program import Program
from dovetile.runtime.queue import (
    Command,
    CommandList,
    Copy,
    Launch,
    Queue,
    Signal,
    SignalStore,
    SignalWait,
    Timestamp,
)

__all__ = [
    "Allocation",
    "Buffer",
    "CachingAllocator",
    "Command",
    "CommandList",
    "Compiler",
    "Copy",
    "Counters",
    "Device",
    "Launch",
    "Program",
    "Queue",
    "Renderer",
    "Signal",
    "SignalStore",
    "SignalWait",
    "Timestamp",
    "compile_programs",
    "counters",
    "get_device",
]
