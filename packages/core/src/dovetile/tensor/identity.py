"""A weak set by identity: Tensors compare elementwise, so the standard WeakSet cannot hold them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Generic, TypeVar

Member = TypeVar("Member")


class _Reference(weakref.ref):
    __slots__ = ("key",)


class IdentitySet(Generic[Member]):
    """Objects that are still alive, in the order in which they were added."""

    __slots__ = ("_forget", "_references", "__weakref__", "added")

    def __init__(self) -> None:
        references: dict[int, _Reference] = {}
        self._references = references
        self._forget = lambda reference: references.pop(reference.key, None)
        self.added = 0  # how many were ever added

    def add(self, member: Member) -> None:
        reference = _Reference(member, self._forget)
        reference.key = key = id(member)
        self._references[key] = reference
        self.added += 1

    def discard(self, member: Member) -> None:
        self._references.pop(id(member), None)

    def __iter__(self) -> Iterator[Member]:
        for reference in list(self._references.values()):
            member = reference()
            if member is not None:
                yield member

    def __len__(self) -> int:
        return len(self._references)
