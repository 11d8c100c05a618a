"""Memory of a real GPU: sizes, copies, and what happens when it is full."""

from __future__ import annotations

import numpy as np
import pytest

from dovetile import dtypes
from dovetile.errors import OutOfMemoryError
from dovetile.runtime import Buffer
from dovetile_nv.device import NvDevice

SIZES = [1, 3, 15, 16, 17, 4095, 4097, (4 << 20) + 1, (8 << 20) + 4099]


@pytest.mark.parametrize("nbytes", SIZES)
def test_copies_of_any_size(gpu: NvDevice, nbytes: int) -> None:
    content = np.random.default_rng(nbytes).integers(0, 256, nbytes + 64).astype(np.uint8)
    whole, other = (Buffer(gpu, content.nbytes) for _ in range(2))
    for to, start in ((0, 0), (16, 32), (5, 9)):
        whole.copy_in(content)
        other.copy_in(np.zeros_like(content))
        gpu.queue.copy(other.view(to, nbytes), whole.view(start, nbytes))
        expected = np.zeros_like(content)
        expected[to : to + nbytes] = content[start : start + nbytes]
        np.testing.assert_array_equal(other.to_numpy(), expected)


def test_more_than_32_bits_of_bytes(gpu: NvDevice) -> None:
    nbytes = (5 << 30) + 12345
    large = Buffer.allocated(gpu, nbytes, dtypes.uint8)
    content = np.random.default_rng(0).integers(0, 256, 100_003).astype(np.uint8)
    for offset in (0, (1 << 32) - 7, nbytes - content.size):
        large.view(offset, content.size).copy_in(content)
        np.testing.assert_array_equal(large.view(offset, content.size).to_numpy(), content)
    other = Buffer.allocated(gpu, nbytes, dtypes.uint8)
    gpu.queue.copy(other, large)
    found = other.view(nbytes - content.size, content.size).to_numpy()
    np.testing.assert_array_equal(found, content)
    del large, other
    gpu.allocator.release_kept()


def test_what_is_too_large_is_refused(gpu: NvDevice) -> None:
    with pytest.raises(OutOfMemoryError, match="in use by tensors"):
        Buffer.allocated(gpu, 1 << 40, dtypes.uint8)


FULL = """
kept = []
try:
    while True:
        kept.append(Buffer.allocated(gpu, 4 << 30, dtypes.uint8))
except OutOfMemoryError as error:
    assert f"{gpu.allocator.used_bytes} bytes are in use" in str(error), error
adds()  # what there was is as it was
kept.pop()
adds()
again = Buffer.allocated(gpu, 4 << 30, dtypes.uint8)
kept.clear()
del again
assert gpu.allocator.release_kept() >= 4 << 30
Buffer.allocated(gpu, 16 << 30, dtypes.uint8)
adds()
"""


def test_a_full_memory_is_usable_after(python) -> None:
    python(FULL)
