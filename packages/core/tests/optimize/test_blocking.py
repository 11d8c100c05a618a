"""The loops around a register tile: right results, and the operands where the caches want them."""

from __future__ import annotations

from dataclasses import replace

import loop_kernels as kernels
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop_kernels import WIDE, Case

from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.uop import toposort
from dovetile.lower import lower
from dovetile.optimize.analysis import Analysis
from dovetile.optimize.bounds_check import prove
from dovetile.optimize.contraction import contraction_opts
from dovetile.optimize.opts import (
    Accumulate,
    GroupReduce,
    OptError,
    Split,
    Stage,
    apply_opts,
    contracted_product,
)
from dovetile.runtime import Device

# Caches so small that matrices of a few dozen rows need every loop there is.
TINY = replace(WIDE, cache_bytes=(256, 2048, 16384), vector_bytes=16, local_bytes=1 << 18)


# Vectors and caches of a common server processor.
LARGE = replace(WIDE, vector_bytes=64, vector_registers=32, local_bytes=64 << 20,
                cache_bytes=(48 << 10, 2 << 20, 32 << 20))  # fmt: skip


def layouts(m: int, k: int, n: int, layout: str) -> Case:
    """A product of matrices of which each is stored by rows ("n") or by columns ("t")."""
    a = kernels.tensor(*((m, k) if layout[0] == "n" else (k, m)))
    b = kernels.tensor(*((k, n) if layout[1] == "n" else (n, k)))
    rows = a if layout[0] == "n" else a.permute((1, 0))
    columns = b if layout[1] == "n" else b.permute((1, 0))
    left = rows.expand((n,)).permute((0, 2, 1))
    right = columns.permute((1, 0)).expand((m,)).permute((2, 0, 1))
    return kernels.case(
        f"{layout} {m}x{k}x{n}",
        (left * right).reduce(Op.ADD, 1),
        [a, b],
        lambda a, b: (a if layout[0] == "n" else a.T) @ (b if layout[1] == "n" else b.T),
    )


def opts_of(case: Case, capabilities=TINY) -> list:
    opts = contraction_opts(Analysis(case.kernel), capabilities)
    assert opts is not None
    return opts


@settings(max_examples=40)
@given(
    st.integers(5, 34), st.integers(5, 44), st.integers(5, 34),
    st.sampled_from(["nn", "nt", "tn", "tt"]),
)  # fmt: skip
def test_every_layout_and_size(m: int, k: int, n: int, layout: str):
    case = layouts(m, k, n, layout)
    opts = contraction_opts(Analysis(case.kernel), TINY)
    if opts is None:
        assert m * k * n < 4096
        return
    kernel = apply_opts(case.kernel, opts)
    assert prove(kernel) is None
    case.compare(case.results(kernel, TINY))


def test_long_sums_are_done_in_parts_with_accumulators_in_memory():
    case = layouts(20, 120, 24, "nt")
    opts = opts_of(case)
    assert [o for o in opts if isinstance(o, GroupReduce)]
    assert [o for o in opts if isinstance(o, Accumulate)]
    case.run(opts, TINY)


def test_blocks_shrink_where_then_each_is_packed_once():
    """Accumulators of all panels of B fit the near cache beside smaller blocks of A."""
    case = layouts(1536, 4096, 384, "tn")
    opts = opts_of(case, replace(LARGE, cache_bytes=(*LARGE.cache_bytes[:2], 128 << 20)))
    (stage,) = (o for o in opts if isinstance(o, Stage) and o.operand == 0)
    block, panel = stage.axes[0], 3
    blocks = 1536 // 6
    groups = [o.size for o in opts if isinstance(o, Split) and o.axis == block]
    assert groups and all(blocks % size == 0 for size in groups)
    assert not [o for o in opts if isinstance(o, Split) and o.axis == panel]
    half = LARGE.cache_bytes[1] // 2
    assert 4 * 6 * groups[-1] * 256 <= half
    assert 4 * 6 * groups[-1] * 384 <= half


def test_short_sums_are_not():
    opts = opts_of(layouts(64, 16, 64, "nn"))
    assert not [o for o in opts if isinstance(o, GroupReduce | Accumulate)]


def test_long_rows_read_in_place_are_summed_in_one_part():
    """They pass by the panel, which stays in the second cache."""
    for layout in ("nn", "nt"):
        opts = opts_of(layouts(4096, 1536, 384, layout), LARGE)
        assert not [o for o in opts if isinstance(o, GroupReduce)]


def test_an_operand_with_far_steps_is_packed():
    def packed(layout: str) -> set[int]:
        return {o.operand for o in opts_of(layouts(64, 64, 64, layout)) if isinstance(o, Stage)}

    assert 0 in packed("tn") and 0 not in packed("nn")


def test_few_panels_pay_for_packing_where_each_step_is_waited_for():
    def packed(m: int) -> bool:
        opts = opts_of(layouts(m, 256, 96, "tn"), LARGE)
        assert next(o for o in opts if isinstance(o, Split)).size == 48  # two panels
        return 0 in {o.operand for o in opts if isinstance(o, Stage)}

    # Steps 1024 and 768 bytes apart.
    assert packed(256) and not packed(192)


def test_parts_for_all_workers():
    case = layouts(160, 160, 160, "nn")
    kernel = apply_opts(case.kernel, opts_of(case))
    parts = [n for n in toposort(kernel) if n.op is Op.RANGE and n.arg.kind is AxisKind.THREAD]
    assert len(parts) == 1 and parts[0].src[0].arg >= TINY.threads


@pytest.mark.parametrize(("terms", "rows"), [(384, True), (1536, False)])
def test_workers_share_short_rows_from_afar(terms: int, rows: bool):
    """Each keeps its rows near while all panels pass. Long rows come from afar in time."""
    case = layouts(4096, terms, 768, "nt")
    kernel = apply_opts(case.kernel, opts_of(case, LARGE))
    (share,) = [r for r in toposort(kernel) if r.op is Op.RANGE and r.arg.kind is AxisKind.THREAD]
    product = contracted_product(kernel)
    assert product is not None
    assert [share in side.ranges for side in product.src] == [rows, not rows]


def test_panels_fit_into_local_memory():
    case = layouts(32, 80, 32, "nt")
    small = replace(TINY, local_bytes=1 << 12)
    kernel = apply_opts(case.kernel, opts_of(case, TINY))
    assert lower(kernel, TINY).local_bytes > small.local_bytes
    kernel = apply_opts(case.kernel, opts_of(case, small))
    assert 0 < lower(kernel, small).local_bytes <= small.local_bytes
    case.compare(case.results(kernel, small))


@pytest.mark.parametrize("layout", ["nn", "nt", "tn", "tt"])
def test_on_the_device(device: Device, layout: str):
    case = layouts(130, 210, 70, layout)
    small = replace(device.capabilities, cache_bytes=(2048, 65536, 1 << 20))
    opts = contraction_opts(Analysis(case.kernel), small)
    if opts is None:
        pytest.skip(f"{device.name} has no vectors")
    case.run_on(device, apply_opts(case.kernel, opts))


def test_accumulate_needs_a_grouped_reduction():
    case = kernels.matmul(4, 8, 4)
    with pytest.raises(OptError, match="0 grouped reductions"):
        Accumulate((0, 1)).apply(case.kernel)
    grouped = apply_opts(case.kernel, [Split(2, 4), GroupReduce((3,))])
    with pytest.raises(OptError, match="not of the output"):
        Accumulate((7,)).apply(grouped)
    case.compare(case.results(Accumulate((0, 1)).apply(grouped)))
