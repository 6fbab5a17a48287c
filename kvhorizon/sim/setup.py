"""What one replay needs besides the policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from kvhorizon.models.slo.classes import NONE, Classes
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.state import EngineFacts, Plan, Snapshot


class Solver(Protocol):
    """Answers a snapshot with a plan, or None where it cannot."""

    def plan(self, snapshot: Snapshot) -> Plan | None: ...


@dataclass(frozen=True, slots=True)
class Setup:
    """The trace, the engine, and what is known of lengths."""

    trace: Trace
    facts: EngineFacts
    forecast: str = "history"
    seed: int = 0
    delay_s: float = 0.012  # from snapshot to applied plan: p90 of budget and transport, as once measured
    tick_s: float = 0.1
    concurrency: int = 0  # closed loop with so many requests under way; 0: the trace's own arrivals
    prefix_caching: bool = False  # KV blocks of equal content are shared and kept while nothing overwrites them
    reload_s_per_token: float = 0.0  # from host memory, which keeps the KV of the preempted; 0: they are recomputed
    async_scheduling: bool = False  # a step is decided while the one before it runs, as vLLM does by default on GPUs
    max_tokens: int | None = None  # largest output a client asks for; None: the trace's largest, rounded up
    classes: Classes = NONE  # of service, by the names in the trace

    def output_limit_tokens(self) -> int:
        """Largest output that any request may give: `max_tokens`, else a power of two >= 1024 that covers the trace."""
        if self.max_tokens is not None:
            return self.max_tokens
        return max(1024, 1 << (int(self.trace.output_tokens.max(initial=1)) - 1).bit_length())
