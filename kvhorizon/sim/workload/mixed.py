"""What if a share of the requests were of another workload? Arrivals stay, prompts and outputs change."""

from __future__ import annotations

import numpy as np

from kvhorizon.errors import InputError
from kvhorizon.sim.workload.trace import Trace, make_trace


def mixed(trace: Trace, other: Trace, share: float, seed: int) -> Trace:
    """The trace, in which requests drawn with chance `share` are those of `other`, in its order, over and over.

    They come from tenants of their own, continue no session, share no prefix and name no class. Raises InputError.
    """
    if not 0.0 <= share <= 1.0:
        raise InputError("mix-share", share, "must be within 0 ... 1")
    drawn = np.random.default_rng(seed).random(len(trace)) < share
    if not drawn.any():
        return trace
    row = np.arange(int(drawn.sum())) % len(other)
    prompt, output, key = trace.prompt_tokens.copy(), trace.output_tokens.copy(), trace.key.copy()
    prompt[drawn], output[drawn] = other.prompt_tokens[row], other.output_tokens[row]
    tenants = trace.tenants
    key[drawn] = len(tenants) + other.key[row]
    none = np.zeros(0, np.int64)
    prefixes, classes = trace.prefix_hashes, trace.slo_class
    return make_trace(
        f"{trace.name}+{other.name}",
        trace.arrival_s,
        prompt,
        output,
        key=key,
        prefix_hashes=None
        if prefixes is None
        else tuple(none if gone else mine for gone, mine in zip(drawn, prefixes, strict=True)),
        prefix_tokens=trace.prefix_tokens,
        session=None if trace.session is None else np.where(drawn, -1, trace.session),
        priority=trace.priority,
        began_s=trace.began_s,
        sampling=None if trace.sampling is None else np.where(drawn, -1, trace.sampling),
        slo_class=None
        if classes is None
        else tuple("" if gone else mine for gone, mine in zip(drawn, classes, strict=True)),
        key_names=(*tenants, *(f"{other.name}: {name}" for name in other.tenants)),
    )
