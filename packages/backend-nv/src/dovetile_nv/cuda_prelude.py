"""CUDA C++ that kernels build on: what NVRTC does not know without the toolkit's headers.

Small floats are their bits; arithmetic is the hardware's, in assembly that has no side effect, so
that the compiler moves, shares and drops it like any other.
"""

from __future__ import annotations

_COMMON = """
template <class T, class S> static __device__ inline T bits_as(S source) {
  T target;
  memcpy(&target, &source, sizeof target);
  return target;
}
static __device__ inline float maximum(float a, float b) {
  float r;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
static __device__ inline float minimum(float a, float b) {
  float r;
  asm("min.NaN.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
static __device__ inline double maximum(double a, double b) { return a > b | a != a ? a : b; }
static __device__ inline double minimum(double a, double b) { return a < b | a != a ? a : b; }
static __device__ inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
static __device__ inline double fused(double a, double b, double c) { return fma(a, b, c); }
"""

# Two units in the last place, over the full range, without branches.
_APPROXIMATE = """
static __device__ inline float approximate_quotient(float a, float b) {
  float r;
  asm("div.full.f32 %0, %1, %2;" : "=f"(r) : "f"(a), "f"(b));
  return r;
}
static __device__ inline float approximate_exp2(float a) {
  float r;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(a));
  return r;
}
"""

# Before compute capability 8.0.
_WITHOUT_NAN = """
template <class T, class S> static __device__ inline T bits_as(S source) {
  T target;
  memcpy(&target, &source, sizeof target);
  return target;
}
template <class T> static __device__ inline T maximum(T a, T b) { return a > b | a != a ? a : b; }
template <class T> static __device__ inline T minimum(T a, T b) { return a < b | a != a ? a : b; }
static __device__ inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
static __device__ inline double fused(double a, double b, double c) { return fma(a, b, c); }
"""

_SMALL = """
struct NAME {
  unsigned short bits;
  __device__ operator float() const { WIDEN }
};
static __device__ inline NAME to_NAME(float x) {
  NAME r;
  asm("cvt.rn.TYPE.f32 %0, %1;" : "=h"(r.bits) : "f"(x));
  return r;
}
static __device__ inline NAME fused(NAME a, NAME b, NAME c) {
  NAME r;
  asm("fma.rn.TYPE %0, %1, %2, %3;" : "=h"(r.bits) : "h"(a.bits), "h"(b.bits), "h"(c.bits));
  return r;
}
static __device__ inline NAME operator/(NAME a, NAME b) { return to_NAME((float)a / (float)b); }
"""

_SMALL_BINARY = """
static __device__ inline NAME FUNCTION(NAME a, NAME b) {
  NAME r;
  asm("INSTRUCTION %0, %1, %2;" : "=h"(r.bits) : "h"(a.bits), "h"(b.bits));
  return r;
}
"""

# Sums and products of bfloat16 have instructions of their own only since 9.0; the fused one gives
# the same: 1, -1 and -0 leave what they are multiplied with or added to as it is.
_BFLOAT16_SUMS = """
static __device__ inline bfloat16 operator+(bfloat16 a, bfloat16 b) {
  return fused(a, bfloat16{0x3f80}, b);
}
static __device__ inline bfloat16 operator-(bfloat16 a, bfloat16 b) {
  return fused(b, bfloat16{0xbf80}, a);
}
static __device__ inline bfloat16 operator*(bfloat16 a, bfloat16 b) {
  return fused(a, b, bfloat16{0x8000});
}
"""

_FLOAT16_FROM_DOUBLE = """
static __device__ inline float16 to_float16(double x) {
  float16 r;
  asm("cvt.rn.f16.f64 %0, %1;" : "=h"(r.bits) : "d"(x));
  return r;
}
"""

_WIDEN = {
    "float16": 'float r; asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(bits)); return r;',
    "bfloat16": "return __uint_as_float((unsigned)bits << 16);",
}
_TYPES = {"float16": "f16", "bfloat16": "bf16"}


def _small(name: str, functions: dict[str, str]) -> str:
    def named(text: str) -> str:
        return text.replace("NAME", name).replace("TYPE", _TYPES[name])

    binary = [
        named(_SMALL_BINARY)
        .replace("FUNCTION", function)
        .replace("INSTRUCTION", named(instruction))
        for function, instruction in functions.items()
    ]
    return named(_SMALL).replace("WIDEN", _WIDEN[name]) + "".join(binary)


_EXTREMES = {"maximum": "max.NaN.TYPE", "minimum": "min.NaN.TYPE"}
_ARITHMETIC = {"operator+": "add.TYPE", "operator-": "sub.TYPE", "operator*": "mul.TYPE"}


def prelude(number: int, dtypes: frozenset[str]) -> str:
    """What kernels on values of these types need, for compute capability `number` / 10."""
    parts = [_COMMON if number >= 80 else _WITHOUT_NAN, _APPROXIMATE]
    extremes = _EXTREMES if number >= 80 else {}
    if "float16" in dtypes:
        parts += [_small("float16", {**_ARITHMETIC, **extremes}), _FLOAT16_FROM_DOUBLE]
    if "bfloat16" in dtypes and number >= 80:
        parts += [_small("bfloat16", extremes), _BFLOAT16_SUMS]
    return "".join(parts)
