"""Plans as JSON."""

from __future__ import annotations

import json

import pytest

from dovetile import dtypes
from dovetile.schedule.plan import PLAN_VERSION, Memory, Plan, Reference, Step


def example() -> Plan:
    return Plan(
        steps=[
            Step("CPU", 0, (Reference("result", 0), Reference("input", 3)), 4, "[8x8] 16", 99, 512),
            Step("CPU", None, (Reference("temporary", 0), Reference("input", 1)), label="copy"),
            Step("CPU:1", 1, (Reference("fault"), Reference("temporary", 1))),
        ],
        programs=[("CPU", "kernel_a", "0123"), ("CPU:1", "kernel_b", "4567")],
        temporaries=[Memory("CPU", 7, dtypes.float16), Memory("CPU:1", 9, dtypes.bool_, 64)],
        results=[Memory("CPU", 64, dtypes.bfloat16)],
        arenas={"CPU": 64, "CPU:1": 128},
        outputs=[None, 0, 0],
        faults={4294967295: "[gather] index out of range"},
    )


def test_there_and_back() -> None:
    assert Plan.from_json(json.dumps(example().to_json()).encode()) == example()


def test_bytes_of_memory() -> None:
    assert [m.nbytes for m in (*example().temporaries, *example().results)] == [14, 9, 128]


def damaged(**changes: object) -> bytes:
    return json.dumps({**example().to_json(), **changes}).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        damaged(version=PLAN_VERSION + 1),
        damaged(steps=[["CPU", 0]]),
        damaged(results=[["CPU", 4, "float17", 0]]),
        damaged(temporaries=[[]]),
        damaged(faults=7),
        json.dumps({"version": PLAN_VERSION}).encode(),
    ],
)
def test_other_text_is_no_plan(text: bytes) -> None:
    assert Plan.from_json(text) is None
