"""A replay never uses what is no longer so: each change outside is noticed."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from dovetile import Tensor, environment, jit, no_grad
from dovetile.errors import JitError

scale = 2
table = {"offset": 1.0}


def tensor(*values: float) -> Tensor:
    return Tensor(np.array(values, np.float32))


def test_a_replaced_closure_tensor() -> None:
    weight = tensor(2)

    @jit
    def apply(x: Tensor) -> Tensor:
        return x * weight

    for by in (2, 3, 4):
        weight = tensor(by)
        assert [apply(tensor(i)).item() for i in range(4)] == [0, by, 2 * by, 3 * by]


def test_a_replaced_closure_tensor_of_which_the_old_one_lives_on() -> None:
    first, second = tensor(2), tensor(3)
    weight = first

    @jit
    def apply(x: Tensor) -> Tensor:
        return x * weight

    for chosen, by in ((first, 2), (second, 3), (first, 2), (second, 3)):
        weight = chosen
        assert [apply(tensor(i)).item() for i in range(4)] == [0, by, 2 * by, 3 * by]
    assert len(apply.captures) == 2


def test_closure_values_and_globals(monkeypatch: pytest.MonkeyPatch) -> None:
    local, items = 10, [1, 2]

    @jit
    def apply(x: Tensor) -> Tensor:
        return x * scale + local + items[0] + table["offset"]

    def check() -> None:
        for i in range(3):
            assert apply(tensor(i)).item() == i * scale + local + items[0] + table["offset"]

    check()
    local = 20
    check()
    items[0] = 7
    check()
    monkeypatch.setitem(globals(), "scale", 5)
    check()
    monkeypatch.setitem(table, "offset", 3.0)
    check()


def test_attributes_of_objects_however_deep() -> None:
    class Layer:
        def __init__(self) -> None:
            self.weight = tensor(2)
            self.training = True

        def __call__(self, x: Tensor) -> Tensor:
            return x * self.weight + (1 if self.training else 0)

    class Model:
        def __init__(self) -> None:
            self.layers = [Layer(), Layer()]

    model = Model()

    @jit
    def apply(x: Tensor) -> Tensor:
        for layer in model.layers:
            x = layer(x)
        return x

    def check() -> None:
        for i in range(3):
            expected = tensor(i)
            for layer in model.layers:
                expected = layer(expected)
            assert apply(tensor(i)).item() == expected.item()

    check()
    model.layers[1].training = False
    check()
    model.layers[0].weight = tensor(5)
    check()
    model.layers.append(Layer())
    check()
    model.layers[1].training = True
    model.layers.pop()
    check()


def test_objects_with_slots_and_functions_called() -> None:
    class Options:
        __slots__ = ("by",)

    options = Options()
    options.by = 3

    def helper(x: Tensor) -> Tensor:
        return x * options.by

    @jit
    def apply(x: Tensor) -> Tensor:
        return helper(x)

    for by in (3, 4):
        options.by = by
        assert [apply(tensor(i)).item() for i in range(4)] == [by * i for i in range(4)]


def test_arrays_that_the_function_makes_tensors_of() -> None:
    array = np.ones(2, np.float32)

    @jit
    def apply(x: Tensor) -> Tensor:
        return x + Tensor(array)

    assert [apply(tensor(i)).tolist() for i in range(3)] == [[1, 1], [2, 2], [3, 3]]
    array[:] = 10
    assert apply(tensor(1)).tolist() == [11, 11]
    array = np.full(2, 20, np.float32)
    assert apply(tensor(1)).tolist() == [21, 21]


def test_the_same_arguments_again_while_the_result_is_held() -> None:
    @jit
    def apply(x: Tensor) -> Tensor:
        return (x * 2).sum()

    x = tensor(1, 2)
    held = [apply(x) for _ in range(3)]
    held.append(apply(tensor(5, 6)))
    assert [t.item() for t in held] == [6, 6, 6, 22]


def test_what_was_computed_outside_already() -> None:
    weight = tensor(3)
    outside = (weight * 2).realize()

    @jit
    def apply(x: Tensor) -> Tensor:
        return x + weight * 2

    for i in range(6):
        with no_grad():
            weight.assign(tensor(i)).realize()
        assert apply(tensor(1)).item() == 1 + 2 * i
        outside = (weight * 2).realize()
        assert outside.item() == 2 * i
    assert len(apply.captures) == 1


def test_a_replaced_gradient() -> None:
    weight = Tensor(np.ones(1, np.float32), requires_grad=True)

    @jit
    def accumulate(x: Tensor) -> Tensor:
        (weight * x).sum().backward()
        assert weight.grad is not None
        return weight.grad * 1

    expected = 0.0
    for i in range(12):
        if i in (5, 9):
            weight.grad, expected = None, 0.0
        if i == 7:
            weight.grad, expected = tensor(100), 100.0
        expected += i
        assert accumulate(tensor(i)).item() == expected
        assert weight.grad is not None and weight.grad.item() == expected


def test_no_grad_outside_is_another_capture() -> None:
    weight = Tensor(np.ones(1, np.float32), requires_grad=True)

    @jit
    def apply(x: Tensor) -> Tensor:
        y = x * weight
        return y + (100 if y.requires_grad else 0)

    for _ in range(3):
        assert apply(tensor(1)).item() == 101
        with no_grad():
            assert apply(tensor(1)).item() == 1


def test_a_value_that_changes_in_every_call_is_an_error_in_the_end() -> None:
    class Counter:
        steps = 0

    counter = Counter()

    @jit(most_captures=4)
    def apply(x: Tensor) -> Tensor:
        return x + counter.steps

    with pytest.raises(JitError, match="steps changed from"):
        for i in range(10):
            counter.steps = i
            assert apply(tensor(0)).item() == i


def test_a_counter_inside_the_function_does_not_prevent_replays() -> None:
    class Counter:
        def __init__(self) -> None:
            self.calls = 0

    counter = Counter()

    @jit
    def apply(x: Tensor) -> Tensor:
        counter.calls += 1
        return x * 2

    assert [apply(tensor(i)).item() for i in range(5)] == [0, 2, 4, 6, 8]
    assert counter.calls == 2 and len(apply.captures) == 1


def test_recaptures_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    weight = tensor(2)

    @jit
    def apply(x: Tensor) -> Tensor:
        return x * weight

    with environment.context(DEBUG=1):
        for _ in range(3):
            apply(tensor(1))
        weight = tensor(3)
        apply(tensor(1))
    printed = capsys.readouterr().err
    assert "called for the second time" in printed
    assert "weight" in printed or "variables of apply changed" in printed


def test_exchanging_tensors_is_an_error() -> None:
    class Pair:
        def __init__(self) -> None:
            self.a, self.b = tensor(1), tensor(2)

    pair = Pair()

    @jit
    def swap(x: Tensor) -> Tensor:
        pair.a, pair.b = pair.b, pair.a
        return pair.a * x + pair.b

    with pytest.raises(JitError, match="cannot exchange tensors"):
        for _ in range(3):
            swap(tensor(10))


def test_calls_with_the_very_same_arguments_notice_what_has_changed() -> None:
    """Such a call skips the look at its arguments; everything else counts as ever."""
    factor, x, y = 2.0, tensor(1, 2), tensor(1, 2)
    weight = tensor(3, 3)

    @jit
    def apply(x: Tensor, power: int, y: Tensor) -> Tensor:
        return x * factor * weight + y * power

    def check(power: int = 2) -> None:
        expected = x.numpy() * factor * weight.numpy() + y.numpy() * power
        np.testing.assert_array_equal(apply(x, power, y).numpy(), expected)

    for _ in range(4):
        check()
    (step,) = apply.captures
    replays = step.replays
    check()
    assert apply.captures == [step] and step.replays == replays + 1
    x.assign(tensor(5, 6))  # pending while the call comes
    check()
    x.assign(x + 1).realize()
    check()
    weight.assign(tensor(7, 8))
    check()
    check(power=3)
    check()
    factor = 4.0
    for _ in range(3):
        check()
    weight = tensor(9, 9)
    for _ in range(3):
        check()
    x, y = y, x
    for _ in range(3):
        check()
    y = x  # one Tensor for both
    for _ in range(3):
        check()


def test_the_same_arguments_under_another_environment_or_gradient_mode() -> None:
    x = tensor(1, 2)

    @jit
    def apply(x: Tensor) -> Tensor:
        return x * 2

    for _ in range(4):
        assert apply(x).tolist() == [2, 4]
    with no_grad():
        for _ in range(4):
            assert apply(x).tolist() == [2, 4]
    with environment.context(BEAM=1):
        assert apply(x).tolist() == [2, 4]
    assert len(apply.captures) == 2
    x.requires_grad_()
    for _ in range(4):
        assert apply(x).tolist() == [2, 4]
    assert len(apply.captures) == 3


def test_the_last_arguments_are_not_kept() -> None:
    @jit
    def apply(x: Tensor) -> Tensor:
        return x + 1

    for _ in range(2):
        apply(tensor(1)).realize()
    x = tensor(1)
    for _ in range(4):
        apply(x).realize()
    gone = weakref.ref(x)
    del x
    assert gone() is None
    assert apply(tensor(5)).item() == 6


def test_a_function_that_writes_to_its_argument_does_so_at_every_call() -> None:
    @jit
    def advance(x: Tensor) -> Tensor:
        x.assign(x + 1)
        return x * 1

    x = tensor(0)
    assert [advance(x).item() for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert x.item() == 6
