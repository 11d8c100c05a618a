"""What the text of kernels calls beside NumPy: selection and conversions.

A value that is the same in all threads may be a plain number; others are arrays whose last axis
is the threads. Values of dtype `index` are Python integers or arrays of int64.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dovetile import dtypes


def host_dtype(name: str) -> np.dtype:
    """The NumPy dtype of elements of this name."""
    return np.dtype(np.int64) if name == "index" else dtypes.to_numpy(getattr(dtypes, name))


def select(condition: Any, x: Any, y: Any) -> Any:
    if isinstance(condition, np.ndarray):
        return np.where(condition, x, y)
    return x if condition else y


def cast(value: Any, dtype: str) -> Any:
    result = np.asarray(value).astype(host_dtype(dtype))[()]
    return int(result) if dtype == "index" and result.ndim == 0 else result


def bitcast(value: Any, dtype: str) -> Any:
    return np.ascontiguousarray(value).view(host_dtype(dtype)).reshape(np.shape(value))[()]
