"""A weak set by identity: Tensors compare elementwise, so the standard WeakSet cannot hold them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

Member = TypeVar("Member")
_FEW = 8  # members that have gone and are still in the table


class IdentitySet(Generic[Member]):
    """Objects that are still alive, in the order in which they were added."""

    __slots__ = ("_most", "_references", "added")

    def __init__(self) -> None:
        # Those of members that have gone stay a while: a callback for each costs more than all the
        # rest, and every Tensor is in two sets.
        self._references: dict[int, weakref.ref[Member]] = {}
        self._most = _FEW
        self.added = 0  # how many were ever added

    def add(self, member: Member) -> None:
        reference = weakref.ref(member)  # one and the same for a member
        key = id(member)
        references = self._references
        if references.setdefault(key, reference) is not reference:
            del references[key]  # of one that was there before: the new one comes last
            references[key] = reference
        elif len(references) > self._most:
            self._forget()
        self.added += 1

    def discard(self, member: Member) -> None:
        self._references.pop(id(member), None)

    def __iter__(self) -> Iterator[Member]:
        for reference in list(self._references.values()):
            member = reference()
            if member is not None:
                yield member

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return next(iter(self), None) is not None

    def _forget(self) -> None:
        """Drops members that have gone."""
        references = self._references
        for key, reference in list(references.items()):
            if reference() is None:
                last = references.pop(key, reference)
                if last is not reference:  # another thread has added one in its place meanwhile
                    references[key] = last
        self._most = 2 * len(references) + _FEW
