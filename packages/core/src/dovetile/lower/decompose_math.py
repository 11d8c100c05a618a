"""EXP2, LOG2, SIN, SQRT and TRUNC in arithmetic that every target has.

Each function takes such a node and returns its value for float32 and float64, scalars and vectors
alike: without branches, right for denormals, infinities and NaN, and off by at most about two units
in the last place. The polynomials are minimax fits by the Remez exchange algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.render.writer import repeated_constant

LN2 = 0.6931471805599453094172
LOG2_E = 1.4426950408889634073599
LOG2_E_LOW = 2.0355273740931033e-17  # what float64 cuts off from the above
PI_HALF = 1.5707963267948966192313
PI_HALF_LOW = 6.123233995736766e-17
INFINITY, NAN = float("inf"), float("nan")


@dataclass(frozen=True)
class _Format:
    """What one float type is made of, and the polynomials fitted to it."""

    integer: DType
    """Signed integers of the same size."""
    mantissa: int
    """Bits stored of the mantissa."""
    bias: int
    """Of the exponent."""
    ln2_high: float
    """ln 2 in so few bits that its product with any exponent is exact."""
    ln2_low: float
    exp2: tuple[float, ...]
    """(2**f - 1) / f for -0.5 <= f <= 0.5, in powers of f."""
    exp: tuple[float, ...]
    """(e**f - 1) / f for -ln(2)/2 <= f <= ln(2)/2, in powers of f."""
    log2: tuple[float, ...]
    """float32: log2(1 + f) / f - 1 for sqrt(1/2) <= 1 + f < sqrt(2), in powers of f. float64:
    (2 atanh(s) / s - 2) / s**2 for the same values of f, s = f / (2 + f), in powers of s**2."""
    sine: tuple[float, ...]
    """(sin(r) / r - 1) / r**2 for -pi/4 <= r <= pi/4, in powers of r**2."""
    cosine: tuple[float, ...]
    """(cos(r) - 1 + r**2 / 2) / r**4 for the same, in powers of r**2."""

    @property
    def unsigned(self) -> DType:
        return getattr(dtypes, f"uint{self.integer.bits}")

    @property
    def least_normal(self) -> float:
        return 2.0 ** (1 - self.bias)


_FORMATS = {
    "float32": _Format(
        dtypes.int32, 23, 127, 0.693359375, -2.1219444005469057e-4,
        (0.69314720280089790615, 0.24022647923244117959, 0.055503325465777117762,
         0.0096184363831007868921, 0.0013398851857248021214, 0.00015353599361152434983),
        (1.0, 0.49999993373200373395, 0.16666519524844055574, 0.041668401067381034181,
         0.008368850996764721104, 0.0013814321072935309653),
        (0.44269504082993584618, -0.72134735150058423524, 0.48089824105773410198,
         -0.36069664941131572596, 0.28856740838271186043, -0.23961740352130173998,
         0.20460061971365876861, -0.19106275498538387005, 0.18617496151871353393,
         -0.10994955042302557617),
        (-0.16666654946030161105, 0.0083321781875251457235, -0.000195172962226876864),
        (0.041666646885541163142, -0.0013887368237104402342, 0.000024438517112753174675),
    ),
    "float64": _Format(
        dtypes.int64, 52, 1023, 0.693147180369123816490, 1.90821492927058770002e-10,
        (0.69314718055994532563, 0.24022650695910131073, 0.055504108664820093375,
         0.0096181291075941827001, 0.0013333558146772837167, 0.00015403530457043357941,
         0.000015252733494479978949, 1.3215435312927497753e-6, 1.0178199107152074825e-7,
         7.0737784637087474862e-9, 4.4348307733234156336e-10),
        (1.0, 0.50000000000000127444, 0.16666666666666208175, 0.041666666666515442947,
         0.0083333333335531714328, 0.0013888888947042640609, 0.00019841269431927696126,
         0.000024801489863728980543, 2.7557629159462409651e-6, 2.7631328350770450389e-7,
         2.4991190736872908268e-8),
        (0.66666666666667302166, 0.39999999999436903112, 0.28571428738165632773,
         0.22222198957343344231, 0.18183546199368646161, 0.1531447850541287083,
         0.14791951575927203856),
        (-0.16666666666666666641, 0.008333333333333322841, -0.00019841269841255146675,
         2.7557319214230686243e-6, -2.5052104921985826839e-8, 1.6058367948852532052e-10,
         -7.5787634494589250656e-13),
        (0.041666666666666666616, -0.0013888888888888874404, 0.000024801587301571683893,
         -2.7557319215447604885e-7, 2.0876754380810449975e-9, -1.1470294795825933978e-11,
         4.7381732449117416789e-14),
    ),
}  # fmt: skip


def _format_of(node: UOp) -> _Format | None:
    return _FORMATS.get(node.dtype.name)


def _polynomial(x: UOp, coefficients: tuple[float, ...]) -> UOp:
    """Horner's scheme."""
    result = x.const_like(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = result * x + c
    return result


# -- exponential and logarithm -----------------------------------------------------------------


def exp2(node: UOp) -> UOp | None:
    """2**x = 2**n * 2**f, n the nearest integer. The factor 2**n is applied in two steps, each of
    which is a normal number, so that denormal results and the overflow to infinity come by
    themselves.

    Of x = y * log2(e), as exp is written, e**f is computed with f = y - n ln 2, ln 2 in two parts:
    rounding the product would cost up to 100 units in the last place.
    """
    form = _format_of(node)
    if form is None:
        return None
    x = node.src[0]
    base = _exponent_of_e(x)
    unit = 1.0 if base is None else LN2
    low, high = (-form.bias - form.mantissa - 2) * unit, (form.bias + 2) * unit
    limited = (x if base is None else base).maximum_with(low).minimum_with(high)
    # Adding 1.5 * 2**mantissa leaves no bits for fractions. The lowest bits are then an integer;
    # with this addend, n + 2 * bias, the sum of the exponents (as stored) of both factors.
    shift = 1.5 * 2.0**form.mantissa + 2 * form.bias
    shifted = (limited if base is None else limited * LOG2_E) + shift
    whole = shifted - shift
    if base is None:
        fraction, coefficients = limited - whole, form.exp2
    else:
        fraction = (limited - whole * form.ln2_high) - whole * form.ln2_low
        coefficients = form.exp
    power = _polynomial(fraction, coefficients) * fraction + 1.0
    exponents = shifted.bitcast(form.integer)
    half = exponents >> 1
    first, second = (
        (exponent << form.mantissa).bitcast(x.dtype.scalar) for exponent in (half, exponents - half)
    )
    # Zero is not left to rounding: a processor may take a hundred times as long for a product that
    # is too small, and of masked scores half are minus infinity.
    return power * first * (limited > low).where(second, 0.0)


def is_exp(node: UOp) -> bool:
    """Whether the node is 2**(y * log2(e))."""
    return node.op is Op.EXP2 and _exponent_of_e(node.src[0]) is not None


def _exponent_of_e(x: UOp) -> UOp | None:
    """y where `x` is y * log2(e), up to the sign of the constant."""
    if x.op is not Op.MUL:
        return None
    expected = x.dtype.convert(LOG2_E)
    for factor, y in (x.src, x.src[::-1]):
        if repeated_constant(factor) == expected:
            return y
        if repeated_constant(factor) == -expected:
            return y * -1.0
    return None


def log2(node: UOp) -> UOp | None:
    """log2(x) = e + log2(m) with x = m * 2**e and m between sqrt(1/2) and sqrt(2)."""
    form = _format_of(node)
    if form is None:
        return None
    x = node.src[0]
    up = form.mantissa + 2  # brings denormals among the normal numbers
    tiny = x < form.least_normal
    bits = tiny.where(x * 2.0**up, x).bitcast(form.integer)
    root = x.const_like(0.5**0.5).bitcast(form.integer)
    exponent = (bits - root) >> form.mantissa
    f = (bits - (exponent << form.mantissa)).bitcast(x.dtype.scalar) - 1.0
    whole = (exponent - tiny.where(exponent.const_like(up), 0)).cast(x.dtype.scalar)
    result = whole + (_log2_near_one_64(f, form) if form.mantissa > 23 else
                      _polynomial(f, form.log2) * f + f)  # fmt: skip
    outside = x.ne(0).where(x.const_like(NAN), -INFINITY)
    return (x > 0).where((x < INFINITY).where(result, INFINITY), outside)


def _log2_near_one_64(f: UOp, form: _Format) -> UOp:
    """log2(1 + f). With s = f / (2 + f) and R = s**2 * polynomial, ln(1 + f) is
    f - (f**2 / 2 - s * (f**2 / 2 + R)): f is exact, all else is small."""
    s = f / (f + 2.0)
    square = s * s
    half = f * f * 0.5
    logarithm = f - (half - s * (half + _polynomial(square, form.log2) * square))
    return logarithm * LOG2_E_LOW + logarithm * LOG2_E


# -- sine --------------------------------------------------------------------------------------


def sine(node: UOp) -> UOp | None:
    """sin(x), and where x is y + pi/2, as cosine is written, cos(y), which needs no rounded sum.

    |x| = quadrant * pi/2 + r, -pi/4 <= r <= pi/4, by the method of Payne and Hanek (1983), exact
    for every x: multiply by those bits of 2/pi that matter, in integers.
    """
    form = _format_of(node)
    if form is None:
        return None
    x = node.src[0]
    shifted = _argument_of_cosine(x)
    x = x if shifted is None else shifted
    dtype = x.dtype.scalar
    bits = x.bitcast(form.unsigned)
    sign = bits & (1 << form.integer.bits - 1)
    magnitude = bits ^ sign
    absolute = magnitude.bitcast(dtype)
    quadrant, reduced = _reduce(magnitude, form, dtype)
    small = absolute < PI_HALF / 2
    r = small.where(absolute, reduced)
    quadrant = small.where(quadrant.const_like(0), quadrant)
    if shifted is not None:
        quadrant, sign = quadrant + 1, sign.const_like(0)
    square = r * r
    sine_of_r = _polynomial(square, form.sine) * square * r + r
    cosine_of_r = _polynomial(square, form.cosine) * square * square + (square * -0.5 + 1.0)
    value = (quadrant & 1).ne(0).where(cosine_of_r, sine_of_r)
    sign = sign ^ ((quadrant & 2) << form.integer.bits - 2)
    value = (value.bitcast(form.unsigned) ^ sign).bitcast(dtype)
    return (absolute < INFINITY).where(value, NAN)


def _argument_of_cosine(x: UOp) -> UOp | None:
    if x.op is Op.ADD:
        for constant, y in (x.src, x.src[::-1]):
            if repeated_constant(constant) == x.dtype.convert(PI_HALF):
                return y
    return None


def _reduce(magnitude: UOp, form: _Format, dtype: DType) -> tuple[UOp, UOp]:
    """(quadrant modulo 4, r) of the number with these bits, for numbers of at least 1/2.

    The number is an integer m of mantissa + 1 bits times 2**e. The product of m and 2/pi * 2**e
    is wanted modulo 4 with enough bits after the point to survive cancellation: 3 limbs of 32 bits
    for float32 and 6 for float64, beginning with the bit of 2/pi * 2**e that weighs 2.
    """
    limbs = 3 if form.mantissa == 23 else 6
    last = form.bias - form.mantissa  # greatest e
    start = -form.mantissa - 1  # least e, that of 1/2
    exponent = magnitude >> form.mantissa
    position = (exponent - (form.bias + form.mantissa + start)).cast(dtypes.uint32)
    window = _window(position, _two_over_pi(last - start, limbs, start), limbs)
    integer = (magnitude & ((1 << form.mantissa) - 1)) | (1 << form.mantissa)
    integer = integer.cast(dtypes.uint64)
    factors = [integer] if limbs == 3 else [integer & 0xFFFFFFFF, integer >> 32]
    product = _multiply(factors, window)
    high = (product[-1] << 32) | product[-2]
    quadrant = (high + (1 << 61)) >> 62
    fraction = (high - (quadrant << 62)).bitcast(dtypes.int64)
    # r = fraction * 2**-62 * pi/2 with one rounding that counts: both factors are split into a
    # high half, whose product is exact, and a rest.
    cut = (form.mantissa + 1) // 2
    mask = -(1 << cut)
    coarse = (fraction.cast(dtype).bitcast(form.integer) & mask).bitcast(dtype)
    fine = (fraction - coarse.cast(dtypes.int64)).cast(dtype)
    if limbs > 3:
        low = (product[-3] << 32) | product[-4]
        fine = low.cast(dtype) * 2.0**-64 + fine
    unit = 2.0 ** (form.mantissa - cut)
    high_factor = int(PI_HALF * unit) / unit
    low_factor = (PI_HALF - high_factor) + PI_HALF_LOW
    rest = coarse * (low_factor * 2.0**-62) + fine * (PI_HALF * 2.0**-62)
    return quadrant.cast(form.unsigned), coarse * (high_factor * 2.0**-62) + rest


def _window(position: UOp, words: list[int], limbs: int) -> list[UOp]:
    """`limbs` words of 32 bits from bit `position` of the constant on, least significant first."""
    index, shift = position >> 5, position & 31
    table = [position.const_like(word) for word in words]
    level = (len(words) - limbs - 1).bit_length()
    while level:  # picks words[index + i] for every i, one bit of the index at a time
        level -= 1
        far = 1 << level
        bit = (index & far).ne(0)
        table = [
            bit.where(table[i + far], table[i]) if i + far < len(table) else table[i]
            for i in range(min(far + limbs, len(table)))
        ]
    result = []
    for i in reversed(range(limbs)):
        word = (table[i] << shift) | ((table[i + 1] >> 1) >> ((shift ^ 31) & 31))
        result.append(word.cast(dtypes.uint64))
    return result


def _multiply(left: list[UOp], right: list[UOp]) -> list[UOp]:
    """Limbs of left * right modulo 2**(32 * len(right)), least significant first, all uint64."""
    columns: list[list[UOp]] = [[] for _ in range(len(right) + len(left) + 1)]
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            if i + j < len(right):
                product = a * b
                columns[i + j].append(product & 0xFFFFFFFF)
                columns[i + j + 1].append(product >> 32)
    result: list[UOp] = []
    for k in range(len(right)):
        total = columns[k][0]
        for term in columns[k][1:]:
            total = total + term
        columns[k + 1].append(total >> 32)
        result.append(total & 0xFFFFFFFF)
    return result


@cache
def _two_over_pi(span: int, limbs: int, start: int) -> list[int]:
    """Words of 32 bits of 2/pi, most significant first, enough for positions 0 to `span`.

    Bit 0 is the one that weighs 2 after multiplication by 2**start.
    """
    count = span // 32 + limbs + 1
    guard = 64
    one = 1 << (32 * count + guard)

    def arc_cotangent(n: int) -> int:
        total, term, k = 0, one // n, 0
        while term:
            total += (-term if k % 2 else term) // (2 * k + 1)
            term, k = term // (n * n), k + 1
        return total

    pi = 4 * (4 * arc_cotangent(5) - arc_cotangent(239))  # Machin
    bits = (2 * one * one // pi) >> (guard + 2 - start)  # the last bit weighs 2**(2-start-32*count)
    return [(bits >> (32 * (count - 1 - i))) & 0xFFFFFFFF for i in range(count)]


# -- square root and truncation ----------------------------------------------------------------


def square_root(node: UOp) -> UOp | None:
    """Newton's iteration for 1 / sqrt(x), begun by halving the exponent, then one for sqrt(x)."""
    form = _format_of(node)
    if form is None:
        return None
    x = node.src[0]
    half_up = form.mantissa // 2 + 1
    tiny = x < form.least_normal
    scaled = tiny.where(x * 4.0**half_up, x)
    # -bits / 2 + 3/2 * bias halves and negates the exponent, mantissa and all.
    start = (scaled.bitcast(form.integer) >> 1) * -1 + (3 * form.bias << form.mantissa - 1)
    inverse = start.bitcast(x.dtype.scalar)
    for _ in range(4 if form.mantissa == 23 else 6):
        inverse = inverse * (scaled * -0.5 * inverse * inverse + 1.5)
    root = scaled * inverse
    root = (scaled - root * root) * (inverse * 0.5) + root
    root = tiny.where(root * 0.5**half_up, root)
    outside = (x < 0).where(x.const_like(NAN), x)  # keeps -0, 0, infinity, NaN
    return ((x > 0) & (x < INFINITY)).where(root, outside)


def truncate(node: UOp) -> UOp | None:
    """Through integers where there are fractions; the sign bit keeps -0.5 from becoming +0."""
    form = _format_of(node)
    if form is None:
        return None
    x = node.src[0]
    bits = x.bitcast(form.unsigned)
    sign = bits & (1 << form.integer.bits - 1)
    absolute = (bits ^ sign).bitcast(x.dtype.scalar)
    whole = absolute.cast(form.integer).cast(x.dtype.scalar).bitcast(form.unsigned) | sign
    return (absolute < 2.0**form.mantissa).where(whole.bitcast(x.dtype.scalar), x)
