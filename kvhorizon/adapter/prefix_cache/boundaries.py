"""Where the cached part of each waiting request's prompt ends, by the hashes of the blocks at these places.

What a waiting request finds in the prefix cache changes only if a block at one of its boundaries does: the last block
found, the first one missing, and the same of those that are in use. So whatever becomes cached, used or free is looked
up here, and names the requests to be looked at again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

Hash = bytes


class Boundaries:
    """Of all waiting requests of one engine, by slot."""

    def __init__(self) -> None:
        self.stale: dict[int, None] = {}  # slots to be looked at again, in the order in which that was noticed
        self._slots: dict[Hash, dict[int, None]] = {}
        self._of: dict[int, _Of] = {}
        self._heads: Counter[Hash] = Counter()  # first hashes of those that are here
        self._newest: dict[Hash, tuple[int, int]] = {}  # by these, what was found last: blocks cached, and in use

    def __len__(self) -> int:
        return len(self._of)

    def put(self, slot: int, hashes: Sequence[Hash], found: int, held: int) -> None:
        """Of the blocks with these `hashes` the first `found` are cached, and the first `held` of them in use."""
        size = len(hashes)
        before = self._of.get(slot)
        if before is not None and before.ends == (found, held) and before.size == size:
            return
        self._forget(slot)
        if not hashes:
            return
        places = {place for place in (found - 1, found, held - 1, held) if 0 <= place < size}
        at = [hashes[place] for place in places]
        self._of[slot] = _Of(hashes[0], at, (found, held), size)
        self._heads[hashes[0]] += 1
        self._newest[hashes[0]] = found, held
        for one in at:
            self._slots.setdefault(one, {})[slot] = None

    def like(self, hashes: Sequence[Hash]) -> tuple[int, int]:
        """A guess at what would be found of a newcomer: as of the last one whose blocks begin alike."""
        return self._newest.get(hashes[0], (0, 0))

    def drop(self, slot: int) -> None:
        """The request waits no longer."""
        self.stale.pop(slot, None)
        self._forget(slot)

    def changed(self, hashes: Sequence[Hash], first: int = 0, last: int | None = None) -> None:
        """Blocks of a chain with these hashes became cached, used or free, from place `first` on to before `last`."""
        if not self._of or not hashes or hashes[0] not in self._heads:
            return
        slots, stale = self._slots, self.stale
        for one in hashes[first:last]:
            found = slots.get(one)
            if found is not None:
                stale.update(found)

    def clear(self) -> None:
        """None waits."""
        self.stale.clear()
        self._slots.clear()
        self._of.clear()
        self._heads.clear()
        self._newest.clear()

    def _forget(self, slot: int) -> None:
        of = self._of.pop(slot, None)
        if of is None:
            return
        self._heads[of.head] -= 1
        if not self._heads[of.head]:
            del self._heads[of.head], self._newest[of.head]
        for one in of.at:
            slots = self._slots[one]
            del slots[slot]
            if not slots:
                del self._slots[one]


class _Of(NamedTuple):
    """One request's first hash, those at its boundaries, how many blocks are cached and in use, and hashes in all."""

    head: Hash
    at: list[Hash]
    ends: tuple[int, int]
    size: int
