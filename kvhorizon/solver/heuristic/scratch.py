"""Scratch and result of a choice of admissions, kept from step to step."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.heuristic.params import HORIZONS


class Scratch(NamedTuple):
    """Scratch and result of `choose_admissions`; `waiting[:W]` is the input."""

    waiting: NDArray[np.int32]  # (N,) in: request indices
    keys: NDArray[np.float64]  # (N,) order keys, TRIED once tried
    chosen: NDArray[np.int32]  # (max_num_seqs,) out: in order of admission
    overtakes: NDArray[np.uint8]  # (max_num_seqs,) out: 1 where it goes before an older request
    mean: NDArray[np.float64]  # (H,) expected tokens of the batch at each horizon
    variance: NDArray[np.float64]  # (H,)
    survival: NDArray[np.float64]  # (H,)
    rank: NDArray[np.int32]  # (N,) place in the present plan from 1; 0 if it names the request not
    owed: NDArray[np.float64]  # (3,) see `out_of_order`: kept from step to step


def new_scratch(requests: int, seats: int) -> Scratch:
    """Empty scratch for `requests` requests and at most `seats` admissions a step."""
    horizons = len(HORIZONS)
    return Scratch(
        waiting=np.zeros(requests, np.int32),
        keys=np.zeros(requests),
        chosen=np.zeros(seats, np.int32),
        overtakes=np.zeros(seats, np.uint8),
        mean=np.zeros(horizons),
        variance=np.zeros(horizons),
        survival=np.zeros(horizons),
        rank=np.zeros(requests, np.int32),
        owed=np.zeros(3),
    )
