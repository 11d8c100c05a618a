"""Long reductions with few results, in parts.

Partial results first, each of which another worker may compute, then a reduction of those. How many
parts depends on the target: workers with caches, which divide a kernel's loops among them, need
parts only where there is no other loop; of workgroups there must be enough to keep memory busy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from dovetile.ir.ops import ELEMENTWISE, Op
from dovetile.ir.uop import UOp, toposort
from dovetile.plugins.specs import Capabilities
from dovetile.schedule.place import storage

# A sum over more elements than this per output, with few outputs, is done in parts.
_LONG = 1 << 14
_FEW_OUTPUTS = 1 << 18
_PART = 1 << 12
# Workgroups for each of those that run at the same time, so that none waits long for the last, and
# bytes that each should read at least.
_GROUPS, _GROUP_BYTES = 8, 1 << 15


def split_long_sums(sink: UOp, target: Capabilities | None) -> UOp:
    """`sink` with long reductions in parts."""
    # In one pass over the graph, and not as a rule: the parts are sums again.
    done: dict[UOp, UOp] = {}
    for node in toposort(sink):
        changed = node.with_sources(tuple([done[s] for s in node.src]))
        done[node] = _in_parts(changed, target) if node.op is Op.REDUCE else changed
    return done[sink]


def _in_parts(node: UOp, target: Capabilities | None) -> UOp:
    op, count = node.arg
    x = node.src[0]
    kept, axes = x.shape[: len(x.shape) - count], x.shape[len(x.shape) - count :]
    if target is not None and "GROUP" in target.parallel_axes and not _is_contraction(x):
        cut = _cut(axes, _for_workgroups(node, target))
    else:
        cut = _cut(axes[:1], _for_workers(node))
    if cut is None or math.prod(cut[0]) * max(node.size, 1) > x.size // 8:
        return node
    parts, rest = math.prod(cut[0]), (*cut[1], *axes[len(cut[0]) :])
    partial = x.reshape((*kept, parts, *rest)).reduce(op, len(rest))
    order = (len(kept), *range(len(kept)))
    back = (*range(1, len(kept) + 1), 0)
    return partial.permute(order).stage().permute(back).reduce(op, 1)


def _for_workers(node: UOp) -> int:
    """How many parts are wanted: they can run in parallel, and each stays in the caches."""
    total, outputs = node.src[0].size // max(node.size, 1), max(node.size, 1)
    if node.arg[0] is not Op.ADD or total < _LONG or outputs > _FEW_OUTPUTS:
        return 1
    if outputs <= 16:
        return 64
    if _is_contraction(node.src[0]):
        return -(-total // _PART)
    return math.isqrt(total)  # the shorter both sums, the less is rounded away


def _for_workgroups(node: UOp, target: Capabilities) -> int:
    """How many parts are wanted: enough to keep all workgroups busy, where the few that there would
    be otherwise take longer than a second launch."""
    x, outputs = node.src[0], max(node.size, 1)
    nbytes = x.size * x.dtype.itemsize
    side = max(target.warp * target.vector_bytes, 1)
    groups = outputs if _is_of_rows(x, node.arg[1]) else -(-outputs * x.dtype.itemsize // side)
    share = target.bytes_per_second / target.threads
    again = nbytes / target.bytes_per_second + 2 * target.launch_seconds
    if nbytes / (groups * share) < again:
        return 1
    most = min(_GROUPS * target.threads, nbytes // _GROUP_BYTES)
    return -(-most // groups)


def _cut(axes: Sequence[int], wanted: int) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(factors of the first axes whose product is the number of parts, what is left of the last of
    these): about as many parts as wanted. None where they cannot be cut so."""
    whole: tuple[int, ...] = ()
    for n in axes:
        left = -(-wanted // math.prod(whole))
        if left < 2:
            break
        if n > left:
            counts = [c for c in range(2, min(n, 4 * left) + 1) if n % c == 0]
            count = next((c for c in counts if c >= left), counts[-1] if counts else 1)
            return ((*whole, count), (n // count,)) if count > 1 or whole else None
        whole = (*whole, n)
    return (whole, ()) if math.prod(whole) > 1 and len(whole) < len(axes) else None


def _is_of_rows(x: UOp, count: int) -> bool:
    """Whether what is reduced, the last `count` axes, has neighbours in memory."""
    axes = list(range(len(x.shape)))
    while x.op is Op.PERMUTE or x.op in ELEMENTWISE:
        if x.op is Op.PERMUTE:
            axes = [axes[x.arg.index(i)] for i in range(len(axes))]
            x = x.src[0]
        else:
            x = max(x.src, key=lambda s: storage(s).size)
    return not axes or axes[-1] >= len(axes) - count


def _is_contraction(x: UOp) -> bool:
    """Whether these are products of values that are each used several times."""
    while x.op in (Op.RESHAPE, Op.PERMUTE, Op.CAST):
        x = x.src[0]
    return x.op is Op.MUL and all(2 * storage(s).size <= x.size for s in x.src)
