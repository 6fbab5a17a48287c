"""What the running requests will take in a step, by vLLM's own rules of sharing tokens and counting blocks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.adapter.engine.column_store import columns_in
from kvhorizon.adapter.engine.request_table import Slots
from kvhorizon.compiled.compiler import compiled

IntArray = NDArray[np.int64]

STEADY = -1  # pending tokens of a request that decodes a token a step; its columns may lag


class Sizes(NamedTuple):
    """Of the engine."""

    block_size: int  # tokens
    lookahead: int  # tokens of room that every request is given beyond what it computes
    step_tokens: int  # of a decode at most, drafts among them
    max_model_len: int
    token_budget: int  # of a step
    long_prefill: int  # largest chunk of one prefill; 0: no limit


class Demand(NamedTuple):
    """Of the running requests in this step, (R,) each, in the order in which they share the token budget.

    Views, valid until the batch is looked at again.
    """

    slots: Slots
    tokens: IntArray
    blocks: IntArray  # to be newly allocated
    owed_blocks: int  # beyond those, until all prefills are complete
    total_blocks: int  # sum of `blocks`
    total_tokens: int  # sum of `tokens`


class Wishes(NamedTuple):
    """What running requests take in a step, (R,) each."""

    tokens: IntArray
    blocks: IntArray


@compiled
def sizes_in(numbers):  # type: ignore[no-untyped-def]
    """Sizes from (6,) numbers."""
    return Sizes(numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5])


@compiled
def blocks_for(tokens, sizes):  # type: ignore[no-untyped-def]
    """Blocks that hold so many tokens, no more than the longest sequence."""
    return (min(tokens, sizes.max_model_len) + sizes.block_size - 1) // sizes.block_size


@compiled
def share(real, whole, marks, pending, slots, ahead, numbers, wishes):  # type: ignore[no-untyped-def]
    """Fill the `wishes` (R,) of the requests at `slots`; returns (owed blocks, blocks, tokens) in all.

    Columns of steady requests are `ahead` steps old, and brought up to date; `pending` (N,) tokens of the others,
    drafts among them, and their columns are as of now, blocks only where there are drafts: those that were refused
    leave their room behind. Columns as they lie in the pool; `numbers` (6,) are `Sizes`.
    """
    columns, sizes = columns_in(real, whole, marks), sizes_in(numbers)
    tokens, blocks = wishes
    owed, total_blocks, total_tokens, wished = 0, 0, 0, 0
    for i in range(len(slots)):
        n = slots[i]
        want = pending[n]
        if want == STEADY:
            columns.computed[n] += ahead
            columns.generated[n] += ahead
            want = 1
        computed = columns.computed[n]
        held = blocks_for(computed + sizes.lookahead, sizes) if computed > 0 else 0
        if sizes.step_tokens > 1:
            held = max(held, columns.blocks[n])
        want = min(want, max(sizes.max_model_len - 1 - computed, 0))
        if sizes.long_prefill > 0:
            want = min(want, sizes.long_prefill)
        tokens[i] = min(want, max(sizes.token_budget - wished, 0))
        wished += want
        blocks[i] = 0
        if tokens[i] > 0:
            blocks[i] = max(blocks_for(computed + tokens[i] + sizes.lookahead, sizes) - held, 0)
        columns.blocks[n] = held
        owed += max(blocks_for(columns.prompt[n] + columns.generated[n], sizes) - held - blocks[i], 0)
        total_blocks += blocks[i]
        total_tokens += tokens[i]
    return owed, total_blocks, total_tokens
