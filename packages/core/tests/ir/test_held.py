"""What hangs on nodes goes with them."""

from __future__ import annotations

import weakref

from dovetile import dtypes
from dovetile.ir.held import attach, become, forget, forget_origin, realized, storage
from dovetile.ir.uop import UOp


class Memory:
    """Something that can be referred to weakly."""


def test_a_value_becomes_memory_and_can_be_forgotten() -> None:
    x, result = UOp.buffer(4, dtypes.float32), UOp.buffer(4, dtypes.float32)
    value = x + x
    assert realized(value) is value and realized(x) is x
    attach(result, Memory())
    become(value, result)
    assert realized(x + x) is result, "equal expressions are one node"
    assert realized(result) is result
    forget(value)
    assert realized(value) is value


def test_memory_goes_with_the_last_node_that_leads_to_it() -> None:
    x, result = UOp.buffer(4, dtypes.float32), UOp.buffer(4, dtypes.float32)
    memory = Memory()
    gone = weakref.ref(memory)
    attach(result, memory)
    value = x + x
    become(value, result.reshape((2, 2)))
    del memory, result
    assert gone() is not None
    del value
    assert gone() is None


def test_the_expression_that_memory_was_made_for_is_forgotten_when_it_is_written_to() -> None:
    x, result = UOp.buffer(4, dtypes.float32), UOp.buffer(4, dtypes.float32)
    value = x + x
    become(value, result)
    storage(result).origin = weakref.ref(value)
    forget_origin(result)
    assert realized(value) is value and storage(result).origin is None
    forget_origin(result)  # nothing more to forget


def test_no_node_is_born_with_anything() -> None:
    x = UOp.buffer(4, dtypes.float32)
    assert x.held is None and (x + x).held is None
    assert storage(x) is storage(x) and storage(x).memory is None
