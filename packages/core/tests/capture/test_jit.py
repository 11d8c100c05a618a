"""Captured functions do what plain ones do: arguments, results, state, gradients, randomness."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections import namedtuple
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from dovetile import Tensor, get_rng_state, jit, manual_seed, no_grad
from dovetile.errors import ArgumentError, DovetileError, JitError

CALLS = 5


def tensor(*values: float) -> Tensor:
    return Tensor(np.array(values, np.float32))


def test_replays_give_new_values_for_new_arguments() -> None:
    @jit
    def double(x: Tensor) -> Tensor:
        return x * 2

    assert [double(tensor(i)).item() for i in range(CALLS)] == [0, 2, 4, 6, 8]
    (step,) = double.captures
    assert step.replays == CALLS - 2 and step.kernels == 1


def test_results_do_not_change_with_later_calls() -> None:
    @jit
    def double(x: Tensor) -> Tensor:
        return x * 2

    kept = [double(tensor(i, i + 1)) for i in range(CALLS)]
    for i, result in enumerate(kept):
        assert result.tolist() == [2 * i, 2 * i + 2]


def test_trees_of_arguments_and_results() -> None:
    Pair = namedtuple("Pair", "left right")

    @jit
    def both(values: dict, more: list, *, scale: Tensor) -> dict:
        total = values["a"] + values["b"][0]
        pair = Pair(total * scale, more[0])
        return {"pair": pair, "again": [pair.left, None], "view": total.reshape(1, 2)}

    for i in range(CALLS):
        argument = tensor(i, i)
        found = both({"a": tensor(1, 2), "b": (tensor(3, i),)}, [argument], scale=tensor(2))
        assert found["pair"].left.tolist() == [8, 2 * (2 + i)]
        assert found["pair"].right is argument
        assert found["again"] == [found["pair"].left, None] or found["again"][1] is None
        assert found["again"][0] is found["pair"].left
        assert found["view"].tolist() == [[4, 2 + i]]
    assert len(both.captures) == 1


def test_python_values_of_arguments_are_part_of_the_key() -> None:
    @jit
    def scale(x: Tensor, by: float, name: str = "") -> Tensor:
        return x * by + len(name)

    for by in (1.0, 2.0, 1.0, 3.0, 2.0, 3.0, 1.0, -0.0, 0.0):
        for name in ("", "ab"):
            assert scale(tensor(3), by, name=name).item() == 3 * by + len(name)
    assert len(scale.captures) == 6


def test_true_and_one_are_different_arguments() -> None:
    @jit
    def kind(x: Tensor, flag: object) -> Tensor:
        return x + (10 if flag is True else 20)

    for _ in range(3):
        assert kind(tensor(0), True).item() == 10
        assert kind(tensor(0), 1).item() == 20


def test_another_shape_or_dtype_is_another_capture() -> None:
    @jit
    def add(x: Tensor) -> Tensor:
        return x + x.shape[0]

    for _ in range(CALLS):
        assert add(tensor(1)).tolist() == [2]
        assert add(tensor(1, 2)).tolist() == [3, 4]
        assert add(Tensor([1, 2])).tolist() == [3, 4]
    assert len(add.captures) == 3


def test_too_many_captures_are_an_error() -> None:
    @jit(most_captures=3)
    def add(x: Tensor, n: int) -> Tensor:
        return x + n

    with pytest.raises(JitError, match=r"\[jit\] .*add was captured 3 times"):
        for n in range(20):
            add(tensor(0), n)
            add(tensor(0), n)
    add.reset()
    assert add.captures == [] and add(tensor(0), 4).item() == 4


def test_inputs_that_share_memory() -> None:
    @jit
    def change(x: Tensor, y: Tensor) -> Tensor:
        x += 1
        return x * 10 + y

    def plain(x: Tensor, y: Tensor) -> Tensor:
        x += 1
        return x * 10 + y

    for function in (plain, change):
        for i in range(CALLS):
            x, y = tensor(i).realize(), tensor(100)
            assert function(x, y).item() == 10 * (i + 1) + 100
            assert x.item() == i + 1
            assert function(x, x).item() == 11 * (i + 2)
            assert x.item() == i + 2
            x = tensor(i).realize()
            assert function(x, x.reshape(1)).item() == 11 * (i + 1)


def test_an_argument_that_is_also_state() -> None:
    state = tensor(1)

    def plain(x: Tensor) -> Tensor:
        state.assign(state * 2)
        return state + x

    captured = jit(plain)
    expected = 1.0
    for i in range(12):
        expected *= 2
        if i % 3 == 2:
            assert captured(state).item() == 2 * expected
        else:
            assert captured(tensor(i)).item() == expected + i


def test_an_argument_that_the_function_also_reads_from_a_list() -> None:
    data = [tensor(i).realize() for i in range(4)]

    @jit
    def add(x: Tensor) -> Tensor:
        return x * 10 + data[0]

    for i in (0, 0, 0, 1, 2, 3, 0, 1):
        assert add(data[i]).item() == 10 * i
    assert add(tensor(7)).item() == 70


def test_parts_of_larger_tensors_are_arguments() -> None:
    whole = Tensor(np.arange(12, dtype=np.float32).reshape(4, 3))

    @jit
    def total(x: Tensor) -> Tensor:
        return x.sum()

    for i in range(4):
        assert total(whole[i]).item() == 9 * i + 3
        assert total(whole[:, 0][i : i + 1]).item() == 3 * i
    assert len(total.captures) == 2


def test_assigning_to_a_part_of_a_larger_tensor_is_an_error() -> None:
    whole = Tensor(np.zeros((4, 3), np.float32))

    @jit
    def fill(x: Tensor) -> Tensor:
        return x.assign(x + 1)

    with pytest.raises(JitError, match="view of a larger tensor"):
        for i in range(3):
            fill(whole[i])


def test_constants_as_arguments() -> None:
    @jit
    def add(x: Tensor, y: Tensor) -> Tensor:
        return x + y

    for i in range(CALLS):
        assert add(Tensor(float(i)), Tensor.full((2,), 3.0)).tolist() == [3.0 + i] * 2
    assert len(add.captures) == 1


def test_arguments_assigned_to_are_changed() -> None:
    @jit
    def count(x: Tensor) -> None:
        x.assign(x + 1)

    first = tensor(0).realize()
    for _ in range(3):
        count(first)
    for i in range(CALLS):
        other = tensor(i).realize()
        double = (other * 2).realize()
        lazy = other * 3
        count(other)
        assert other.item() == i + 1
        assert (other * 2).item() == 2 * i + 2
        assert lazy.item() == 3 * i and double.item() == 2 * i
    assert first.item() == 3


def test_state_is_updated_in_place() -> None:
    state = tensor(0, 0)
    view = state[0]

    @jit
    def add(x: Tensor) -> Tensor:
        state.assign(state + x)
        return state.sum()

    total = 0.0
    for i in range(CALLS):
        total += i
        before = state * 1
        doubled = (state * 2).numpy()
        assert add(tensor(i, i)).item() == 2 * total
        assert state.tolist() == [total, total]
        assert view.item() == total
        assert before.tolist() == [total - i] * 2
        assert (state * 2).tolist() == [2 * total] * 2 and doubled.tolist() == [2 * (total - i)] * 2
    assert len(add.captures) == 1


def test_state_assigned_outside_between_replays() -> None:
    state = tensor(0)

    @jit
    def add(x: Tensor) -> Tensor:
        state.assign(state + x)
        return state * 1

    for _ in range(6):
        state.assign(state * 10)  # lazy until the call
        expected = state.detach() * 1 + 1
        assert add(tensor(1)).item() == expected.item()
    assert state.item() == 111111 and len(add.captures) == 1


def test_returning_what_was_there_before() -> None:
    state, constant = tensor(1), tensor(5)

    @jit
    def mixed(x: Tensor) -> tuple:
        state.assign(state + 1)
        return x, state, state[0], constant, Tensor(3.0), x.reshape(1, 1), x

    for i in range(CALLS):
        x = tensor(i)
        same, whole, part, outside, number, view, again = mixed(x)
        assert same is x and again is x and whole is state and outside is constant
        assert part.item() == state.item() == i + 2 and number.item() == 3
        assert view.tolist() == [[i]]


def test_a_result_that_stays_in_use() -> None:
    class Model:
        def __init__(self) -> None:
            self.last = tensor(0)

        @jit
        def step(self, x: Tensor) -> Tensor:
            self.last = self.last * 2 + x
            return self.last

    model, kept, expected, last = Model(), [], [], 0.0
    for i in range(6):
        kept.append(model.step(tensor(i)))
        last = last * 2 + i
        expected.append(last)
        assert model.last.item() == last
    assert [t.item() for t in kept] == expected
    assert len(model.step.captures) == 1


def test_state_that_the_function_makes_itself() -> None:
    class Model:
        def __init__(self) -> None:
            self.sum: Tensor | None = None

        @jit
        def step(self, x: Tensor) -> Tensor:
            if self.sum is None:
                self.sum = Tensor.zeros(1)
            self.sum.assign(self.sum + x)
            return self.sum * 1

    model = Model()
    assert [model.step(tensor(1)).item() for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    model.sum = None
    assert [model.step(tensor(1)).item() for _ in range(3)] == [1, 2, 3]


def test_a_step_that_first_makes_its_state_in_the_captured_call() -> None:
    state: dict[str, Tensor] = {}
    calls = []

    @jit
    def step(x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            state["sum"] = Tensor.zeros(1)
        if "sum" in state:
            state["sum"].assign(state["sum"] + x)
            return state["sum"] * 1
        return x * 1

    # `calls` grows in every call, which no replay could do.
    with pytest.raises(JitError, match="calls has changed its size"):
        for _ in range(8):
            step(tensor(1))


def training(decorate: Callable[[Any], Any], zero: str) -> list:
    manual_seed(3)
    random = np.random.default_rng(0)
    weight = Tensor(random.normal(size=(3, 2)).astype(np.float32), requires_grad=True)
    bias = Tensor(np.zeros(2, np.float32), requires_grad=True)
    speed = Tensor(np.zeros((3, 2), np.float32))

    @decorate
    def step(x: Tensor, y: Tensor) -> Tensor:
        if zero == "inside, first":
            weight.grad = bias.grad = None
        dropped = x * (Tensor.rand(4, 3) > 0.3)
        loss = (dropped @ weight + bias - y).square().mean()
        loss.backward()
        with no_grad():
            assert weight.grad is not None and bias.grad is not None
            speed.assign(speed * 0.9 + weight.grad)
            weight.assign(weight - speed * 0.05)
            bias.assign(bias - bias.grad * 0.1)
        if zero == "inside, last":
            weight.grad = bias.grad = None
        return loss

    found = []
    for _ in range(7):
        x, y = (Tensor(random.normal(size=s).astype(np.float32)) for s in ((4, 3), (4, 2)))
        loss = step(x, y)
        found.append((loss.numpy(), weight.numpy(), bias.numpy(), speed.numpy()))
        found.append(None if bias.grad is None else bias.grad.numpy())
        if zero == "outside":
            weight.grad = bias.grad = None
    found.append(Tensor.rand(2).numpy())
    if isinstance(step, type(jit(step))):
        assert sum(s.replays for s in step.captures) >= 4
    return found


@pytest.mark.parametrize("zero", ["inside, first", "inside, last", "outside", "never"])
def test_training_is_the_same_as_without_jit(zero: str) -> None:
    for plain, captured in zip(training(lambda f: f, zero), training(jit, zero)):
        if plain is None or captured is None:
            assert plain is captured
            continue
        for a, b in zip(plain, captured):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_gradients_of_an_argument() -> None:
    @jit
    def slope(x: Tensor) -> Tensor:
        x.grad = None
        y = (x * x).sum()
        y.backward()
        return y

    x = Tensor(np.array([1.0, 2.0], np.float32), requires_grad=True)
    for i in range(CALLS):
        with no_grad():
            x.assign(tensor(i, 2)).realize()
        assert slope(x).item() == i * i + 4
        assert x.grad is not None and x.grad.tolist() == [2 * i, 4]
    other = Tensor(np.array([5.0, 6.0], np.float32), requires_grad=True)
    for _ in range(3):
        assert slope(other).item() == 61
        assert other.grad is not None and other.grad.tolist() == [10, 12]


def test_gradients_of_tensors_computed_outside_are_refused() -> None:
    weight = Tensor(np.ones(2, np.float32), requires_grad=True)

    @jit
    def total(x: Tensor) -> Tensor:
        return x.sum()

    with pytest.raises(JitError, match=r"detach\(\)"):
        total(weight * 2)
    assert total((weight * 2).detach()).item() == 4


def test_results_have_no_graph() -> None:
    weight = Tensor(np.ones(2, np.float32), requires_grad=True)

    @jit
    def total(x: Tensor) -> Tensor:
        return (x * weight).sum()

    assert not any(total(tensor(1, 2)).requires_grad for _ in range(CALLS))


def test_random_numbers_are_fresh_and_the_same_as_without_jit() -> None:
    def draw() -> Tensor:
        return Tensor.rand(3) + Tensor.randn(3)

    def seed() -> None:
        manual_seed(5)
        get_rng_state()

    captured = jit(draw)
    seed()
    expected = [draw().tolist() for _ in range(CALLS)]
    seed()
    assert [captured().tolist() for _ in range(CALLS)] == expected
    seed()
    assert [captured().tolist() for _ in range(CALLS)] == expected
    assert len(captured.captures) == 1


def test_a_statistic_that_nobody_asks_for_is_updated() -> None:
    class Norm:
        def __init__(self) -> None:
            self.mean = tensor(0)

        def __call__(self, x: Tensor) -> Tensor:
            self.mean.assign(self.mean * 0.5 + x.mean() * 0.5)
            return x - x.mean()

    norm, expected = Norm(), 0.0

    @jit
    def forward(x: Tensor) -> Tensor:
        return norm(x)

    for i in range(CALLS):
        forward(tensor(i, i + 2))
        expected = expected * 0.5 + (i + 1) * 0.5
    assert norm.mean.item() == pytest.approx(expected)


def test_host_data_inside_the_function() -> None:
    @jit
    def table(x: Tensor) -> tuple[Tensor, Tensor]:
        constants = Tensor([1.0, 2.0])
        changed = Tensor(np.array([5.0, 6.0], np.float32))
        changed += x
        return constants, changed

    for i in range(CALLS):
        constants, changed = table(tensor(i))
        assert constants.tolist() == [1, 2] and changed.tolist() == [5 + i, 6 + i]
        constants += 100


def test_a_function_without_kernels() -> None:
    @jit
    def nothing(x: Tensor) -> Tensor:
        return x

    for i in range(CALLS):
        x = tensor(i)
        assert nothing(x) is x


def test_empty_tensors() -> None:
    @jit
    def double(x: Tensor) -> Tensor:
        return x * 2

    for _ in range(CALLS):
        assert double(Tensor(np.zeros((0, 3), np.float32))).shape == (0, 3)


def test_nested_functions_are_captured_along() -> None:
    weight = Tensor(np.ones(1, np.float32), requires_grad=True)

    @jit
    def inner(x: Tensor) -> Tensor:
        return (x * weight).sum()

    @jit
    def outer(x: Tensor) -> Tensor:
        weight.grad = None
        loss = inner(x)
        loss.backward()
        assert weight.grad is not None
        return loss + weight.grad

    for i in range(CALLS):
        assert outer(tensor(i)).item() == 2 * i
    assert len(outer.captures) == 1 and inner.captures == []
    assert [inner(tensor(i)).item() for i in range(CALLS)] == [0, 1, 2, 3, 4]


def test_methods_have_captures_of_their_own() -> None:
    class Scale:
        def __init__(self, by: float) -> None:
            self.by = tensor(by)

        @jit
        def apply(self, x: Tensor) -> Tensor:
            return x * self.by

    two, three = Scale(2), Scale(3)
    for i in range(CALLS):
        assert two.apply(tensor(i)).item() == 2 * i
        assert three.apply(tensor(i)).item() == 3 * i
    assert len(two.apply.captures) == len(three.apply.captures) == 1
    assert two.apply is not three.apply
    twin = copy.copy(two)
    twin.by = tensor(7)
    assert [twin.apply(tensor(i)).item() for i in range(CALLS)] == [0, 7, 14, 21, 28]
    assert two.apply(tensor(1)).item() == 2
    gone = weakref.ref(two)
    del two, twin
    gc.collect()
    assert gone() is None


@jit
def at_module_level(x: Tensor) -> Tensor:
    """Doc."""
    return x + 1


def test_the_function_keeps_its_name_and_can_be_pickled() -> None:
    assert at_module_level.__name__ == "at_module_level" and at_module_level.__doc__ == "Doc."
    assert pickle.loads(pickle.dumps(at_module_level)) is at_module_level


@pytest.mark.parametrize("ask", ["item", "numpy", "tolist", "__bool__", "__float__"])
def test_asking_for_a_value_inside_is_an_error(ask: str) -> None:
    @jit
    def peek(x: Tensor) -> Tensor:
        getattr(x.sum(), ask)()
        return x * 2

    with pytest.raises(JitError, match="inside a captured function"):
        for i in range(2):
            peek(tensor(i))
    assert (tensor(2) * 2).item() == 4


@pytest.mark.parametrize("value", [3, 2.5, "text", np.ones(2), object()])
def test_returning_other_values_is_an_error(value: object) -> None:
    with pytest.raises(JitError, match=r"\[jit\] the function returns"):
        jit(lambda x: (x, value))(tensor(1))


def test_numpy_arguments_are_an_error() -> None:
    with pytest.raises(JitError, match="pass Tensors"):
        jit(lambda x: x)(np.ones(2))


def test_bad_options() -> None:
    with pytest.raises(ArgumentError):
        jit(most_captures=0)
    with pytest.raises(ArgumentError):
        jit(3)  # type: ignore[call-overload]
    assert issubclass(JitError, DovetileError)


def test_an_exception_during_capture_leaves_no_half_state() -> None:
    fail, state = [False], tensor(0)

    def plain(x: Tensor) -> Tensor:
        state.assign(state + x)
        if fail[0]:
            raise KeyError("inside")
        return state * 2

    captured = jit(plain)
    captured(tensor(1))
    fail[0] = True
    with pytest.raises(KeyError, match="inside"):
        captured(tensor(1))
    assert captured.captures == []
    fail[0] = False
    assert [captured(tensor(1)).item() for _ in range(4)] == [6, 8, 10, 12]
    fail[0] = True
    with pytest.raises(KeyError):
        captured(tensor(1))
    fail[0] = False
    assert captured(tensor(1)).item() == 16


def test_threads() -> None:
    @jit
    def double(x: Tensor) -> Tensor:
        return (x * 2).sum()

    wrong = []

    def work(offset: int) -> None:
        for i in range(30):
            value = float(offset * 100 + i)
            if double(tensor(value, 1)).item() != 2 * value + 2:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(double.captures) == 1
