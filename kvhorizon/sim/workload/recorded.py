"""A trace as a recording that a learned forecast is fitted to, or reads its features from."""

from kvhorizon.models.forecast.learned.features import Recorded
from kvhorizon.models.forecast.prequential import finish_times
from kvhorizon.sim.workload.trace import Trace


def recorded(trace: Trace) -> Recorded:
    """The trace's columns; requests end as on the simple engine of `models.forecast.prequential`."""
    return Recorded(
        trace.arrival_s,
        finish_times(trace.arrival_s, trace.output_tokens),
        trace.prompt_tokens,
        trace.output_tokens,
        trace.key,
        trace.session,
        trace.prefix_hashes,
        trace.prefix_tokens,
        trace.began_s,
        trace.sampling,
    )
