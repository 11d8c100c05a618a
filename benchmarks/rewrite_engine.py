"""Speed of the rewrite engine: nodes per second of each basic operation, and a profile by rule.

    python benchmarks/rewrite_engine.py [--nodes 100000] [--repeat 5] [--profile]

Prints medians of processor time, which other processes disturb less than the clock.
"""

from __future__ import annotations

import argparse
import copy
import cProfile
import pickle
import pstats
import random
import statistics
import time
from collections.abc import Callable

from dovetile import dtypes
from dovetile.ir import Op, Pat, RuleSet, UOp, rewrite, toposort
from dovetile.ir.spec import verify
from dovetile.ir.symbolic import symbolic

FLOAT = dtypes.float32
LEAF = UOp(Op.LOAD, FLOAT, (UOp.buffer(4, FLOAT, slot=0).index(0),))
FIRING = RuleSet([(Pat(Op.SIN, (Pat.var("x"),)), lambda x: UOp(Op.EXP2, FLOAT, (x,)))])
IDLE = RuleSet([(Pat(Op.SIN, (Pat.const("c"),)), lambda c: c)])


def chain(length: int) -> UOp:
    """Alternating SIN and SQRT: every node depends on the one before."""
    node = LEAF
    for i in range(length):
        node = UOp(Op.SIN if i % 2 else Op.SQRT, FLOAT, (node,))
    return node


def reshapes(count: int) -> UOp:
    """Index arithmetic of `count` round trips through several shapes, as networks make it."""
    roots: list[UOp] = []
    for _ in range(count):
        old = (8, 16, 14, 14)
        indices = [UOp.range(n) for n in old]
        for new in [(128, 196), (8, 16, 196), (8, 4, 4, 14, 14), (32, 4, 7, 28), (8, 16, 14, 14)]:
            flat = UOp.const(0)
            for i, n in zip(indices, old):
                flat = flat * n + i
            indices, old = [], new
            for n in reversed(new):
                indices.insert(0, flat % n)
                flat = flat // n
        roots += indices
    return UOp.sink(*roots)


def random_graph(size: int) -> UOp:
    """A graph of integer operations on random earlier nodes: the worst kind of index expression."""
    rng = random.Random(0)
    nodes = [UOp.range(8) for _ in range(6)]
    while len(nodes) < size:
        a, b = rng.choice(nodes[-200:]), rng.choice(nodes[-200:])
        nodes.append(
            rng.choice([
                lambda a=a, b=b: a + b,
                lambda a=a: a * rng.randint(2, 5),
                lambda a=a: a % rng.randint(2, 9),
                lambda a=a: a // rng.randint(2, 9),
                lambda a=a, b=b: (a < b).where(a, b),
                lambda a=a, b=b: a.maximum_with(b),
            ])()
        )  # fmt: skip
    return UOp.sink(*nodes)


def report(name: str, nodes: int, repeat: int, work: Callable, prepare: Callable = tuple) -> None:
    """Prints nodes per second of work(*prepare()), without the time of prepare."""
    seconds = []
    for _ in range(repeat):
        arguments = prepare()
        start = time.process_time()
        kept = work(*arguments)
        seconds.append(time.process_time() - start)
        del arguments, kept
    print(f"{name:44} {nodes / statistics.median(seconds):12,.0f} nodes/s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Speed of the rewrite engine.")
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--profile", action="store_true", help="profile the simplifications")
    options = parser.parse_args()
    n, repeat = options.nodes, options.repeat

    def fresh_chain() -> tuple[UOp]:
        return (chain(n),)

    report("build", n, repeat, lambda: chain(n))
    report("toposort", n, repeat, toposort, fresh_chain)
    report("facts: ranges", n, repeat, lambda x: x.ranges, fresh_chain)
    report("facts: bounds", n, repeat, lambda x: x.bounds, fresh_chain)
    report("rewrite, no rule fires", n, repeat, lambda x: rewrite(x, IDLE), fresh_chain)
    report("rewrite, a rule fires on every other node", n, repeat,
           lambda x: rewrite(x, FIRING), fresh_chain)  # fmt: skip
    report("rewrite, symbolic rules, first time", n, repeat,
           lambda x: rewrite(x, symbolic), fresh_chain)  # fmt: skip
    report("verify", n, repeat, lambda x: verify(x, "program"), fresh_chain)
    report("pickle and back", n, repeat, lambda x: pickle.loads(pickle.dumps(x)), fresh_chain)
    report("deepcopy", n, repeat, copy.deepcopy, fresh_chain)

    profile = cProfile.Profile()
    for name, make in (("reshape round trips", reshapes), ("random integers", random_graph)):
        for size in (n // 100, n // 25) if make is reshapes else (n // 20, n // 5):
            graph = make(size)
            nodes = len(toposort(graph))
            if options.profile:
                profile.enable()
            report(
                f"simplify {name}, {nodes} nodes",
                nodes,
                1,  # what is final is remembered, so a second time would cost nothing
                lambda x: rewrite(x, symbolic),
                lambda graph=graph: (graph,),
            )
            profile.disable()
    if options.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
