"""Random numbers by Threefry-2x32, counter-based (Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3", SC 2011).

Element i of a call is a function of the key and of (counter + i) alone, so the stream is the same
on every device, however calls are fused or split. The key and the counter lie in a small buffer on
each device. A call reads the counter and then advances it, as an ordinary assign; whatever is
computed next also carries this assign out, so a captured step draws fresh numbers at every replay.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from dovetile import dtypes
from dovetile.dtypes import DType, Scalar
from dovetile.errors import ArgumentError, DTypeError
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor import placement
from dovetile.tensor.creation import Creation, check_dtype
from dovetile.tensor.nodes import count, iota, shape_argument

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Self

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA
_DEFAULT_SEED = 0
_BITS = {dtypes.float8_e4m3fn: 4, dtypes.float8_e5m2: 3, dtypes.float16: 11, dtypes.bfloat16: 8}

_seed = _DEFAULT_SEED
_states: dict[str, Random] = {}  # device -> uint64 (key, counter)
_host: np.random.Generator | None = None


def threefry(key: tuple[UOp, UOp], counter: tuple[UOp, UOp]) -> tuple[UOp, UOp]:
    """Two random uint32 words for each (key, counter), 20 rounds."""
    keys = (*key, (key[0] ^ key[1]) ^ _PARITY)
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = ((y << rotation) | (y >> (32 - rotation))) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + (group + 1)
    return x, y


def manual_seed(seed: int) -> None:
    """Begin the streams of all devices anew from `seed`, an integer from 0 to 2**64 - 1."""
    global _seed, _host
    if not isinstance(seed, int) or not 0 <= seed < 1 << 64:
        raise ArgumentError(f"[manual_seed] {seed!r}; it must be an int from 0 to 2**64 - 1")
    with placement.lock:
        _seed, _host = seed, None
        for device, state in _states.items():  # in place: captured steps refer to the memory
            state.assign(_initial(device))


def initial_seed() -> int:
    """The seed of the present streams."""
    return _seed


def host_generator() -> np.random.Generator:
    """NumPy's generator (Philox) of the present seed, for what is drawn once and in many shapes.

    The first values of a model's parameters are such: on a device, each shape would be a kernel to
    compile. `manual_seed` begins this stream anew too.
    """
    global _host
    import numpy as np

    with placement.lock:
        if _host is None:
            _host = np.random.Generator(np.random.Philox(key=_seed))
        return _host


def get_rng_state(device: str | None = None) -> list[int]:
    """[key, counter] of a device's stream, for checkpoints."""
    return [int(value) for value in _state(placement.device_name(device)).numpy()]


def set_rng_state(state: Sequence[int], device: str | None = None) -> None:
    """Go on where :func:`get_rng_state` was called."""
    import numpy as np

    name = placement.device_name(device)
    if len(state) != 2:
        raise ArgumentError(f"[set_rng_state] {state}; it must be [key, counter]")
    _state(name).assign(_random(np.asarray(state, np.uint64), name))


def _random(array: object, device: str) -> Random:
    from dovetile.tensor.tensor import Tensor

    return Tensor(array, device=device)


def _initial(device: str) -> Random:
    import numpy as np

    return _random(np.asarray([_seed, 0], np.uint64), device)


def _state(device: str) -> Random:
    with placement.lock:
        found = _states.get(device)
        if found is None:
            found = _states[device] = _initial(device)
        return found


def _words(shape: Sequence[int], device: str) -> tuple[UOp, UOp]:
    """Two fresh uint32 words per element of a flat tensor of that many elements."""
    size = count(tuple(shape))
    with placement.lock:
        state = _state(device)
        both = state.uop
        key, start = (both.shrink(((i, i + 1),)).reshape(()) for i in (0, 1))
        advanced = start + size
        state._write(both.shrink(((1, 2),)), advanced.reshape((1,)))
    counter = start.expand((size,)) + iota(size).cast(dtypes.uint64)

    def halves(wide: UOp) -> tuple[UOp, UOp]:
        return wide.cast(dtypes.uint32), (wide >> 32).cast(dtypes.uint32)

    low, high = halves(key)
    return threefry((low.expand((size,)), high.expand((size,))), halves(counter))


def _unit(words: UOp, low: UOp | None = None) -> UOp:
    """float32 in [0, 1) from 24 bits of a word; float64 from 53 bits of two words."""
    if low is None:
        return (words >> 8).cast(dtypes.float32) * 2.0**-24
    wide = (words >> 5).cast(dtypes.float64) * 2.0**26 + (low >> 6).cast(dtypes.float64)
    return wide * 2.0**-53


Weights = TypeVar("Weights", bound="Random")


class Random(Creation):
    """Random tensors. Streams begin at `manual_seed`; each call goes on where the last ended."""

    __slots__ = ()

    @classmethod
    def _drawn(
        cls, op: str, size: Sequence, dtype: DType | None, device: str | None, requires_grad: bool,
        make,
    ) -> Self:  # fmt: skip
        shape = shape_argument(op, size)
        if any(n < 0 for n in shape):
            raise ArgumentError(f"[{op}] shape {shape}; sizes must not be negative")
        dtype = dtype or dtypes.float32
        check_dtype(op, dtype)
        name = placement.device_name(device)
        with placement.lock:  # until a Tensor refers to the words: then a write waits for it
            result = cls._new(make(*_words(shape, name)).reshape(shape).cast(dtype))
        return result.requires_grad_() if requires_grad else result

    @classmethod
    def rand(
        cls, *size: int | Sequence[int], dtype: DType | None = None, device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:  # fmt: skip
        """Uniform in [0, 1)."""
        _check_float("rand", dtype)

        def make(x: UOp, y: UOp) -> UOp:
            if dtype is dtypes.float64:
                return _unit(x, y)
            if dtype in _BITS:  # fewer, so that 1 never appears
                bits = _BITS[dtype]
                return (x >> (32 - bits)).cast(dtypes.float32) * 2.0**-bits
            return _unit(x)

        return cls._drawn("rand", size, dtype, device, requires_grad, make)

    @classmethod
    def randn(
        cls, *size: int | Sequence[int], dtype: DType | None = None, device: str | None = None,
        requires_grad: bool = False,
    ) -> Self:  # fmt: skip
        """Normal with mean 0 and variance 1, by Box and Muller's transform."""
        _check_float("randn", dtype)

        def make(x: UOp, y: UOp) -> UOp:
            inner = dtypes.float64 if dtype is dtypes.float64 else dtypes.float32
            radius = (_unit(x).cast(inner) * -1 + 1).alu(Op.LOG2) * (-2 * math.log(2))
            half = _unit(y).cast(inner) * math.pi  # cos(2 a) = 1 - 2 sin(a)**2
            sine = half.alu(Op.SIN)
            return radius.alu(Op.SQRT) * (sine * sine * -2 + 1)

        return cls._drawn("randn", size, dtype, device, requires_grad, make)

    @classmethod
    def randint(
        cls, low: int, high: int | None = None, size: int | Sequence[int] = (), *,
        dtype: DType | None = None, device: str | None = None,
    ) -> Self:  # fmt: skip
        """Integers from low to high - 1 (randint(high, size=...): from 0)."""
        if high is None:
            low, high = 0, low
        dtype = dtype or dtypes.int64
        span = high - low
        if not 0 < span < 1 << 63 or low < dtype.minimum or high - 1 > dtype.maximum:
            raise ArgumentError(
                f"[randint] from {low} to {high - 1} as {dtype.name}; high must exceed low, and "
                "both must fit"
            )

        def make(x: UOp, y: UOp) -> UOp:
            if span <= 1 << 32:  # the high word of word * span
                wide = (x.cast(dtypes.uint64) * span) >> 32
            else:
                wide = ((x.cast(dtypes.uint64) << 32) | y.cast(dtypes.uint64)) % span
            return wide.cast(dtypes.int64) + low

        return cls._drawn("randint", (size,), dtype, device, False, make)

    @classmethod
    def uniform(
        cls, *size: int | Sequence[int], low: float = 0.0, high: float = 1.0,
        dtype: DType | None = None, device: str | None = None, requires_grad: bool = False,
    ) -> Self:  # fmt: skip
        """Uniform in [low, high)."""
        result = cls.rand(*size, dtype=dtype, device=device) * (high - low) + low
        return result.requires_grad_() if requires_grad else result

    @classmethod
    def normal(
        cls, mean: float, std: float, size: int | Sequence[int], *, dtype: DType | None = None,
        device: str | None = None, requires_grad: bool = False,
    ) -> Self:  # fmt: skip
        """Normal with this mean and standard deviation."""
        result = cls.randn(size, dtype=dtype, device=device) * std + mean
        return result.requires_grad_() if requires_grad else result

    def rand_like(self, *, dtype: DType | None = None) -> Self:
        return self.rand(self.shape, dtype=dtype or self.dtype, device=self.device)

    def randn_like(self, *, dtype: DType | None = None) -> Self:
        return self.randn(self.shape, dtype=dtype or self.dtype, device=self.device)

    @classmethod
    def randperm(cls, n: int, *, dtype: DType | None = None, device: str | None = None) -> Self:
        """0 to n - 1 in random order. Sorted on the host, so it is computed at once."""
        import numpy as np

        keys = cls.rand(n, dtype=dtypes.float64, device=device).numpy()
        order = np.argsort(keys, kind="stable").astype(np.int64)
        result = cls(order, device=device)  # type: ignore[call-arg]
        return result if dtype is None else result.cast(dtype)

    def bernoulli(self) -> Self:
        """1 with the probability that each element gives, else 0."""
        return (self.rand_like() < self).cast(self.dtype)

    def multinomial(self, num_samples: int, replacement: bool = False) -> Self:
        """Indices (int64) drawn with the weights of the last axis.

        By exponential races: of the arrival times e / weight the earliest wins.
        """
        if self.ndim not in (1, 2) or self.dtype.kind != "f":
            raise ArgumentError(
                f"[multinomial] {self.dtype.name} {self.shape}; it must be float weights of 1 or 2 "
                "dims"
            )
        if num_samples < 1 or not replacement and num_samples > self.shape[-1]:
            raise ArgumentError(
                f"[multinomial] {num_samples} of {self.shape[-1]} without replacement; draw fewer"
            )
        if replacement or num_samples == 1:
            shape = (*self.shape[:-1], num_samples, self.shape[-1])
            return _race(self.unsqueeze(-2).expand(shape)).argmin(-1)
        return _race(self).topk(num_samples, -1, largest=False)[1]

    # -- in place ------------------------------------------------------------------------------

    def uniform_(self, a: Scalar = 0.0, b: Scalar = 1.0) -> Self:
        """Fill with uniform numbers in [a, b)."""
        drawn = self.rand(self.shape, dtype=self.dtype, device=self.device)
        return self.assign(drawn * (b - a) + a)

    def normal_(self, mean: Scalar = 0.0, std: Scalar = 1.0) -> Self:
        """Fill with normal numbers."""
        drawn = self.randn(self.shape, dtype=self.dtype, device=self.device)
        return self.assign(drawn * std + mean)


def _race(weights: Weights) -> Weights:
    times = -(1 - weights.rand_like(dtype=dtypes.float32)).log() / weights.float()
    return times.masked_fill(weights.eq(0), math.inf)


def _check_float(op: str, dtype: DType | None) -> None:
    if dtype is not None and dtype.kind != "f":
        raise DTypeError(f"[{op}] dtype {dtype.name}; it must be a float")
