"""The plan of a graph: which kernels run, on what memory, in which order.

A plan knows its inputs only as slots, so equal graphs share one. It is plain data: it can be
written to disk as JSON and read by another process, which then needs no scheduler at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from dovetile import dtypes
from dovetile.dtypes import DType

PLAN_VERSION = 4


@dataclass(frozen=True)
class Reference:
    """A piece of memory: an input slot, a temporary, a result, or a device's fault word."""

    kind: str  # "input", "temporary", "result", "fault"
    number: int = 0


@dataclass
class Step:
    """One launch of a kernel, or a copy between devices (then `program` is None).

    parts: workgroups, or parts of a THREAD axis. threads: of each workgroup.
    prepares: whether it makes a temporary of inputs that the plan does not write. Nothing else uses
    that memory: what is in it stays right for as long as those inputs stay the same.
    early: whether it may begin before the step ahead of it is complete, which its kernel awaits.
    """

    device: str
    program: int | None
    memory: tuple[Reference, ...]
    parts: int = 1
    threads: int = 1
    label: str = ""
    operations: int = 0
    nbytes: int = 0
    prepares: bool = False
    early: bool = False


@dataclass
class Memory:
    """A temporary or a result."""

    device: str
    size: int
    dtype: DType
    offset: int = 0

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize


@dataclass
class Plan:
    """Steps in order of execution.

    programs: (name, key of the compiled code in the kernel cache) of every distinct kernel.
    arenas: bytes per device that the temporaries share.
    outputs: for every root what holds it.
    """

    steps: list[Step] = field(default_factory=list)
    programs: list[tuple[str, str, str]] = field(default_factory=list)
    temporaries: list[Memory] = field(default_factory=list)
    results: list[Memory] = field(default_factory=list)
    arenas: dict[str, int] = field(default_factory=dict)
    outputs: list[int | None] = field(default_factory=list)
    faults: dict[int, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""

        def memory(m: Memory) -> list:
            return [m.device, m.size, m.dtype.name, m.offset]

        return {
            "version": PLAN_VERSION,
            "programs": [list(p) for p in self.programs],
            "steps": [
                [s.device, s.program, [[r.kind, r.number] for r in s.memory], s.parts, s.threads,
                 s.label, s.operations, s.nbytes, s.prepares, s.early]
                for s in self.steps
            ],
            "temporaries": [memory(m) for m in self.temporaries],
            "results": [memory(m) for m in self.results],
            "arenas": self.arenas,
            "outputs": self.outputs,
            "faults": list(self.faults.items()),
        }  # fmt: skip

    @staticmethod
    def from_json(text: bytes) -> Plan | None:
        """The plan, or None where the text is not one of this version."""
        try:
            data = json.loads(text)
            if data["version"] != PLAN_VERSION:
                return None

            def memory(row: list) -> Memory:
                dtype = dtypes.from_name(row[2])
                if dtype is None:
                    raise ValueError(row[2])
                return Memory(row[0], row[1], dtype, row[3])

            return Plan(
                [
                    Step(device, program, tuple(Reference(k, n) for k, n in memory_of), *rest)
                    for device, program, memory_of, *rest in data["steps"]
                ],
                [(d, n, k) for d, n, k in data["programs"]],
                [memory(m) for m in data["temporaries"]],
                [memory(m) for m in data["results"]],
                data["arenas"],
                data["outputs"],
                dict(data["faults"]),
            )
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
