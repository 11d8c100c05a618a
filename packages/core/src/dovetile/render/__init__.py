"""Linear kernels as text: LLVM IR and C-style, from two small base renderers."""

from dovetile.render.host import HostLlvmIrRenderer as HostLlvmIrRenderer
from dovetile.render.llvm_ir import LlvmIrRenderer as LlvmIrRenderer
