"""What the KV blocks of a trace's requests contain, as numbers: equal numbers, equal tokens after an equal prefix.

* `prefix_hashes`: each stands for `prefix_tokens` prompt tokens and all before them, as in Mooncake's traces (Qin et
  al., FAST 2025).
* `session`: a request continues the last one of its session: its prompt begins with that one's prompt and output.
* Everything else, and all output, is a request's own; it meets it again only if it is preempted.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.sim.workload.trace import Trace

Int64Array = NDArray[np.int64]


def has_hashes(trace: Trace) -> bool:
    """Whether any request has a prefix hash."""
    return trace.prefix_hashes is not None and any(len(hashes) for hashes in trace.prefix_hashes)


def hashes_fit(trace: Trace, block_size: int) -> bool:
    """Whether the trace's prefix hashes, if any, begin and end where blocks do."""
    if not has_hashes(trace):
        return True
    return trace.prefix_tokens % block_size == 0 or block_size % max(trace.prefix_tokens, 1) == 0


def contents_of(trace: Trace, block_size: int) -> tuple[Int64Array, Int64Array]:
    """(N + 1,) where each request begins, and the contents of its full blocks, prompt and output, one after another."""
    blocks = (trace.prompt_tokens + trace.output_tokens) // block_size
    start = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
    contents = np.arange(start[-1], dtype=np.int64)  # each its own
    if has_hashes(trace):
        _share_by_hash(trace, block_size, start, contents)
    elif trace.session is not None:
        _share_by_session(trace, block_size, start, contents)
    return start, contents


def _share_by_hash(trace: Trace, block_size: int, start: Int64Array, contents: Int64Array) -> None:
    """Number the blocks that whole hashes cover by hash and place; the numbers lie above all others.

    Of hashes smaller than a block the last of each block names it, since a hash covers all tokens before it.
    """
    if not hashes_fit(trace, block_size):
        rule = f"must be a multiple or a divisor of the block size {block_size}"
        raise InputError("prefix_tokens", trace.prefix_tokens, rule)
    per_hash, per_block = max(trace.prefix_tokens // block_size, 1), max(block_size // trace.prefix_tokens, 1)
    hashes = tuple(mine[per_block - 1 :: per_block] for mine in trace.prefix_hashes or ())
    known, number = np.unique(np.concatenate([*hashes, np.zeros(0, np.int64)]), return_inverse=True)
    del known
    within = np.arange(per_hash, dtype=np.int64)
    at = 0
    for n, mine in enumerate(hashes):
        numbers = number[at : at + len(mine)]
        at += len(mine)
        shared = min(int(trace.prompt_tokens[n]) // block_size, len(mine) * per_hash)
        blocks = (numbers[:, None] * per_hash + within).reshape(-1)[:shared]
        contents[start[n] : start[n] + shared] = len(contents) + blocks


def _share_by_session(trace: Trace, block_size: int, start: Int64Array, contents: Int64Array) -> None:
    last: dict[int, int] = {}
    for n, session in enumerate((trace.session if trace.session is not None else np.zeros(0, np.int64)).tolist()):
        before = last.get(session)
        last[session] = n
        if before is None or session < 0:
            continue
        shared = min(int(start[before + 1] - start[before]), int(trace.prompt_tokens[n]) // block_size)
        contents[start[n] : start[n] + shared] = contents[start[before] : start[before] + shared]
