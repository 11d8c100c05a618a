"""Images changed at random in ways that keep what they show."""

from __future__ import annotations

import numpy


def shifted(images: numpy.ndarray, reach: int, generator: numpy.random.Generator) -> numpy.ndarray:
    """Images (count, height, width), each moved by up to `reach` pixels; zeros come in."""
    count, height, width = images.shape
    padded = numpy.pad(images, ((0, 0), (reach, reach), (reach, reach)))
    rows = generator.integers(0, 2 * reach + 1, (count, 1)) + numpy.arange(height)
    columns = generator.integers(0, 2 * reach + 1, (count, 1)) + numpy.arange(width)
    return padded[numpy.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]]
