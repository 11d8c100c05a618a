"""Linear kernels as text: LLVM IR and C-style, from two small base renderers."""

from __future__ import annotations

from dovetile.render.c_style import CStyleRenderer as CStyleRenderer
from dovetile.render.host import HostCStyleRenderer as HostCStyleRenderer
from dovetile.render.host import HostLlvmIrRenderer as HostLlvmIrRenderer
from dovetile.render.lanes import in_lanes as in_lanes
from dovetile.render.llvm_ir import LlvmIrRenderer as LlvmIrRenderer
from dovetile.render.writer import Writer as Writer
from dovetile.render.writer import bits_only as bits_only
from dovetile.render.writer import indices_fit as indices_fit
