"""Gradients of composed functions, where a formula is better than the sum of the parts' rules.

tanh, for instance, is computed by a polynomial or by exponentials, but its derivative is simply
1 - tanh(x)**2. The rules stand beside the graph: the gradient pass looks up a node here first, and
then goes on at the inputs and never looks at what lies between.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import NamedTuple

from dovetile.ir.uop import UOp

Rule = Callable[[UOp, tuple[UOp, ...], UOp], "tuple[UOp | None, ...]"]


class Composed(NamedTuple):
    """The inputs of a composed function, and rule(result, inputs, gradient) -> their gradients.

    A rule must not hold on to the result itself: the table would keep it alive.
    """

    inputs: tuple[UOp, ...]
    rule: Rule


_table: weakref.WeakKeyDictionary[UOp, Composed] = weakref.WeakKeyDictionary()


def compose(result: UOp, inputs: tuple[UOp, ...], rule: Rule) -> UOp:
    """`result`, whose gradient is found by `rule` from now on."""
    if result not in inputs:
        _table[result] = Composed(inputs, rule)
    return result


def composed(node: UOp) -> Composed | None:
    return _table.get(node)
