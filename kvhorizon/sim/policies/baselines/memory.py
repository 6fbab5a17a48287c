"""What baselines remember between steps, and their scratch."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import inside

# Places in `Notes.state` (float64).
RATIO, LAST_STEP, LAST_PREEMPTED, PASS_TOKENS, READY, PEAK_SIZE, AVERAGE, EVENTS, STATES = range(9)
UNSEEN = -1


class Notes(NamedTuple):
    """One for each replay."""

    state: NDArray[np.float64]  # (STATES,)
    queued_s: NDArray[np.float64]  # (N,) when it was last preempted; 0 if never
    since_step: NDArray[np.int64]  # (N,) step at which it began to wait, or was admitted; UNSEEN at first
    promoted: NDArray[np.uint8]  # (N,) 1: waited too long
    seen_preemptions: NDArray[np.int32]  # (N,)
    bound: NDArray[np.float64]  # (N,) least output as predicted when first seen [tokens]; 0 before
    batch_key: NDArray[np.float64]  # (N,) place among the batches formed last; inf before
    peak_context: NDArray[np.float64]  # (max_num_seqs + 1,) tokens held, by remaining descending
    peak_remaining: NDArray[np.float64]  # (max_num_seqs + 1,) tokens to come, descending


def new_notes(requests: int, seats: int) -> Notes:
    """Nothing seen yet."""
    return Notes(
        state=np.zeros(STATES),
        queued_s=np.zeros(requests),
        since_step=np.full(requests, UNSEEN, np.int64),
        promoted=np.zeros(requests, np.uint8),
        seen_preemptions=np.zeros(requests, np.int32),
        bound=np.zeros(requests),
        batch_key=np.full(requests, np.inf),
        peak_context=np.zeros(seats + 1),
        peak_remaining=np.zeros(seats + 1),
    )


@inside
def note_wait(notes, n, preemptions, now_s, step):  # type: ignore[no-untyped-def]
    """Request n began to wait at `step`, having been preempted for the `preemptions`-th time."""
    notes.seen_preemptions[n] = preemptions
    notes.queued_s[n] = now_s
    notes.since_step[n] = step
    notes.promoted[n] = 0
