"""What requests teach about output lengths: survival curves per key, learned online, finished and running alike.

A key names requests alike; a chain of keys goes from the general to the special (tenant, then tenant and class of
prompt). Each key's curve is shrunk to that of the key before it, the first key's to that of all requests, by as much
as evidence says (`models.forecast.history.evidence`). Requests that still run count as censored: without them the short
ones, which finish first, would make every start look shorter than it is. So do those cut at their output limit, unless
that is unknown. Memory is bounded: the keys that were used longest ago are forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.models.forecast.bins import UNIT_TOKENS, bin_of
from kvhorizon.models.forecast.history.evidence import (
    Evidence,
    build_and_tabulate,
    clear_node,
    count_all,
    most_special,
    no_evidence,
    strength_of,
    watch_all,
)
from kvhorizon.models.forecast.lognormal import DEFAULT_PRIOR, LogNormalPrior
from kvhorizon.models.forecast.survival import GRID_POINTS

__all__ = ["DEFAULT_PRIOR", "GLOBAL_ROW", "UNIT_TOKENS", "LengthHistory", "LogNormalPrior"]

NODES_PER_ROW = 4  # keys remembered, with a curve of their own or not, per row of the tables
LEVELS = 5  # longest chain of keys, and the root
MEMORY = 4000.0  # requests that a key remembers: each weighs 1 − 1/MEMORY of the next
OWN_ROW_SHARE = 0.03  # a key gets a row once its own requests weigh as much in its curve
GLOBAL_ROW = 0
ROOT = 0

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class LengthHistory:
    """Curves of output length, one table row per busy key; row 0 is of all keys and serves the rest.

    `survival` and `residual` are (rows, G) as `models.forecast.survival.Curves` wants them, in units of `UNIT_TOKENS`,
    and are updated in place. `mapping_version` counts the changes of which key has which row. Keys are (n,) or, as
    chains, (n, levels), the general before the special; a key must always come with the same keys before it.
    """

    def __init__(self, rows: int = 64, prior: LogNormalPrior = DEFAULT_PRIOR, memory: float = MEMORY) -> None:
        self.survival: FloatArray = np.zeros((rows, GRID_POINTS))
        self.residual: FloatArray = np.zeros((rows, GRID_POINTS))
        self.mapping_version = 0
        self.prior = prior
        nodes = NODES_PER_ROW * rows
        self.evidence: Evidence = no_evidence(nodes, LEVELS, memory)
        self.evidence.row[ROOT] = GLOBAL_ROW
        self._nodes: OrderedDict[int, int] = OrderedDict()  # key -> node; the key used last is last
        self._key: dict[int, int] = {}  # node -> key
        self._row: dict[int, int] = {}  # key -> row of the tables
        self._free_nodes = list(range(nodes - 1, ROOT, -1))
        self._free_rows = list(range(rows - 1, GLOBAL_ROW, -1))
        self._build(ROOT)

    def rows_of(self, keys: IntArray) -> NDArray[np.int32]:
        """Table row of each of n keys: that of the most special one in its chain that has a row."""
        return np.array([self._row_of(chain) for chain in _chains(keys)], dtype=np.int32)

    def rows_on(self, paths: IntArray) -> NDArray[np.int32]:
        """As `rows_of`, of (n, levels) nodes as `paths` gives them."""
        rows = np.zeros(len(paths), dtype=np.int32)
        most_special(self.evidence, paths, rows)
        return rows

    def learn(self, keys: IntArray, lengths: IntArray, capped: NDArray[np.bool_] | None = None) -> bool:
        """Take in n finished requests, in order of finish; True if a table changed.

        `capped` (n,) marks those that ended because of a limit: all that is known of them is that they are longer.
        """
        return self.learn_on(self.paths(keys, remember=True), lengths, capped)

    def learn_on(self, paths: IntArray, lengths: IntArray, capped: NDArray[np.bool_] | None = None) -> bool:
        """As `learn`, with (n, levels) nodes as `paths` gives them."""
        cut = np.zeros(len(lengths), np.bool_) if capped is None else capped
        renewed = count_all(self.evidence, paths, lengths, cut, self.prior, self.survival, self.residual)
        if renewed:
            self._give_rows(paths)
        return bool(renewed)

    def watch(self, keys: IntArray, generated: IntArray) -> None:
        """Take in what runs now, n requests with tokens generated so far; replaces what was running before."""
        busy = self.evidence.running.any(axis=1)
        started = generated > 0
        paths = self.paths(keys[started], remember=False)
        watch_all(self.evidence, paths, bin_of(generated[started]))
        busy |= self.evidence.running.any(axis=1)
        for node in sorted(np.flatnonzero(busy).tolist(), key=lambda node: int(self.evidence.level[node])):
            self._build(node)

    def forget(self, keep: float) -> None:
        """Weigh all evidence so far by `keep`, 0 < keep <= 1, and renew all curves."""
        for counts in (self.evidence.ended, self.evidence.capped, self.evidence.total):
            counts *= keep
        known = [ROOT, *self._nodes.values()]
        for node in sorted(known, key=lambda node: int(self.evidence.level[node])):
            self._build(node)

    def known(self) -> tuple[IntArray, IntArray]:
        """Keys (k,), the one used longest ago first, and their nodes (k,)."""
        return np.array(list(self._nodes), dtype=np.int64), np.array(list(self._nodes.values()), dtype=np.int64)

    def rows_by_key(self) -> dict[int, int]:
        """Table rows of the keys that have one of their own."""
        return dict(self._row)

    def restore(self, keys: IntArray, counts: Mapping[str, NDArray[Any]]) -> None:
        """Fill an empty history: (k,) keys as `known` gives them, and columns of `Evidence` of the root and their
        nodes, whose parents are numbered alike. Where there is no room for all, the keys used last are kept.
        """
        nodes = {0: ROOT}
        first = max(0, len(keys) - len(self._free_nodes))
        for place in sorted(range(1 + first, 1 + len(keys)), key=lambda place: int(counts["level"][place])):
            if int(counts["parent"][place]) in nodes:
                nodes[place] = self._free_nodes.pop()
        for place, node in nodes.items():
            for name in ("ended", "capped", "weight", "total", "seen", "level"):
                getattr(self.evidence, name)[node] = counts[name][place]
            self.evidence.parent[node] = nodes.get(int(counts["parent"][place]), -1)
        self.evidence.scores[:] = counts["scores"]
        self._nodes.update((int(keys[place - 1]), nodes[place]) for place in sorted(nodes) if place)
        self._key.update((node, key) for key, node in self._nodes.items())
        self.forget(1.0)
        newest_first = np.array([[node] for node in reversed(self._nodes.values())], dtype=np.int64)
        self._give_rows(newest_first[: len(self._free_rows)])

    def _row_of(self, chain: list[int]) -> int:
        for key in reversed(chain):
            row = self._row.get(key)
            if row is not None:
                return row
        return GLOBAL_ROW

    def paths(self, keys: IntArray, remember: bool) -> IntArray:
        """(n, levels) nodes of n keys, the root first; -1 for keys that are unknown and not to be remembered."""
        chains = _chains(keys)
        levels = 1 + (len(chains[0]) if chains else 0)
        if not remember:
            nodes = [[ROOT, *(self._nodes.get(key, -1) for key in chain)] for chain in chains]
        else:
            nodes = [self._remember(chain) for chain in chains]
        return np.array(nodes, dtype=np.int64).reshape(len(chains), levels)

    def _remember(self, chain: list[int]) -> list[int]:
        path = [ROOT]
        for level, key in enumerate(chain, start=1):
            node = self._nodes.get(key)
            if node is None:
                node = self._new_node(chain)
                self._nodes[key] = node
                self._key[node] = key
                self.evidence.parent[node], self.evidence.level[node] = path[-1], level
                self.evidence.alive[node] = self.evidence.alive[path[-1]]
            path.append(node)
        for key in reversed(chain):  # so that a key always outlives the more special ones
            self._nodes.move_to_end(key)
        return path

    def _new_node(self, wanted: list[int]) -> int:
        if self._free_nodes:
            return self._free_nodes.pop()
        oldest = next(key for key in self._nodes if key not in wanted)
        self._free_row(oldest)
        node = self._nodes.pop(oldest)
        clear_node(self.evidence, node)
        return node

    def _give_rows(self, paths: IntArray) -> None:
        """A row for each node of `paths` whose own requests matter by now."""
        for node in {node for path in paths.tolist() for node in path}:
            if node <= ROOT or self._key[node] in self._row:
                continue
            own = (self.evidence.total[node] + self.evidence.capped[node].sum()) / self.evidence.weight[node]
            if own < OWN_ROW_SHARE * (own + strength_of(self.evidence, node)):
                continue
            if not self._free_rows:
                oldest = next((key for key in self._nodes if key in self._row), None)
                if oldest is None:
                    return
                self._free_row(oldest)
            row = self._free_rows.pop()
            self.evidence.row[node] = self._row[self._key[node]] = row
            self.mapping_version += 1
            self._build(node)

    def _free_row(self, key: int) -> None:
        if key in self._row:
            self._free_rows.append(self._row.pop(key))
            self.evidence.row[self._nodes[key]] = -1
            self.mapping_version += 1

    def _build(self, node: int) -> None:
        build_and_tabulate(self.evidence, node, self.prior, self.survival, self.residual)


def _chains(keys: IntArray) -> list[list[int]]:
    chains: list[list[int]] = (keys[:, None] if keys.ndim == 1 else keys).tolist()
    return chains
