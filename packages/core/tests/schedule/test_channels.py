"""Values that have their channels last, on targets of workgroups."""

from __future__ import annotations

from dataclasses import replace

from loop_kernels import GROUPS

from dovetile import Tensor
from dovetile.ir.uop import UOp
from dovetile.schedule.channels import choose
from dovetile.schedule.layout import Layout
from dovetile.schedule.place import Placement, place
from dovetile.schedule.simplify import simplify_tensors

LAST = Layout((0, 2, 3, 1))


def tensor(*shape: int) -> Tensor:
    return Tensor.ones(*shape).contiguous().realize()


def conv(x: Tensor, outputs: int, window: int = 3, **options: int) -> Tensor:
    return x.conv2d(tensor(outputs, x.shape[1], window, window), **options).relu()


def laid_out(result: Tensor, target=GROUPS) -> Placement:
    placement = place(simplify_tensors(UOp.sink(result.uop)), target)
    choose(placement, target)
    return placement


def network() -> Tensor:
    x = conv(tensor(4, 32, 18, 18), 64)
    y = conv(conv(x, 64, padding=1), 96, window=1) + conv(x, 96, window=1)
    return y.mean((2, 3))


def test_what_windows_slide_over_and_all_that_is_computed_from_it():
    placement = laid_out(network())
    shapes = sorted(node.shape for node in placement.layouts)
    assert shapes == [(4, 64, 16, 16), (4, 64, 16, 16), (4, 96, 16, 16), (4, 96, 16, 16)]
    assert set(placement.layouts.values()) == {LAST}


def test_weights_of_windows_are_read_through_copies():
    """Not those of the first layer, whose input is row-major, nor those of single taps."""
    relaid = [list(found.items()) for found in laid_out(network()).relaid.values()]
    assert [[(source.shape, layout) for source, layout in found] for found in relaid] == [
        [((64, 64, 3, 3), LAST)]
    ]


def test_products_of_matrices_and_other_targets_keep_their_order():
    x, a, b = tensor(64, 64), tensor(64, 64), tensor(64, 64)
    assert not laid_out((x.transpose(0, 1) @ a).relu() @ b).layouts
    assert not laid_out(network(), replace(GROUPS, parallel_axes=("THREAD",))).layouts
