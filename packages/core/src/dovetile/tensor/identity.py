"""A weak set by identity: Tensors compare elementwise, so the standard WeakSet cannot hold them."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Generic, TypeVar

Member = TypeVar("Member")


class IdentitySet(Generic[Member]):
    """Objects that are still alive, in the order in which they were added."""

    __slots__ = ("_references", "added")

    def __init__(self) -> None:
        self._references: dict[int, weakref.ref[Member]] = {}
        self.added = 0  # how many were ever added

    def add(self, member: Member) -> None:
        key = id(member)
        references = self._references
        # When the member goes: pop(key, reference), which runs no Python.
        references[key] = weakref.ref(member, partial(references.pop, key))
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
