from __future__ import annotations

import pickle

import pytest

from dovetile import errors


def classes() -> list[type]:
    values = vars(errors).values()
    return [v for v in values if isinstance(v, type) and v.__module__ == errors.__name__]


def test_every_error_is_ours_and_a_builtin_that_users_would_catch():
    for error in classes():
        if error in (errors.DovetileError, errors.DovetileWarning):
            continue
        assert issubclass(error, errors.DovetileError)
        assert set(error.__mro__) & {ValueError, TypeError, RuntimeError, IndexError, MemoryError}
        assert error.__doc__


@pytest.mark.parametrize("error", classes())
def test_errors_cross_process_boundaries(error):
    copy = pickle.loads(pickle.dumps(error("[op] what came; what would be right")))
    assert type(copy) is error and str(copy) == "[op] what came; what would be right"


def test_out_of_memory_is_a_device_error_and_a_memory_error():
    assert issubclass(errors.OutOfMemoryError, (errors.DeviceError))
    assert issubclass(errors.OutOfMemoryError, MemoryError)


def test_suggest():
    assert errors.suggest("realu", ["relu", "gelu"]) == "did you mean 'relu'? valid are: relu, gelu"
    assert errors.suggest("zzz", []) == "valid are: none"
