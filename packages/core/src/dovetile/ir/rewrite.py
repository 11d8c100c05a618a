"""The rewrite driver: applies a RuleSet over a graph, sources first, until nothing changes.

Iterative, and linear in the number of nodes visited: every node is matched once, every replacement
is itself brought to its final form once, and both are remembered.
"""

from __future__ import annotations

from typing import Any

from dovetile.errors import GraphError
from dovetile.ir.ops import Op
from dovetile.ir.pattern import RuleSet
from dovetile.ir.uop import UOp, mark_final, toposort

# Steps before the number of steps is held against the size of the graph, and how many for each of
# its nodes are too many: rules that go on for longer never end.
_FREE_STEPS = 100_000
_STEPS_PER_NODE = 100


def rewrite(
    root: UOp, rules: RuleSet, ctx: Any = None, replace: dict[UOp, UOp] | None = None
) -> UOp:
    """`root` with every node brought to the form in which no rule applies.

    replace: nodes already decided (they are not looked into); it is filled with every result, so
    that a caller can see what became of a node, or share the work of several calls.
    Raises GraphError for rules that never come to an end.
    """
    matchers = rules.matchers
    bit = rules.final_bit if ctx is None and replace is None else 0
    if root._final & bit:
        return root
    done = {} if replace is None else replace
    # (node, None): look at the node. (node, other): it becomes what `other` has become.
    stack: list[tuple[UOp, UOp | None]] = [(root, None)]
    enter = stack.append
    waiting_for: set[UOp] = set()  # replaced nodes whose replacement is not done
    steps, limit = 0, _FREE_STEPS
    while stack:
        node, becomes = stack.pop()
        if node in done:
            continue
        if becomes is not None:
            done[node] = done[becomes]
            continue
        src = node.src
        waiting = same = True
        for s in src:
            final = done.get(s)
            if final is s:
                continue
            if final is None:
                if s._final & bit:
                    done[s] = s
                    continue
                if waiting:
                    waiting = False
                    enter((node, None))
                enter((s, None))
            else:
                same = False
        if not waiting:
            continue
        changed = (
            node if same else UOp(node.op, node.dtype, tuple([done[s] for s in src]), node.arg)
        )
        if not same and changed in done:
            done[node] = done[changed]
            continue
        chain = [node] if same else [node, changed]
        while True:
            matcher = matchers[changed.op]
            result = None if matcher is None else matcher(changed, ctx)
            if result is None:
                final = changed
                if bit:
                    mark_final(changed, changed._final | bit)
                break
            final = done.get(result)
            if final is not None:
                break
            if result in chain or changed in waiting_for:
                raise GraphError(
                    f"[rewrite] the rules {rules.name!r} turn {changed!r} into something that "
                    "contains it; a replacement must be simpler"
                )
            steps += 1
            if steps > limit:
                limit = _FREE_STEPS + _STEPS_PER_NODE * len(toposort(root))
                if steps > limit:
                    raise GraphError(
                        f"[rewrite] the rules {rules.name!r} do not come to an end; "
                        f"the last node was {changed!r}"
                    )
            if len(chain) < 16 and all(done.get(s) is s for s in result.src):
                chain.append(result)  # nothing to wait for
                changed = result
                continue
            waiting_for.update(chain)
            for replaced in chain:
                enter((replaced, result))
            enter((result, None))
            break
        if final is not None:
            for replaced in chain:
                done[replaced] = final
    return done[root]


_NOTHING = RuleSet([])


def substitute(root: UOp, replacements: dict[UOp, UOp]) -> UOp:
    """`root` with every key replaced by its value; values are not looked into."""
    if not replacements:
        return root
    done = {**{v: v for v in replacements.values()}, **replacements}
    return rewrite(root, _NOTHING, None, done)


def substitute_ranges(root: UOp, values: dict[UOp, UOp]) -> UOp:
    """`root` with open RANGEs replaced by values. Where a node inside closes such a range, that is
    another use of the same loop, and it stays."""
    if not values:
        return root
    keys = values.keys()
    done: dict[UOp, UOp] = {}
    for node in toposort(root, enter=lambda n: not n.ranges.isdisjoint(keys)):
        if node in values:
            done[node] = values[node]
        elif node.ranges.isdisjoint(keys):
            done[node] = node
        elif node.op in (Op.REDUCE, Op.STAGE, Op.END) and not keys.isdisjoint(node.src[1:]):
            inner = {r: v for r, v in values.items() if r not in node.src[1:]}
            done[node] = node.with_sources((substitute_ranges(node.src[0], inner), *node.src[1:]))
        else:
            done[node] = node.with_sources(tuple([done[s] for s in node.src]))
    return done[root]
