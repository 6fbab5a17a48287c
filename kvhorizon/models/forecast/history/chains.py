"""The history's keys of a trace's requests: the tenant, then the class of the prompt's length."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

PROMPT_CLASS_BITS = 3  # classes of prompt length: below 8, 64, 512, 4096, … tokens

IntArray = NDArray[np.int64]


def length_key(tenant: IntArray, prompt_tokens: IntArray) -> IntArray:
    """The most special key of each request (N,): its tenant and the class of its prompt length."""
    bits = np.floor(np.log2(np.maximum(prompt_tokens, 1))).astype(np.int64)
    return tenant.astype(np.int64) * 16 + np.minimum(bits // PROMPT_CLASS_BITS, 15)


def length_chain(tenant: IntArray, prompt_tokens: IntArray) -> IntArray:
    """The keys of each request (N, 2), the general before the special: tenant, and `length_key`."""
    leaf = length_key(tenant, prompt_tokens)
    return np.stack([-1 - tenant.astype(np.int64), leaf], axis=1)
