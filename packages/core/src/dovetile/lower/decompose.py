"""What a target cannot do, written in operations it can: rules parameterised by Capabilities.

`decompositions(capabilities)` is the last rule set before a kernel is made linear. After it

* small floats a target only stores are computed in float32;
* signed division is division of values that are not negative, and no divisor is zero;
* shifts stay below the width of their type; casts from floats are ones that hardware defines;
* EXP2, LOG2, SIN, SQRT and TRUNC are gone where they are not native (see `decompose_math`);
* `x + y * -1` is SUB and `x * y + z` is MULACC, where the target has it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import COMPARISON, Op
from dovetile.ir.pattern import Pat, Rule, RuleSet
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower import decompose_math
from dovetile.plugins.specs import Capabilities
from dovetile.render.writer import bits_only, repeated_constant

FLOAT_ARITHMETIC = (
    Op.ADD, Op.SUB, Op.MUL, Op.DIV, Op.MAX, Op.MIN, Op.LT, Op.NE, Op.MULACC, Op.SQRT, Op.TRUNC,
    Op.EXP2, Op.LOG2, Op.SIN,
)  # fmt: skip
FUNCTIONS = {
    Op.EXP2: decompose_math.exp2, Op.LOG2: decompose_math.log2, Op.SIN: decompose_math.sine,
    Op.SQRT: decompose_math.square_root, Op.TRUNC: decompose_math.truncate,
}  # fmt: skip


@lru_cache(maxsize=64)
def decompositions(capabilities: Capabilities) -> RuleSet:
    """The rules for a target."""
    rules = small_float_rules(capabilities) + integer_rules() + cast_rules()
    for op, function in FUNCTIONS.items():
        if op.name not in capabilities.native_ops:
            rules.append((Pat(op, name="node"), _where_not_native(function, capabilities)))
    return RuleSet(rules + fusion_rules(capabilities), "decompositions")


def _where_not_native(function: Callable, capabilities: Capabilities) -> Callable:
    """`function` on the types that the target has no native operation for."""

    def decompose(node: UOp) -> UOp | None:
        if not capabilities.native(node.op.name, node.dtype.name):
            return function(node)
        # A native exp2 takes its argument rounded, which counts where that is as large as in exp.
        exact = node.arg is None and decompose_math.is_exp(node)
        return function(node) if exact else None

    return decompose


# -- small floats ------------------------------------------------------------------------------


def widen(sink: UOp, capabilities: Capabilities) -> UOp:
    """`sink` with the arithmetic of small floats that the target does not compute in done in
    float32: what follows an operation takes its result as it is, what is stored is rounded."""
    narrow = {
        dtype for dtype in dtypes.SMALL_FLOATS if dtype.name not in capabilities.arithmetic_dtypes
    }
    nodes = nodes_of(sink)
    if not any(node.dtype.scalar in narrow for node in nodes):
        return sink
    done: dict[UOp, UOp] = {}
    wide: dict[UOp, UOp] = {}
    for node in nodes:
        op, src = node.op, node.src
        if op is Op.CAST and node.dtype.scalar is dtypes.float32 and src[0] in wide:
            done[node] = wide[src[0]]
            continue
        values = src[1:] if op is Op.WHERE else src
        computes = op in FLOAT_ARITHMETIC or op is Op.WHERE
        if not computes or values[0].dtype.scalar not in narrow:
            done[node] = node.with_sources(tuple([done[s] for s in src]))
            continue
        operands = [wide[s] if s in wide else done[s].cast(dtypes.float32) for s in values]
        condition = (done[src[0]],) if op is Op.WHERE else ()
        if op in COMPARISON:
            done[node] = UOp(op, node.dtype, tuple(operands))
            continue
        wide[node] = UOp(op, operands[0].dtype, (*condition, *operands), node.arg)
        done[node] = wide[node].cast(node.dtype.scalar)
    return done[sink]


def small_float_rules(capabilities: Capabilities) -> list[Rule]:
    """Small floats through float32, where they are not native."""
    rules: list[Rule] = []
    bits = bits_only(capabilities)
    for dtype in dtypes.SMALL_FLOATS:
        wide = FLOAT_ARITHMETIC
        if dtype.name in capabilities.arithmetic_dtypes:
            # The functions are polynomials, which must be computed wider in any case.
            wide = tuple(op for op in FUNCTIONS if not capabilities.native(op.name, dtype.name))
        if wide:
            rules.append((Pat(wide, name="node"), _in_float32(dtype)))
        if dtype.name not in capabilities.arithmetic_dtypes:
            rules.append((Pat(Op.CAST, name="node"), _through_float32(dtype)))
        if dtype.name in bits:
            rules.append((Pat(Op.CAST, name="node"), _by_bits(dtype)))
    return rules


def _in_float32(dtype: DType):
    def compute(node: UOp) -> UOp | None:
        if node.src[0].dtype.scalar is not dtype:
            return None
        wide = tuple(s.cast(dtypes.float32) for s in node.src)
        if node.op in COMPARISON:
            return UOp(node.op, node.dtype, wide)
        return UOp(node.op, wide[0].dtype, wide).cast(dtype)

    return compute


def _through_float32(dtype: DType):
    """Casts from and to the type that are not from and to float32 already."""

    def cast(node: UOp) -> UOp | None:
        source, target = node.src[0].dtype.scalar, node.dtype.scalar
        if dtype not in (source, target) or dtypes.float32 in (source, target):
            return None
        return node.src[0].cast(dtypes.float32).cast(target)

    return cast


def _by_bits(dtype: DType):
    form = _FORMS.get(dtype)
    widen = _bfloat16_to_float32 if form is None else form.to_float32
    narrow = _float32_to_bfloat16 if form is None else form.of_float32
    unsigned = unsigned_of(dtype)

    def cast(node: UOp) -> UOp | None:
        source, target = node.src[0].dtype.scalar, node.dtype.scalar
        if source is dtype and target is dtypes.float32:
            return widen(node.src[0].bitcast(unsigned).cast(dtypes.uint32))
        if source is dtypes.float32 and target is dtype:
            value = node.src[0]
            bits = narrow(value, value.bitcast(dtypes.uint32))
            return bits.cast(unsigned).bitcast(dtype)
        return None

    return cast


def _bfloat16_to_float32(bits: UOp) -> UOp:
    return (bits << 16).bitcast(dtypes.float32)


def _float32_to_bfloat16(value: UOp, bits: UOp) -> UOp:
    """Rounds to nearest, ties to even; a NaN stays a (quiet) NaN."""
    rounded = (bits + ((bits >> 16) & 1) + 0x7FFF) >> 16
    return value.ne(value).where((bits >> 16) | 0x40, rounded)


@dataclass(frozen=True)
class _Form:
    """How the bits of a small float, one of fewer exponents than float32, are read."""

    bits: int
    mantissa: int
    bias: int
    """Of the exponent."""
    special: int
    """The bits of what is too large; from these on, they are infinite or no number."""
    beyond: float
    """What these bits would be if they were a number."""
    not_a_number: int

    @property
    def shift(self) -> int:
        """How many bits of the mantissa of a float32 it lacks."""
        return 23 - self.mantissa

    def to_float32(self, bits: UOp) -> UOp:
        """Read as float32, the exponent is too small by a constant; the product with a power of two
        also mends denormals."""
        sign = 1 << (self.bits - 1)
        magnitude = (bits & (sign - 1)) << self.shift
        value = magnitude.bitcast(dtypes.float32) * 2.0 ** (127 - self.bias)
        special = (bits & (sign - 1)) >= self.special
        value = special.where(magnitude | 0x7F800000, value.bitcast(dtypes.uint32))
        return (value | ((bits & sign) << (32 - self.bits))).bitcast(dtypes.float32)

    def of_float32(self, value: UOp, bits: UOp) -> UOp:
        """Rounds to nearest, ties to even, by integer arithmetic; denormals by adding the power of
        two whose last place is theirs."""
        magnitude = bits & 0x7FFFFFFF
        half = (1 << (self.shift - 1)) - 1
        rebias = (127 - self.bias) << 23
        normal = (magnitude + ((magnitude >> self.shift) & 1) + (half - rebias)) >> self.shift
        least = 2.0 ** (self.shift + 1 - self.bias)
        denormal = (magnitude.bitcast(dtypes.float32) + least).bitcast(dtypes.uint32)
        result = (magnitude < _pattern(2.0 ** (1 - self.bias))).where(
            denormal + -_pattern(least), normal
        )
        result = (magnitude < _pattern(self.beyond)).where(result, self.special)
        result = value.ne(value).where(result.const_like(self.not_a_number), result)
        return result | ((bits >> (32 - self.bits)) & 1 << (self.bits - 1))


def _pattern(number: float) -> int:
    return dtypes.float32.pattern(number)


_FORMS = {
    dtypes.float8_e4m3fn: _Form(8, 3, 7, 0x7F, 480.0, 0x7F),
    dtypes.float8_e5m2: _Form(8, 2, 15, 0x7C, 65536.0, 0x7E),
    dtypes.float16: _Form(16, 10, 15, 0x7C00, 65536.0, 0x7E00),
}


# -- integers ----------------------------------------------------------------------------------


def integer_rules() -> list[Rule]:
    """Division as every machine has it, and shifts by any amount."""
    return [
        (Pat(Op.FLOORDIV, name="node"), floor_divide),
        (Pat(Op.FLOORMOD, name="node"), floor_modulo),
        (Pat((Op.SHL, Op.SHR), name="node"), shift),
    ]


def unsigned_of(dtype: DType) -> DType:
    """The unsigned integers of the same size."""
    return getattr(dtypes, f"uint{dtype.bits}")


def floor_divide(node: UOp) -> UOp | None:
    """Divides magnitudes, which is exact for every value, and mends the sign: for a negative
    quotient -ceil(a / b) is ~((a - 1) // b)."""
    a, b = node.src
    unsigned = unsigned_of(a.dtype)
    if b.minimum > 0:
        if a.minimum >= 0:
            return None  # rendered as it stands
        sign, magnitude = _sign_and_magnitude(a)
        return (magnitude // b.cast(unsigned)).cast(a.dtype.scalar) ^ sign
    if b.dtype.kind == "u":
        quotient = a // b.maximum_with(1)
    else:
        negative = a.ne(0) & ((a < 0).ne(b < 0))
        magnitude = _absolute(a) - negative.cast(unsigned)
        quotient = (magnitude // _absolute(b).maximum_with(1)).cast(a.dtype.scalar)
        quotient = quotient ^ (negative.cast(a.dtype.scalar) * -1)
    return b.ne(0).where(quotient, 0)


def floor_modulo(node: UOp) -> UOp | None:
    """The remainder that belongs to the quotient of `floor_divide`."""
    a, b = node.src
    if a.minimum >= 0 and b.minimum > 0:
        return None
    if b.minimum > 0:  # of a negative a: b - 1 - (~a mod b)
        sign, magnitude = _sign_and_magnitude(a)
        rest = (magnitude % b.cast(unsigned_of(a.dtype))).cast(a.dtype.scalar)
        return (rest ^ sign) + (b & sign)
    if b.dtype.kind == "u":
        return b.ne(0).where(a % b.maximum_with(1), 0)
    return b.ne(0).where(a - (a // b) * b, 0)


def _sign_and_magnitude(a: UOp) -> tuple[UOp, UOp]:
    """(-1 where a is negative else 0, ~a there else a; unsigned)."""
    sign = a >> (a.dtype.bits - 1)
    return sign, (a ^ sign).cast(unsigned_of(a.dtype))


def _absolute(a: UOp) -> UOp:
    """|a|, unsigned; right for the least value too."""
    unsigned = unsigned_of(a.dtype)
    return (a < 0).where(a.cast(unsigned) * -1, a.cast(unsigned))


def shift(node: UOp) -> UOp | None:
    """Shifting out all bits leaves 0, or the sign of a signed number shifted right."""
    value, amount = node.src
    limit = value.dtype.bits - 1
    if 0 <= amount.minimum and amount.maximum <= limit:
        return None
    unsigned = amount.cast(unsigned_of(amount.dtype))  # negative amounts are large ones
    if node.op is Op.SHR and value.dtype.kind == "i":
        return value >> unsigned.minimum_with(limit).cast(amount.dtype.scalar)
    inside = unsigned < limit + 1
    return inside.where(UOp(node.op, node.dtype, (value, amount & limit)), 0)


# -- casts -------------------------------------------------------------------------------------


def cast_rules() -> list[Rule]:
    """Casts from float to bool and to those integers that hardware does not convert to."""
    return [(Pat(Op.CAST, name="node"), cast_float)]


def cast_float(node: UOp) -> UOp | None:
    """As C compilers do it: narrow integers keep the low bits of wider ones, so that negative
    numbers wrap. What is out of the range of these is left to the hardware."""
    value, target = node.src[0], node.dtype.scalar
    if {value.dtype.scalar, target} == {dtypes.float16, dtypes.bfloat16}:
        return value.cast(dtypes.float32).cast(target)  # neither holds the other
    if target.kind == "b":
        return value.ne(0) if value.dtype.kind != "b" else None
    if value.dtype.kind != "f" or target.kind not in "ui":
        return None
    if target.itemsize < 4:
        return value.cast(dtypes.int32).cast(target)
    if target is dtypes.uint32:
        return value.cast(dtypes.int64).cast(target)
    if target is dtypes.uint64:
        value = value.cast(dtypes.float32) if value.dtype.itemsize < 4 else value
        large = (value < 2.0**63).logical_not()
        low = large.where(value - 2.0**63, value).cast(dtypes.int64).cast(target)
        return low ^ large.where(low.const_like(1 << 63), 0)
    return None


# -- fusions -----------------------------------------------------------------------------------


def fusion_rules(capabilities: Capabilities) -> list[Rule]:
    """SUB, and MULACC where the target has it."""
    x, y, z = Pat.var("x"), Pat.var("y"), Pat.var("z")
    minus = Pat((Op.CONST, Op.VECTOR), name="minus")
    rules: list[Rule] = [(x + y * minus, _subtract)]
    if "MULACC" in capabilities.native_ops:
        rules.append((Pat(Op.ADD, (Pat(Op.MUL, (x, y)), z), kind="f"), _multiply_add))
    return rules


def _subtract(x: UOp, y: UOp, minus: UOp) -> UOp | None:
    if repeated_constant(minus) != -1 or minus.dtype.kind == "b":
        return None
    if y.op is Op.CONST or x.dtype.kind == "b":
        return None
    return UOp(Op.SUB, x.dtype, (x, y))


def _multiply_add(x: UOp, y: UOp, z: UOp) -> UOp | None:
    if repeated_constant(x) == -1.0 or repeated_constant(y) == -1.0:
        return None  # a SUB
    return UOp(Op.MULACC, x.dtype, (x, y, z))
