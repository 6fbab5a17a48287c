"""What the forecasts learn of requests that run."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.state import FloatArray, IntArray


class Running(NamedTuple):
    """(n,) each, of the requests that run now."""

    handles: NDArray[np.uint64]
    leaves: IntArray
    hint_leaves: IntArray  # 0: none
    hint_tokens: FloatArray
    generated: IntArray
    held: IntArray  # tokens, prompts in flight as if computed
    limits: IntArray
    steps: int = 0  # of the engine so far
