"""Simplification by rewrite rules: constants, integer algebra, logic, movement."""

from __future__ import annotations

from dovetile.ir.symbolic.constants import evaluate as evaluate
from dovetile.ir.symbolic.constants import simplify_constants as simplify_constants
from dovetile.ir.symbolic.integer import floor_divide as floor_divide
from dovetile.ir.symbolic.integer import floor_remainder as floor_remainder
from dovetile.ir.symbolic.integer import simplify_index as simplify_index
from dovetile.ir.symbolic.linear import from_linear as from_linear
from dovetile.ir.symbolic.linear import linear_bounds as linear_bounds
from dovetile.ir.symbolic.linear import linear_form as linear_form
from dovetile.ir.symbolic.logic import clauses as clauses
from dovetile.ir.symbolic.logic import fold_gates as fold_gates
from dovetile.ir.symbolic.logic import negate as negate
from dovetile.ir.symbolic.logic import simplify_gate as simplify_gate
from dovetile.ir.symbolic.logic import simplify_gates as simplify_gates
from dovetile.ir.symbolic.logic import simplify_logic as simplify_logic
from dovetile.ir.symbolic.logic import symbolic as symbolic
from dovetile.ir.symbolic.movement import simplify_movement as simplify_movement
