"""The core's renderers for host functions, as the two CPU compilers want them."""

from __future__ import annotations

from dovetile.dtypes import DType
from dovetile.errors import UnsupportedError
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import buffer_of
from dovetile.render import HostCStyleRenderer, HostLlvmIrRenderer
from dovetile.render.writer import Writer, repeated_constant
from dovetile_cpu.matrix_units import INTRINSICS, TILES

# A tile register: 16 rows of 64 bytes. LLVM gives each value one, and configures all of them.
_TILE_BYTES = 1024
_SHAPE = "i16 16, i16 64"
_HELD = "<256 x i32>"
"""A tile between the steps of a loop, as LLVM's own type cannot be; no code comes of that."""


def _is_tile(dtype: DType) -> bool:
    return dtype.lanes * dtype.itemsize == _TILE_BYTES


class CpuLlvm(HostLlvmIrRenderer):
    """LLVM IR for `LlvmCompiler`."""

    def type(self, dtype: DType) -> str:
        return _HELD if _is_tile(dtype) else super().type(dtype)

    def matmul(self, node: UOp, writer: Writer) -> str:
        if node.arg.name not in TILES:
            return self._dot_products(node, writer)
        tile = "x86_amx"
        a, b, c = (self._as_tile(s, writer) for s in node.src)
        name = f"llvm.x86.{node.arg.name}.internal"
        function = writer.intrinsic(name, tile, "i16", "i16", "i16", tile, tile, tile)
        return self._held(
            f"{function}(i16 16, i16 64, i16 64, {tile} {c}, {tile} {a}, {tile} {b})", writer
        )

    def _dot_products(self, node: UOp, writer: Writer) -> str:
        a, b, c = node.src
        dtype = node.dtype
        text, words = self.type(dtype), f"<{dtype.lanes} x i32>"
        one = writer.emit(f"bitcast {self.type(a.dtype)} {writer.names[a]} to i32")
        first = writer.emit(f"insertelement {words} poison, i32 {one}, i64 0")
        every = writer.emit(
            f"shufflevector {words} {first}, {words} poison, {words} zeroinitializer"
        )
        operand = f"<{2 * dtype.lanes} x bfloat>" if node.arg.a == "bfloat16" else words
        x = writer.emit(f"bitcast {words} {every} to {operand}")
        y = writer.emit(f"bitcast {self.type(b.dtype)} {writer.names[b]} to {operand}")
        function = writer.intrinsic(INTRINSICS[node.arg.name], text, text, operand, operand)
        return writer.emit(
            f"call {text} {function}({text} {writer.names[c]}, {operand} {x}, {operand} {y})"
        )

    # -- tiles -------------------------------------------------------------------------------------

    def _held(self, call: str, writer: Writer) -> str:
        tile = writer.emit(f"call x86_amx {call}")
        cast = writer.intrinsic("llvm.x86.cast.tile.to.vector.v256i32", _HELD, "x86_amx")
        return writer.emit(f"call {_HELD} {cast}(x86_amx {tile})")

    def _as_tile(self, node: UOp, writer: Writer) -> str:
        if writer.names[node] == "zeroinitializer":
            function = writer.intrinsic("llvm.x86.tilezero.internal", "x86_amx", "i16", "i16")
            return writer.emit(f"call x86_amx {function}({_SHAPE})")
        cast = writer.intrinsic("llvm.x86.cast.vector.to.tile.v256i32", "x86_amx", _HELD)
        return writer.emit(f"call x86_amx {cast}({_HELD} {writer.names[node]})")

    def _vector(self, node: UOp, writer: Writer) -> str:
        if not _is_tile(node.dtype):
            return super()._vector(node, writer)
        if repeated_constant(node) != 0:
            raise UnsupportedError("[render] a tile of values; tiles are loaded, or begin as zero")
        return "zeroinitializer"

    def _load(self, node: UOp, writer: Writer) -> str:
        if not _is_tile(node.dtype) or buffer_of(node.src[0]).arg.space is AddressSpace.REG:
            return super()._load(node, writer)
        self._require_whole(node, node.src[0])
        types = ("x86_amx", "i16", "i16", "ptr", "i64")
        function = writer.intrinsic("llvm.x86.tileloadd64.internal", *types)
        return self._held(f"{function}({_SHAPE}, {writer.names[node.src[0]]}, i64 64)", writer)

    def _store(self, node: UOp, writer: Writer) -> None:
        address, value = node.src[:2]
        if not _is_tile(value.dtype) or buffer_of(address).arg.space is AddressSpace.REG:
            return super()._store(node, writer)
        self._require_whole(node, address)
        types = ("void", "i16", "i16", "ptr", "i64", "x86_amx")
        function = writer.intrinsic("llvm.x86.tilestored64.internal", *types)
        tile = self._as_tile(value, writer)
        writer.lines.append(
            f"  call void {function}({_SHAPE}, {writer.names[address]}, i64 64, x86_amx {tile})"
        )

    def _require_whole(self, node: UOp, address: UOp) -> None:
        if address.src[1].dtype.lanes > 1 or len(node.src) > (1 if node.op is Op.LOAD else 2):
            raise UnsupportedError(
                "[render] a tile in pieces of memory; its rows must follow each other"
            )


class CpuC(HostCStyleRenderer):
    """C for `ClangCompiler`."""
