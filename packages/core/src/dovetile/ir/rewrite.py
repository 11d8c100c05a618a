"""The rewrite driver: applies a RuleSet over a graph, sources first, until nothing changes.

Iterative, and linear in the number of nodes visited: every node is matched once, every replacement
is itself brought to its final form once, and both are remembered.
"""

from __future__ import annotations

from typing import Any

from dovetile.errors import GraphError
from dovetile.ir.pattern import RuleSet
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort

# A rule set that keeps producing new nodes never ends; this many per visited node is a bug in it.
_GROWTH_LIMIT = 200


def rewrite(
    root: UOp, rules: RuleSet, ctx: Any = None, replace: dict[UOp, UOp] | None = None
) -> UOp:
    """`root` with every node brought to the form in which no rule applies.

    replace: nodes already decided (they are not looked into); it is filled with every result, so
    that a caller can see what became of a node, or share the work of several calls.
    """
    table = rules.table
    done = {} if replace is None else replace
    stack: list[tuple[UOp, UOp | None]] = [(root, None)]
    steps, visited = 0, 1
    enter = stack.append
    while stack:
        node, becomes = stack.pop()
        if node in done:
            continue
        if becomes is not None:  # the replacement has been brought to its final form
            final = done.get(becomes)
            if final is None:
                raise GraphError(f"[rewrite] a rule puts {node.op.name} inside its own replacement")
            done[node] = final
            continue
        src = node.src
        waiting = False
        for s in src:
            if s not in done:
                if not waiting:
                    waiting = True
                    enter((node, None))
                enter((s, None))
        if waiting:
            visited += 1
            if len(stack) > 10_000_000:
                raise GraphError("[rewrite] the graph has a cycle or a rule set that never ends")
            continue
        changed = node
        for s in src:
            if done[s] is not s:
                changed = UOp(node.op, node.dtype, tuple(done[s] for s in src), node.arg)
                break
        if changed is not node and changed in done:
            done[node] = done[changed]
            continue
        matcher = table.get(changed.op)
        result = None if matcher is None else matcher(changed, ctx)
        if result is None:
            done[node] = done[changed] = changed
        elif result in done:
            done[node] = done[changed] = done[result]
        else:
            steps += 1
            if steps > _GROWTH_LIMIT * (visited + 1000):
                raise GraphError(f"[rewrite] rules {rules.name!r} do not come to an end")
            if changed is not node:
                enter((node, changed))
            enter((changed, result))
            enter((result, None))
    return done[root]


_NOTHING = RuleSet([])


def substitute(root: UOp, replacements: dict[UOp, UOp]) -> UOp:
    """`root` with every key replaced by its value; values are not looked into."""
    if not replacements:
        return root
    done = {**{v: v for v in replacements.values()}, **replacements}
    return rewrite(root, _NOTHING, None, done)


def rewrite_top_down(root: UOp, rules: RuleSet, ctx: Any = None) -> UOp:
    """Like `rewrite`, but a node is matched before its sources are looked at.

    A rule may stop the descent by recording a result in ctx; used where the meaning of a node
    depends on how it is reached, as in range assignment.
    """
    table = rules.table
    done: dict[UOp, UOp] = {}
    stack: list[tuple[UOp, UOp, bool]] = [(root, root, False)]
    while stack:
        node, current, ready = stack.pop()
        if not ready:
            if node in done:
                continue
            while (matcher := table.get(current.op)) is not None:
                result = matcher(current, ctx)
                if result is None:
                    break
                current = result
            stack.append((node, current, True))
            stack.extend((s, s, False) for s in current.src if s not in done)
        else:
            src = tuple(done[s] for s in current.src)
            same = all(a is b for a, b in zip(src, current.src))
            done[node] = current if same else UOp(current.op, current.dtype, src, current.arg)
    return done[root]


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
            done[node] = node.replace(src=(substitute_ranges(node.src[0], inner), *node.src[1:]))
        else:
            src = tuple([done[s] for s in node.src])
            done[node] = node if src == node.src else UOp(node.op, node.dtype, src, node.arg)
    return done[root]
