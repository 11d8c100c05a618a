"""What is legal at each level of the IR, and the check of a graph against it."""

from __future__ import annotations

from dovetile.ir.spec.levels import LOOP as LOOP
from dovetile.ir.spec.levels import PROGRAM as PROGRAM
from dovetile.ir.spec.levels import TENSOR as TENSOR
from dovetile.ir.spec.verify import check as check
from dovetile.ir.spec.verify import verify as verify
