"""From the plugin's own counts to Prometheus metrics, beside the step: by a thread each second, and at each scrape."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from prometheus_client import CollectorRegistry

from kvhorizon.adapter.guardrail.evidence import MARGINS
from kvhorizon.adapter.guardrail.guardrail import Guardrail
from kvhorizon.adapter.modes import Mode
from kvhorizon.adapter.telemetry.canary import MEASURES, CanaryReport
from kvhorizon.adapter.telemetry.catalogue import CATALOGUE, build
from kvhorizon.adapter.telemetry.observer import Ended, Observer
from kvhorizon.adapter.telemetry.pressure import promised_blocks

if TYPE_CHECKING:
    from kvhorizon.adapter.plugin import Plugin

GUARDRAIL_STATES = ("off", "watching", "stepped_back")
SESSION_STATES = ("off", "idle", "starting", "planning", "failing")


class Publisher:
    """Of one plugin. `publish` may be called from any thread; it returns the requests that ended since the last
    call."""

    def __init__(
        self, plugin: Plugin, observer: Observer, model_name: str, engine: int, canary: CanaryReport | None = None
    ) -> None:
        self.registry = CollectorRegistry()
        self._plugin, self._observer, self._canary = plugin, observer, canary
        self._labels = {"model_name": model_name, "engine": str(engine)}
        self._families = build(self.registry)
        self._children: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._last: dict[tuple[str, tuple[str, ...]], float] = {}  # of counters
        self._lock = threading.Lock()
        for metric in CATALOGUE:
            for values in metric.first:
                self._child(metric.name, **dict(zip(metric.labels, values, strict=True)))

    def publish(self) -> list[Ended]:
        """Bring every metric up to date."""
        with self._lock:
            ended = self._observer.ended()
            self._requests(ended)
            self._costs()
            self._decisions()
            self._planning()
            self._forecasts()
            self._trouble()
            self._state()
            self._guard(self._plugin.switch.guardrail)
            if self._canary is not None:
                self._compare(self._canary)
            return ended

    def recorded(self, written: int, lost: int) -> None:
        """What the recorder did so far."""
        with self._lock:
            self._grow("kvhorizon_recorded_requests", written, outcome="written")
            self._grow("kvhorizon_recorded_requests", lost, outcome="lost")

    def _requests(self, ended: list[Ended]) -> None:
        for one in ended:
            tally = one.tally
            self._child("kvhorizon_requests_finished", reason=one.finish).inc()
            self._child("kvhorizon_request_preemptions").observe(tally.preemptions)
            self._child("kvhorizon_request_recompute_tokens").observe(tally.recompute_tokens)
            self._child("kvhorizon_request_wasted_flops").observe(tally.wasted_flops)
            self._child("kvhorizon_request_recompute_seconds").observe(tally.recompute_s)
            if self._plugin.intake.classes.given:
                self._class(one)

    def _class(self, one: Ended) -> None:
        """What became of a request of some class."""
        classes, ttft_s, tpot_s = self._plugin.intake.classes, one.ttft_s, one.tpot_s
        name = classes.known(one.slo_class)
        if ttft_s is not None:
            self._child("kvhorizon_class_ttft_seconds", slo_class=name).observe(ttft_s)
        if classes.of[name].promises and one.finish != "abort":
            times = (np.array([np.nan if one is None else one]) for one in (ttft_s, tpot_s))
            met = "yes" if classes.of[name].met(*times)[0] else "no"
            self._child("kvhorizon_class_finished", slo_class=name, met=met).inc()

    def _costs(self) -> None:
        accounting = self._plugin.accounting
        total = accounting.total
        self._grow("kvhorizon_recompute_tokens", total.recompute_tokens)
        self._grow("kvhorizon_restored_tokens", total.restored_tokens)
        self._grow("kvhorizon_wasted_flops", total.wasted_flops)
        self._grow("kvhorizon_useful_flops", accounting.useful_flops)
        self._grow("kvhorizon_recompute_seconds", total.recompute_s, clock="model")
        self._grow("kvhorizon_recompute_seconds", self._observer.recompute_measured_s, clock="measured")

    def _decisions(self) -> None:
        plugin = self._plugin
        self._grow_all("kvhorizon_preemptions", "by", self._observer.preemptions)
        self._grow_all("kvhorizon_admissions", "by", self._observer.admissions)
        self._grow_all("kvhorizon_steps", "source", plugin.ladder)
        for (what, by), count in list(plugin.control.log.counts.items()):
            self._grow("kvhorizon_decisions", count, what=what, by=by)
        self._grow_all("kvhorizon_hints", "use", plugin.hints)
        self._grow_all("kvhorizon_class_requests", "slo_class", plugin.intake.named)
        self._grow_all("kvhorizon_advice", "outcome", plugin.advice)

    def _planning(self) -> None:
        plugin = self._plugin
        session, plan = plugin.session, plugin.plans.plan
        self._grow_all("kvhorizon_plans", "kind", plugin.plans.counts)
        self._grow("kvhorizon_session_failures", plugin.learner.errors, kind="learn")
        state = "off"
        if session is not None:
            self._grow("kvhorizon_snapshots_replaced", session.replaced)
            self._grow("kvhorizon_session_failures", session.failed_starts, kind="start")
            self._grow("kvhorizon_session_failures", session.errors, kind="plan")
            if session.solver is not None:
                self._grow_all("kvhorizon_solver_calls", "outcome", session.solver.counts)
                state = _state(session.answered) if plugin.planning else "idle"
        self._one_of("kvhorizon_session", "state", SESSION_STATES, state)
        self._set("kvhorizon_plan_in_force", float(plan is not None))
        priced = plan is not None and len(plan.block_prices) > 0
        self._set("kvhorizon_block_price_seconds", float(plan.block_prices[0]) if plan and priced else 0.0)

    def _trouble(self) -> None:
        plugin = self._plugin
        for guard in (plugin.guard, plugin.account_guard, self._observer.guard):
            for hook, count in list(guard.failures.items()):
                self._grow("kvhorizon_exceptions", count, part=guard.name, hook=hook)
            self._set("kvhorizon_retired", float(guard.retired), part=guard.name)

    def _state(self) -> None:
        plugin = self._plugin
        engine = plugin.engine
        self._one_of("kvhorizon_mode", "mode", tuple(Mode), plugin.switch.mode(plugin.now()))
        self._set("kvhorizon_pool_blocks", engine.total_blocks)
        self._set("kvhorizon_free_blocks", engine.free_blocks)
        self._set("kvhorizon_step_seconds", plugin.step_s)
        self._set("kvhorizon_tokens_per_step", plugin.forecaster.tables.tokens_per_step)
        self._set("kvhorizon_kept_share", plugin.losing.kept)
        for tenant, factor in plugin.intake.weights.factors.items() if plugin.intake.weights is not None else ():
            self._set("kvhorizon_tenant_factor", factor, tenant=tenant)
        for steps, blocks in promised_blocks(engine, plugin.rows).items():
            self._set("kvhorizon_promised_blocks", blocks, steps=str(steps))

    def _guard(self, guardrail: Guardrail | None) -> None:
        """Control against vLLM alone, by the guardrail."""
        state = "off" if guardrail is None else "stepped_back" if guardrail.stepped_back else "watching"
        self._one_of("kvhorizon_guardrail_state", "state", GUARDRAIL_STATES, state)
        if guardrail is not None:
            self._grow("kvhorizon_guardrail_switch_offs", guardrail.switch_offs)
            self._grow_all("kvhorizon_guardrail_pairs", "outcome", guardrail.pairs)
            self._set("kvhorizon_guardrail_native_share", guardrail.native_share)
            for margin in MARGINS:
                against = guardrail.evidence.of(margin.measure)
                self._set("kvhorizon_guardrail_evidence", against, measure=margin.measure)

    def _forecasts(self) -> None:
        health = self._plugin.forecaster.health
        self._grow("kvhorizon_forecasts_scored", health.finished)
        for share, coverage in (("0.5", health.coverage50), ("0.8", health.coverage80), ("0.95", health.coverage95)):
            self._set("kvhorizon_forecast_coverage", coverage, share=share)
        self._set("kvhorizon_forecast_pinball_tokens", health.pinball)
        self._set("kvhorizon_forecast_drift", float(health.drift_active))
        self._set("kvhorizon_hint_sources", health.hint_sources)
        self._grow("kvhorizon_overflow_batches", health.batches)
        self._set("kvhorizon_overflow_promised", health.overflow_promised)
        self._set("kvhorizon_overflow_seen", health.overflow_seen)

    def _compare(self, canary: CanaryReport) -> None:
        """Control against vLLM alone; nothing is said of what is not known."""
        canary.take()
        for arm, count in canary.windows.items():
            self._grow("kvhorizon_canary_windows", count, arm=arm)
        for measure in MEASURES:
            if min(canary.windows.values()) > 0:
                for bound, value in canary.difference(measure)._asdict().items():
                    self._set("kvhorizon_canary_difference", value, measure=measure, bound=bound)
                for arm in canary.windows:
                    self._set("kvhorizon_canary_mean", canary.mean(measure, arm), measure=measure, arm=arm)

    def _child(self, name: str, **labels: str) -> Any:
        key = (name, tuple(labels.values()))
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self._families[name].labels(**self._labels, **labels)
        return child

    def _grow(self, name: str, total: float, **labels: str) -> None:
        """Bring a counter to `total`."""
        key = (name, tuple(labels.values()))
        self._child(name, **labels).inc(max(total - self._last.get(key, 0.0), 0.0))
        self._last[key] = total

    def _grow_all(self, name: str, label: str, totals: Mapping[str, int]) -> None:
        for value, total in list(totals.items()):
            self._grow(name, total, **{label: value})

    def _set(self, name: str, value: float, **labels: str) -> None:
        self._child(name, **labels).set(value)

    def _one_of(self, name: str, label: str, values: tuple[str, ...], now: str) -> None:
        for value in values:
            self._set(name, float(value == now), **{label: value})


def _state(answered: bool | None) -> str:
    """Of a session that was begun, by whether its last call brought a plan."""
    return "starting" if answered is None else "planning" if answered else "failing"
