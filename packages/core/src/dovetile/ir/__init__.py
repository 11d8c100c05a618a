"""The intermediate representation: one node type, few operations, rewrite rules as data."""

from __future__ import annotations

from dovetile.ir.ops import AddressSpace as AddressSpace
from dovetile.ir.ops import AxisKind as AxisKind
from dovetile.ir.ops import Op as Op
from dovetile.ir.pattern import Pat as Pat
from dovetile.ir.pattern import RuleSet as RuleSet
from dovetile.ir.rewrite import rewrite as rewrite
from dovetile.ir.rewrite import substitute as substitute
from dovetile.ir.uop import UOp as UOp
from dovetile.ir.uop import toposort as toposort
