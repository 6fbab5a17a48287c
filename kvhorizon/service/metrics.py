"""What the solver service counts, for Prometheus."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from kvhorizon.state import Plan

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_GAPS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)


class ServiceMetrics:
    """Counters of one service in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        here = self.registry
        self.plans = Counter("kvhorizon_plans", "Plans made, by who decided", ["source"], registry=here)
        self.plan_seconds = Histogram("kvhorizon_plan_seconds", "Time to make a plan", buckets=_SECONDS, registry=here)
        self.gap = Histogram(
            "kvhorizon_plan_gap", "(objective - bound) / bound, where proven", buckets=_GAPS, registry=here
        )
        self.sessions = Gauge("kvhorizon_sessions", "Sessions open now", registry=here)
        self.resyncs = Counter("kvhorizon_resyncs", "Full states asked for", registry=here)
        self.dropped = Counter(
            "kvhorizon_snapshots_dropped", "Snapshots overtaken before they were planned for", registry=here
        )
        self.invalid = Counter(
            "kvhorizon_invalid_messages", "Messages refused as malformed or out of range", registry=here
        )
        self.failures = Counter(
            "kvhorizon_planner_failures", "Plans not made because the planner failed", registry=here
        )

    def planned(self, plan: Plan, seconds: float) -> None:
        """Count one plan and the seconds it took to make."""
        self.plans.labels(source=plan.source.name.lower()).inc()
        self.plan_seconds.observe(seconds)
        if plan.gap == plan.gap:  # nan where nothing was proven
            self.gap.observe(plan.gap)

    def expose(self, host: str, port: int) -> Any:
        """Serve `/metrics` on `host:port` from a thread; the server returned knows its real `server_port`."""
        return start_http_server(port, addr=host, registry=self.registry)[0]
