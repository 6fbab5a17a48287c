"""What a choice of admissions reads, works with and writes; kept from step to step."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.heuristic.params import HORIZONS


class Profile(NamedTuple):
    """Work arrays of the forecast, (H,) each."""

    mean: NDArray[np.float64]  # expected tokens of the batch at each horizon
    variance: NDArray[np.float64]
    survival: NDArray[np.float64]  # of the request that is looked at


class Result(NamedTuple):
    """What was chosen, (max_num_seqs,) each."""

    chosen: NDArray[np.int32]  # in order of admission
    overtakes: NDArray[np.uint8]  # 1 where it goes before an older request


class Scratch(NamedTuple):
    """Of `choose_admissions`: input, work arrays, result, and what lasts from step to step."""

    waiting: NDArray[np.int32]  # (N,) in: request indices, the first W of them
    rank: NDArray[np.int32]  # (N,) in: place in the present plan from 1; 0 if it names the request not
    keys: NDArray[np.float64]  # (N,) order keys, TRIED once tried
    profile: Profile
    result: Result
    ledger: NDArray[np.float64]  # (3,) see `out_of_order`: kept from step to step


def new_scratch(requests: int, seats: int) -> Scratch:
    """Empty scratch for `requests` requests and at most `seats` admissions a step."""
    horizons = len(HORIZONS)
    return Scratch(
        waiting=np.zeros(requests, np.int32),
        rank=np.zeros(requests, np.int32),
        keys=np.zeros(requests),
        profile=Profile(np.zeros(horizons), np.zeros(horizons), np.zeros(horizons)),
        result=Result(np.zeros(seats, np.int32), np.zeros(seats, np.uint8)),
        ledger=np.zeros(3),
    )
