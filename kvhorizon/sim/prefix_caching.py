"""Whether a what-if replays with prefix caching: vLLM's default is on, which a trace allows that says what is shared.

| asked for | the trace says what is shared | it does not |
|---|---|---|
| nothing | on; for a recording, as its engine had it | off, with a warning |
| on | on | on, with a warning: only evicted requests find their own blocks again |
| off | off | off |
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from kvhorizon.errors import InputError
from kvhorizon.sim.engine.contents import has_hashes, hashes_fit
from kvhorizon.sim.workload.trace import Trace

UNKNOWN = (
    "the trace does not say which prompts share a prefix, so prefix caching is off here; vLLM has it on by default and "
    "would reuse what is shared: take recompute and TTFT as upper estimates, for every policy"
)
RECORDED_UNKNOWN = (
    "the recording has no prefix hashes, so prefix caching is off here; its engine had it on and reused what was "
    "shared: take recompute and TTFT as upper estimates, and record with KVHORIZON_RECORD_PREFIXES=true"
)
NO_EFFECT = (
    "prefix caching was asked for, but the trace does not say which prompts share a prefix: it has no effect, except "
    "that evicted requests find their own blocks again"
)


class PrefixCaching(NamedTuple):
    """The answer. `says` is for the line that describes the engine; `warning` for whoever reads the figures."""

    on: bool
    says: str
    warning: str | None = None


def source_of(trace: Trace) -> str | None:
    """What tells which prompts share a prefix, in words; None where nothing does."""
    if has_hashes(trace):
        return f"by prefix hashes of {trace.prefix_tokens:,} tokens"
    if trace.session is not None:
        named = trace.session[trace.session >= 0]
        if len(np.unique(named)) < len(named):
            return "by sessions, each request continuing the last of its session"
    return None


def resolve(trace: Trace, asked: bool | None, block_size: int, recorded: bool | None = None) -> PrefixCaching:
    """On or off for this trace; `recorded` is what the recorded engine had, where that is known.

    Raises InputError where it was asked for and the trace's hashes do not fall on the engine's blocks.
    """
    if asked is False:
        return PrefixCaching(False, "off, as asked for")
    if asked is None and recorded is False:
        return PrefixCaching(False, "off, as in the recorded engine")
    source = source_of(trace)
    if source is None and asked is None:
        return PrefixCaching(
            False, "off: the trace does not say what is shared", RECORDED_UNKNOWN if recorded else UNKNOWN
        )
    if source is None:
        return PrefixCaching(True, "on, but the trace does not say what is shared", NO_EFFECT)
    if not hashes_fit(trace, block_size):
        rule = f"must be a multiple or a divisor of the block size {block_size} for prefix caching"
        if asked:
            raise InputError("prefix_tokens", trace.prefix_tokens, rule)
        unreadable = f"prefix caching is off here: the trace's prefix_tokens={trace.prefix_tokens} {rule}"
        return PrefixCaching(False, "off: the trace's hashes do not fall on blocks", unreadable)
    return PrefixCaching(True, f"on, {source}")


def recorded_setting(facts: dict[str, Any]) -> bool | None:
    """Whether the recorded engine had prefix caching; None where its recording does not tell. Raises InputError."""
    value = facts.get("prefix_caching")
    if value is not None and not isinstance(value, bool):
        raise InputError("recording: engine prefix_caching", value, "must be true or false")
    return value
