"""What to hold in memory and what to recompute: where the graph is cut into kernels.

A held value is written once to GLOBAL memory (a STAGE GLOBAL), everything else is computed where it
is used. The rules, in order:

1. Results, STAGE, COPY and the targets of STORE are held. So is a value that is compared with the
   greatest (or least) of its own: computed twice, it may be rounded in two ways, and equal none.
2. A contraction (each operand element is used many times) reads its operands from memory, and is
   itself held, together with the elementwise work that follows it one to one (its epilogue).
3. A value that k kernels need is held if a reduction is inside it, or if computing it again costs
   more time. With the bytes of what it is computed from (leaf), its own bytes (own), its operations
   (work), and the target's bandwidth B, rate of operations R and time of a launch L:

       compute again:  k * leaf / B + (k - 1) * work / R
       hold:           leaf / B + (k + 1) * own / B + L
4. Any other reduction is computed inside its only kernel, at the loop level of its own axes, if
   that repeats no work and leaves enough parallel iterations; `kernels` checks that on the loops.
   So is what is computed from memory alone for a few of the elements that follow a contraction, the
   scales of channels, say, if that costs more time in its kernel than a launch: inputs that nobody
   changes are read but once by a captured step.
5. A contraction whose operand is computed from another contraction by reductions that can share its
   loop (`optimize.rescale`) is computed in one kernel with it: nothing in between is held.
6. Where several kernels need what is computed from short contractions, and matrix units do those,
   it is computed again block by block (`again`); what is known of its rows is held.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field

from dovetile.ir.ops import ELEMENTWISE, MOVEMENT, Op
from dovetile.ir.uop import UOp, consumers, toposort
from dovetile.optimize.analysis import COST
from dovetile.plugins.specs import Capabilities
from dovetile.schedule.again import PATH, Blockwise, blockwise
from dovetile.schedule.layout import Layout

# A contraction uses each element of its operands at least so often: on targets of workgroups, as
# often as the smallest block of theirs has rows.
_REUSE, _REUSE_OF_GROUPS = 4, 16
# More work per element than this is never done once per window of a convolution.
_WINDOW_WORK = 2
# What `_work` counts for a reduction: too much to be repeated.
_UNBOUNDED = 1 << 20
# The contractions that a value is computed from (two stand for several), and whether by a maximum.
Origin = tuple[frozenset[UOp], bool]
_NOTHING: Origin = (frozenset(), False)


@dataclass
class Placement:
    """The held nodes of a graph, and the contractions among its reductions, with the products that
    they sum up.

    closed: for a reduction under rules 5 and 6 those that are computed in its loop.
    apart: reductions that rules 5 and 6 must leave alone.
    again: values that rule 6 does not hold.
    beside: for a held value others that its kernel writes as well: it computes them anyway.
    epilogues: for a contraction, or a choice between many values, what follows it in its kernel,
    from itself to what is held.
    layouts: of held nodes that are not row-major.
    relaid: for a contraction the nodes in memory that it reads through copies, and their layouts.
    fixed: held nodes that change only when inputs do which stay the same from call to call.
    """

    nodes: list[UOp]
    users: dict[UOp, list[UOp]]
    held: dict[UOp, None] = field(default_factory=dict)
    contractions: dict[UOp, UOp] = field(default_factory=dict)
    closed: dict[UOp, frozenset[UOp]] = field(default_factory=dict)
    apart: frozenset[UOp] = frozenset()
    again: frozenset[UOp] = frozenset()
    beside: dict[UOp, tuple[UOp, ...]] = field(default_factory=dict)
    epilogues: dict[UOp, tuple[UOp, ...]] = field(default_factory=dict)
    layouts: dict[UOp, Layout] = field(default_factory=dict)
    relaid: dict[UOp, dict[UOp, Layout]] = field(default_factory=dict)
    fixed: set[UOp] = field(default_factory=set)
    position: dict[UOp, int] = field(init=False)
    """Of the nodes: sources before users."""

    def __post_init__(self) -> None:
        self.position = {node: number for number, node in enumerate(self.nodes)}

    def only_kernels_read(self, held: UOp) -> bool:
        """Whether nothing but kernels sees a held value, so that it may lie in any order."""
        if held.op in (Op.STAGE, Op.COPY, Op.STORE):
            return False
        waiting = [held]
        while waiting:
            for user in self.users.get(waiting.pop(), ()):
                if user.op in (Op.SINK, Op.COPY):
                    return False
                if user.op in (Op.RESHAPE, Op.AFTER) and user not in self.held:
                    waiting.append(user)
        return True


def place(sink: UOp, target: Capabilities, apart: frozenset[UOp] = frozenset()) -> Placement:
    """Decides rules 1 to 3 for the whole graph.

    apart: reductions that rules 5 and 6 must leave alone.
    """
    nodes = toposort(sink)
    placement = Placement(nodes, consumers(nodes), apart=apart)
    _forced(sink, placement)
    _contractions(placement, target)
    _few(placement, target)
    _shared(placement, target)
    return placement


def is_memory(node: UOp) -> bool:
    """Whether this is a BUFFER with at most its shape changed: readable without a kernel."""
    while node.op is Op.RESHAPE or (node.op is Op.AFTER):
        node = node.src[0]
    return node.op is Op.BUFFER


def storage(node: UOp) -> UOp:
    """The node below movement, casts and window indexing: where an operand really comes from."""
    while node.op in MOVEMENT or node.op in (Op.CAST, Op.INDEX):
        node = node.src[0]
    return node


def _hold(node: UOp, placement: Placement) -> None:
    if node.op not in (Op.BUFFER, Op.CONST, Op.IOTA, Op.AFTER, Op.STAGE) and not is_memory(node):
        placement.held[node] = None


def _forced(sink: UOp, placement: Placement) -> None:
    for node in placement.nodes:
        if node.op in (Op.STAGE, Op.COPY):
            placement.held[node] = None
            if node.op is Op.COPY and not is_memory(node.src[0]):
                placement.held[node.src[0]] = None
        elif node.op is Op.NE:
            value, best = (storage(s) for s in node.src)
            if best.op is Op.REDUCE and best.arg[0] in (Op.MAX, Op.MIN):
                if storage(best.src[0]) is value:
                    _hold(value, placement)
    for root in sink.src:
        if root.op is not Op.STORE and not is_memory(root):
            placement.held[root] = None


def _contractions(placement: Placement, target: Capabilities) -> None:
    least = _REUSE_OF_GROUPS if "GROUP" in target.parallel_axes else _REUSE
    products = {n: p for n in placement.nodes if (p := _product(n, least)) is not None}
    placement.contractions.update(products)
    for found in blockwise(products, placement.users, target):
        if found.users.isdisjoint(placement.apart):
            _compute_again(found, placement)
    origins: dict[UOp, Origin] = {}
    for node in placement.nodes:
        origins[node] = _origins(node, origins, placement)
        if node in products:
            sources = [storage(s) for s in products[node].src if storage(s) not in placement.again]
            origins[node] = (frozenset((node,)), False)
            closed = next((s for s in sources if _closes(node, s, origins, placement)), None)
            for s in sources:
                if s is not closed:
                    _hold(s, placement)
    # Users first: an epilogue may itself be the operand that another contraction holds.
    taken: set[UOp] = set()
    inside = frozenset[UOp]().union(*placement.closed.values())
    for node in reversed(placement.nodes):
        contraction = node in placement.contractions and node not in inside
        if contraction or chooses(node) and not any(map(chooses, placement.users[node])):
            chain = epilogue(node, placement, taken)
            if chain:
                placement.epilogues[node] = chain
                _hold(chain[-1], placement)
    # What windows show often; what contractions have computed for it is held by now.
    for node in placement.nodes:
        if node.op is Op.INDEX and node.size >= 2 * node.src[0].size:
            source = storage(node.src[0])
            if source.op in ELEMENTWISE and _work(source, placement) > _WINDOW_WORK:
                _hold(source, placement)


def _product(node: UOp, least: int) -> UOp | None:
    """The product that a contraction sums up; None for any other node."""
    if node.op is not Op.REDUCE or node.arg[0] is not Op.ADD:
        return None
    product = node.src[0]
    while product.op in MOVEMENT or product.op in (Op.CAST, Op.INDEX):
        product = product.src[0]
    if product.op is not Op.MUL:
        return None
    terms = node.src[0].size
    reuse = min(terms // max(storage(s).size, 1) for s in product.src)
    return None if reuse < least or terms < 4096 else product


def _compute_again(found: Blockwise, placement: Placement) -> None:
    """Rule 6: holds what is known of rows, and notes what the loops compute. A sum that needs a
    maximum of its own row shares the loop with it (`optimize.rescale`)."""
    products = [placement.contractions[n] for n in (*found.contractions, *found.sums)]
    operands = {storage(s) for p in products for s in p.src}
    inside = toposort((*found.contractions, *found.sums), lambda n: n not in operands)
    placement.again |= found.values.union(inside) - (operands - found.values) - found.sums
    placement.closed.update(dict.fromkeys(found.users, found.contractions))
    rows = found.rows | found.reductions - found.contractions
    shown = {n: _shown(n, placement) for n in placement.nodes if n in rows}
    for node, value in shown.items():
        _hold(value, placement)
        below = found.rows.intersection(toposort(node.src[0], lambda n: n not in rows))
        if node in found.rows and node.arg[0] is Op.ADD and len(below) == 1:
            (top,) = below
            if top.arg[0] is Op.MAX and top.size == node.size:
                placement.closed[node] |= {top, node}
                placement.beside[value] = (shown[top],)


def _shown(node: UOp, placement: Placement) -> UOp:
    """The last value of as many elements that all who need a reduction get it through."""
    last = node
    while len(placement.users[node]) == 1:
        (node,) = placement.users[node]
        if node.op in ELEMENTWISE and node.size == last.size:
            last = node
        elif node.op not in (Op.RESHAPE, Op.PERMUTE):
            break
    return last


def _few(placement: Placement, target: Capabilities) -> None:
    """Rule 3 for what each of the few is computed for many elements of an epilogue."""
    simple = ELEMENTWISE | MOVEMENT | {Op.BUFFER, Op.CONST}

    def alone(n: UOp) -> bool:
        return n.op in simple and n not in placement.held

    for chain in placement.epilogues.values():
        for value in {storage(s) for node in chain for s in node.src}:
            if not 1 < value.size <= chain[-1].size // _REUSE_OF_GROUPS or not alone(value):
                continue
            again = chain[-1].size * _work(value, placement) / target.operations_per_second
            inside = toposort(value, alone)
            dear = any(COST.get(n.op, 1) > 1 for n in inside)
            if all(map(alone, inside)) and dear and again > target.launch_seconds:
                _hold(value, placement)
                placement.fixed.add(value)


def chooses(node: UOp) -> bool:
    """Whether a counter chooses between values, all of which would be computed for every element
    where copies of the loop do not settle the choice."""
    if node.op is not Op.WHERE or node.dtype.kind != "f" or node.src[0].op is not Op.NE:
        return False
    counter, number = (storage(s) for s in node.src[0].src)
    return counter.op is Op.IOTA and number.op is Op.CONST


def _origins(node: UOp, known: dict[UOp, Origin], placement: Placement) -> Origin:
    if node in placement.held or node.op is Op.AFTER:
        return _NOTHING
    contractions, by_maximum = _NOTHING
    for s in node.src:
        found, maximum = known[s]
        by_maximum = by_maximum or maximum
        if found and found != contractions and len(contractions) < 2:
            contractions = contractions | found if contractions else found
    return contractions, by_maximum or (node.op is Op.REDUCE and node.arg[0] is Op.MAX)


def _closes(node: UOp, operand: UOp, origins: dict[UOp, Origin], placement: Placement) -> bool:
    """Whether rule 5 holds: an operand of this contraction is computed from another one alone, by a
    maximum and what follows from it, as the softmax of scores is, and nothing else needs any of
    it."""
    contractions, by_maximum = origins[operand]
    if len(contractions) != 1 or not by_maximum or node in placement.apart:
        return False
    cone = toposort(operand, lambda n: origins[n][0] == contractions and n not in contractions)
    inside = {n for n in cone if origins[n][0] == contractions}
    path = toposort(node.src[0], lambda n: n is not operand and n.op in PATH)
    known = {node, *path, *inside}
    if not all(user in known for n in inside for user in placement.users[n]):
        return False
    placement.closed[node] = frozenset(n for n in inside if n.op is Op.REDUCE)
    return True


def epilogue(node: UOp, placement: Placement, taken: set[UOp]) -> tuple[UOp, ...]:
    """`node` and what follows it one to one, element for element, before it is shared.

    Nothing where all of it ends in a STORE, which then writes it without a copy of its own.

    taken: what follows other contractions, to which this adds. Where two meet, in a sum say, one
    goes on and the other is held: the loops of a kernel can suit only one.
    """
    size, chain, last = node.size, [node], 1
    while node not in placement.held:
        users = [u for u in placement.users[node] if u.op is not Op.SINK]
        if len(users) != 1:
            break
        user = users[0]
        if user in taken:
            break
        taken.add(user)
        if user.op is Op.STORE and user.src[0] is not node:
            return ()
        moves = user.op in (Op.RESHAPE, Op.PERMUTE, Op.STAGE)
        if not moves and not (user.op in ELEMENTWISE and user.size == size):
            break
        node = user
        chain.append(user)
        if not moves or user in placement.held:
            last = len(chain)
    return tuple(chain[:last])


def _work(node: UOp, placement: Placement) -> int:
    """Operations to compute one element from held values; _UNBOUNDED with a reduction inside."""
    total, stack, seen = 0, [node], set()
    while stack:
        current = stack.pop()
        if current in seen or current.op in (Op.BUFFER, Op.CONST, Op.IOTA, Op.AFTER):
            continue
        seen.add(current)
        if current is not node and current in placement.held:
            continue
        if current.op is Op.REDUCE:
            return _UNBOUNDED
        if current.op in ELEMENTWISE:
            total += COST.get(current.op, 1)
        stack.extend(current.src)
    return total


def _leaf_bytes(node: UOp, placement: Placement) -> int:
    total, stack, seen = 0, [node], set()
    while stack:
        current = stack.pop()
        if current in seen:
            continue
        seen.add(current)
        if current.op in (Op.BUFFER, Op.AFTER) or (
            current is not node and current in placement.held
        ):
            total += min(current.size, node.size) * current.dtype.itemsize
            continue
        stack.extend(current.src)
    return total


def _shared(placement: Placement, target: Capabilities) -> None:
    """Rule 3, sources first, so that what a value costs is known when it is decided. What then only
    one kernel needs, as those that needed it too read something held in between, is let go."""
    needs = kernels_of(placement)
    others = set(placement.held)
    for node in placement.nodes:
        kernels = len(needs.get(node, ()))
        if node in placement.held or node in placement.again or kernels < 2:
            continue
        users = placement.users[node]
        if all(u in placement.held or u.op in ELEMENTWISE for u in users) and all(
            needs[u] == needs[node] for u in users
        ):
            # Its users go on together: what follows is the better one to hold. Not so where they
            # may part again, by a reduction that one of them leads to, and computing costs much.
            if len(users) == 1 or _work(node, placement) < _UNBOUNDED:
                continue
        if node.op is Op.REDUCE:
            _hold(_smallest_epilogue(node, placement, needs), placement)
        elif node.op in ELEMENTWISE:
            leaf = _leaf_bytes(node, placement) / target.bytes_per_second
            own = node.size * node.dtype.itemsize / target.bytes_per_second
            work = node.size * _work(node, placement) / target.operations_per_second
            again = kernels * leaf + (kernels - 1) * work
            if again > leaf + (kernels + 1) * own + target.launch_seconds:
                _hold(node, placement)
    for node, found in kernels_of(placement, placement.held.keys() - others).items():
        if len(found) < 2 and node not in others:
            placement.held.pop(node, None)


def _smallest_epilogue(node: UOp, placement: Placement, needs: dict[UOp, frozenset[UOp]]) -> UOp:
    """A reduction that several kernels need, with what all of them compute from it first."""
    last = node
    while True:
        users = [u for u in placement.users[node] if u.op is not Op.SINK]
        if len(users) != 1 or users[0] in placement.held:
            return last
        user = users[0]
        if user.op in (Op.RESHAPE, Op.PERMUTE) or (
            user.op in ELEMENTWISE and user.size == node.size and len(needs.get(user, ())) > 1
        ):
            node = user
            last = user if user.op in ELEMENTWISE else last
        else:
            return last


def followed(node: UOp, placement: Placement) -> UOp:
    """The last value, of as many elements and no larger, that everything which is made of `node`
    goes through: to hold it is as good, and what comes before it is computed once."""
    last, front = node, {node}
    while True:
        first = min(front, key=placement.position.__getitem__)
        users = {u for u in placement.users[first] if u.op is not Op.SINK}
        alike = all(u.op in (Op.RESHAPE, Op.PERMUTE) or u.op in ELEMENTWISE for u in users)
        same = all(u.size == node.size and u not in placement.held for u in users)
        if first in placement.held or not users or not alike or not same:
            return last
        front = (front - {first}) | users
        if len(front) == 1:
            (only,) = front
            if only.op in ELEMENTWISE and only.dtype.itemsize <= node.dtype.itemsize:
                last = only


def kernels_of(placement: Placement, shared: Set[UOp] = frozenset()) -> dict[UOp, frozenset[UOp]]:
    """For every node the kernels (held nodes and STOREs) it is computed in.

    shared: held nodes that are held only where several kernels need them.
    """
    needs: dict[UOp, frozenset[UOp]] = {}
    nothing: frozenset[UOp] = frozenset()
    for node in reversed(placement.nodes):
        found = nothing
        for user in placement.users[node]:
            alone = user in shared and len(needs[user]) < 2
            if user.op is Op.STORE or user in placement.held and not alone:
                more = frozenset((user,))
            elif user.op is Op.SINK or user.op is Op.AFTER and user.src[0] is not node:
                continue
            else:
                more = needs.get(user, nothing)
            # Most nodes have one user, and then the very same set.
            found = found | more if found and more is not found else more
        needs[node] = found
    return needs
