"""Results of replays: their memory is used again, but never while anybody can still see it."""

from __future__ import annotations

import numpy as np
import pytest

from dovetile import Tensor, jit, schedule
from dovetile.capture.results import _MOST_KEPT
from dovetile.errors import OutOfMemoryError
from dovetile.runtime import Buffer


def array(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape or (4, 6)).astype(np.float32)


def address(tensor: Tensor) -> int:
    memory = schedule.memory_of(tensor.uop)
    assert memory is not None
    return memory.address


@jit
def doubled(x: Tensor) -> Tensor:
    return x * 2


@pytest.fixture(autouse=True)
def nothing_captured() -> None:
    doubled.reset()


def warm(function, *arguments: Tensor) -> None:
    for _ in range(3):
        function(*arguments)


def test_dropped_results_leave_their_memory_to_the_next() -> None:
    x = Tensor(array(1)).realize()
    warm(doubled, x)
    first = address(doubled(x))
    assert all(address(doubled(x)) == first for _ in range(3))
    np.testing.assert_array_equal(doubled(x).numpy(), array(1) * 2)


def test_a_replay_into_the_same_memory_changes_no_argument(monkeypatch) -> None:
    x = Tensor(array(1)).realize()
    warm(doubled, x)
    commands = doubled.captures[-1].commands
    patches: list = []
    submit = commands.submit
    monkeypatch.setattr(commands, "submit", lambda given: (patches.append(given), submit(given)))
    kept = doubled(x)
    doubled(x)
    doubled(x)
    assert [len(given) for given in patches] == [0, 1, 0]
    del kept


def test_held_results_keep_their_values() -> None:
    inputs = [Tensor(array(seed)).realize() for seed in range(8)]
    warm(doubled, inputs[0])
    results = [doubled(x) for x in inputs]
    assert len({address(result) for result in results}) == 8
    for seed, result in enumerate(results):
        np.testing.assert_array_equal(result.numpy(), array(seed) * 2)


def test_the_last_results_take_turns() -> None:
    x = Tensor(array(1)).realize()
    warm(doubled, x)
    seen, result = set(), None
    for _ in range(10):
        result = doubled(x)
        seen.add(address(result))
    assert len(seen) == 2


def test_no_more_memory_is_kept_than_is_needed_at_a_time() -> None:
    x = Tensor(array(1)).realize()
    warm(doubled, x)
    results = [doubled(x) for _ in range(6)]
    (fresh, _) = doubled.captures[-1].fresh[0]
    assert len(fresh._kept) == _MOST_KEPT
    del results
    last = fresh._kept[0].memory.address
    assert address(doubled(x)) == last and len(fresh._kept) == 1


def test_results_without_elements() -> None:
    x = Tensor(np.zeros((0, 4), np.float32)).realize()
    for _ in range(5):
        assert doubled(x).numpy().shape == (0, 4)


def test_a_result_as_the_next_argument() -> None:
    x = Tensor(array(1)).realize()
    warm(doubled, x)
    seen = set()
    for _ in range(12):
        x = doubled(x)
        seen.add(address(x))
    np.testing.assert_array_equal(x.numpy(), array(1) * 2**12)
    assert len(seen) <= _MOST_KEPT


@pytest.mark.parametrize("use", [
    lambda y: y + 1,
    lambda y: y.transpose(0, 1),
    lambda y: y.reshape(24)[3:9],
    lambda y: y.detach(),
], ids=["lazy", "transposed", "part", "detached"])  # fmt: skip
def test_what_was_made_of_a_result_keeps_its_values(use) -> None:
    x = Tensor(array(1)).realize()
    warm(doubled, x)
    made = use(doubled(x))
    expected = use(Tensor(array(1) * 2)).numpy()
    for seed in range(2, 6):
        doubled(Tensor(array(seed)).realize())
    np.testing.assert_array_equal(made.numpy(), expected)


def test_an_array_that_shares_the_memory_keeps_its_values() -> None:
    x = Tensor(array(1)).realize()
    warm(doubled, x)
    memory = schedule.memory_of(doubled(x).uop)
    assert isinstance(memory, Buffer)
    if not memory.device.capabilities.host_visible:
        pytest.skip("the host does not see the device's memory")
    values = memory.as_numpy()
    del memory
    for seed in range(2, 6):
        doubled(Tensor(array(seed)).realize())
    np.testing.assert_array_equal(values.reshape(4, 6), array(1) * 2)


def test_nothing_is_left_of_what_was_made_of_the_result_before() -> None:
    @jit
    def turned(x: Tensor) -> Tensor:
        return (x * 2).contiguous().transpose(0, 1)

    inputs = [Tensor(array(seed)).realize() for seed in (1, 2, 3)]
    warm(turned, inputs[0])
    for seed, x in enumerate(inputs, 1):
        result = turned(x)
        np.testing.assert_array_equal(result.contiguous().numpy(), array(seed).T * 2)
        result.requires_grad_()
        (result * result).sum().backward()
        np.testing.assert_array_equal(result.grad.numpy(), array(seed).T * 4)
        del result
    again = turned(inputs[0])
    assert not again.requires_grad and again.grad is None


def test_assigning_to_a_result_is_its_own_affair() -> None:
    x = Tensor(array(1)).realize()
    warm(doubled, x)
    result = doubled(x)
    result.assign(result + 1)  # pending, and then nobody's
    del result
    np.testing.assert_array_equal(doubled(x).numpy(), array(1) * 2)
    result = doubled(x)
    result.assign(result + 1)
    np.testing.assert_array_equal(doubled(x).numpy(), array(1) * 2)
    np.testing.assert_array_equal(result.numpy(), array(1) * 2 + 1)


def test_two_results_in_the_same_memory() -> None:
    @jit
    def both(x: Tensor) -> tuple[Tensor, Tensor]:
        y = (x * 2).contiguous()
        return y, y.transpose(0, 1)

    x = Tensor(array(1)).realize()
    warm(both, x)
    _, turned = both(x)
    both(Tensor(array(2)).realize()), both(Tensor(array(3)).realize())
    np.testing.assert_array_equal(turned.numpy(), array(1).T * 2)


def test_a_failed_replay_tells_the_next_all_arguments(monkeypatch) -> None:
    x, other = Tensor(array(1)).realize(), Tensor(array(2)).realize()
    warm(doubled, x)
    commands = doubled.captures[-1].commands
    with monkeypatch.context() as patched:

        def refuse(patches) -> None:
            raise OutOfMemoryError("[submit] none left")

        patched.setattr(commands, "submit", refuse)
        kept = doubled.captures  # the same step goes on
        with pytest.raises(OutOfMemoryError):
            doubled(other)
    np.testing.assert_array_equal(doubled(other).numpy(), array(2) * 2)
    np.testing.assert_array_equal(doubled(x).numpy(), array(1) * 2)
    assert doubled.captures == kept


def test_a_call_with_the_same_tensor_twice() -> None:
    @jit
    def added(x: Tensor, y: Tensor) -> Tensor:
        return x + y

    x = Tensor(array(1)).realize()
    for _ in range(4):
        np.testing.assert_array_equal(added(x, x).numpy(), array(1) * 2)
