"""How much more a waiting request weighs, the nearer the first token is that its class was promised.

    u = 1 + (U − 1) · age / target        without a token yet, and with age <= target; else 1

A promise that is broken deserves no more haste than none. U was chosen on seeds from 100 on (decision 012). How long
later tokens take is not decided by who is admitted first: promises of them change no decision.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
MOST_URGENT = 64.0  # U
NO_TARGET_S = np.inf


def urgency(age_s: FloatArray, target_s: FloatArray) -> FloatArray:
    """(n,) factors of requests that have waited so long, of so many promised seconds each."""
    gone = np.maximum(age_s, 0.0) / target_s
    return np.where(gone <= 1.0, 1.0 + (MOST_URGENT - 1.0) * gone, 1.0)
