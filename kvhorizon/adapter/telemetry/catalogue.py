"""Every metric of the plugin: name, kind, labels, meaning. The reference in `docs/reference/metrics.md` is made from
this."""

from __future__ import annotations

from itertools import product
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

ENGINE_LABELS = ("model_name", "engine")  # as vLLM names them; `engine` is the data-parallel rank


class Metric(NamedTuple):
    """One family; a counter's samples end in `_total`.

    `first` holds values of its labels that are shown as 0 from the start: a rate misses the step from nothing to one.
    """

    name: str
    kind: str  # counter, gauge, histogram
    labels: tuple[str, ...]
    text: str
    buckets: tuple[float, ...] = ()
    first: tuple[tuple[str, ...], ...] = ()


HOOKS = {  # of each part of the plugin, those that fail open
    "scheduling": ("before_schedule", "after_schedule", "added", "preempted", "released"),
    "accounting": ("preempting", "scheduled", "release"),
    "telemetry": ("scheduled", "preempting", "released", "collect"),
}
_DECIDERS = ("program", "greedy", "local", "vllm")
_OUTCOMES = (
    *("planned", "refused", "failed", "absent"),  # of any solver
    *("crashed", "hung", "garbage", "restarts", "failed_starts"),  # of a child
)

_COUNTS = (0, 1, 2, 3, 5, 10, 20, 50)
_TOKENS = (0, 128, 512, 2048, 8192, 32768, 131072, 524288)
_FLOPS = (0, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17)
_WAITS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)
_SECONDS = (0, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


def _counter(name: str, text: str, **labels: tuple[str, ...]) -> Metric:
    """`labels` with the values that are known at the start."""
    return Metric(name, "counter", tuple(labels), text, (), tuple(product(*labels.values())))


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "gauge", labels, text)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return Metric(name, "histogram", labels, text, buckets, () if labels else ((),))


CATALOGUE = (
    _counter(
        "kvhorizon_requests_finished", "Requests that ended: stop, length, abort, …", reason=("stop", "length", "abort")
    ),
    _counter(
        "kvhorizon_preemptions",
        "Evictions, by who chose the victim: program, greedy (plans), local (rules beside the engine), vllm",
        by=_DECIDERS,
    ),
    _counter("kvhorizon_recompute_tokens", "Tokens prefilled again, net of prefix-cache hits and reloads"),
    _counter("kvhorizon_restored_tokens", "Tokens evicted, then found in the prefix cache or reloaded"),
    _counter("kvhorizon_wasted_flops", "FLOPs of tokens prefilled again"),
    _counter("kvhorizon_useful_flops", "FLOPs of finished requests, each token once"),
    _counter(
        "kvhorizon_recompute_seconds",
        "Seconds of recompute: `model`, the marginal time by the step model; `measured`, the time of steps "
        "by the share of their tokens that were computed again",
        clock=("model", "measured"),
    ),
    _histogram(
        "kvhorizon_request_preemptions",
        "Evictions of each request that ended (its mean is the preemption frequency)",
        _COUNTS,
    ),
    _histogram("kvhorizon_request_recompute_tokens", "Tokens prefilled again of each request ended", _TOKENS),
    _histogram("kvhorizon_request_wasted_flops", "FLOPs of recompute of each request ended", _FLOPS),
    _histogram(
        "kvhorizon_request_recompute_seconds",
        "Seconds of recompute of each request ended, by the step model",
        _SECONDS,
    ),
    _counter(
        "kvhorizon_steps",
        "Steps, by the source of the decision: plan, local, native (vLLM alone)",
        source=("plan", "local", "native"),
    ),
    _counter(
        "kvhorizon_admissions",
        "Requests scheduled for the first time, by who decided the step: program, greedy, local, vllm",
        by=_DECIDERS,
    ),
    _counter(
        "kvhorizon_decisions",
        "Decisions noted: held (no request is admitted), victim (put where vLLM takes its victims), evicted",
        what=("held", "victim", "evicted"),
        by=_DECIDERS,
    ),
    _counter(
        "kvhorizon_plans",
        "Plans taken up, by who made them (program, greedy), and those dropped (stale, foreign)",
        kind=("program", "greedy", "stale", "foreign"),
    ),
    _counter(
        "kvhorizon_solver_calls",
        "What became of calls to the solver: planned, refused, failed, crashed, …",
        outcome=_OUTCOMES,
    ),
    _counter("kvhorizon_snapshots_replaced", "Snapshots that a newer one overtook before they were sent"),
    _counter(
        "kvhorizon_session_failures",
        "Of the threads beside the step: start (no solver), plan, learn",
        kind=("start", "plan", "learn"),
    ),
    Metric(
        "kvhorizon_exceptions",
        "counter",
        ("part", "hook"),
        "Errors of the plugin, caught; vLLM went on alone",
        first=tuple((part, hook) for part, hooks in HOOKS.items() for hook in hooks),
    ),
    _counter(
        "kvhorizon_class_requests",
        "Requests that came, by class of service; `(unknown)`: asked for one that is not there, and weigh as `default`",
        slo_class=(),
    ),
    _histogram(
        "kvhorizon_class_ttft_seconds",
        "Time to first token of requests that ended, by class of service",
        _WAITS,
        "slo_class",
    ),
    _counter(
        "kvhorizon_class_finished",
        "Requests of classes with targets that ended, aborts aside, by whether every target was met",
        slo_class=(),
        met=(),
    ),
    _gauge(
        "kvhorizon_tenant_factor",
        "What the weights of a tenant's requests are multiplied by: 1 within its share of the KV in use, less beyond",
        "tenant",
    ),
    _counter("kvhorizon_hints", "Clients' hints of output length: used, ignored", use=("used", "ignored")),
    _counter(
        "kvhorizon_advice",
        "Advise mode: admissions on which vLLM agreed, and where each would have admitted another",
        outcome=("agreed", "held_instead", "admitted_instead"),
    ),
    _counter("kvhorizon_forecasts_scored", "Requests whose length was compared with the forecast made on arrival"),
    _gauge(
        "kvhorizon_forecast_coverage",
        "Share of the last thousand of them inside the central band that should hold `share`",
        "share",
    ),
    _gauge("kvhorizon_forecast_pinball_tokens", "Their mean pinball loss [tokens]"),
    _gauge("kvhorizon_forecast_drift", "1 while forecasts rest on little, since lengths have changed just now"),
    _gauge("kvhorizon_hint_sources", "Sources whose hints of output length are trusted"),
    _counter("kvhorizon_overflow_batches", "Batches of running requests watched to the end of their horizon"),
    _gauge("kvhorizon_overflow_promised", "Mean probability that such a batch outgrows what was kept for it"),
    _gauge("kvhorizon_overflow_seen", "Share of the last thousand batches that did"),
    _counter("kvhorizon_recorded_requests", "Requests written to the recording, or lost", outcome=("written", "lost")),
    _gauge("kvhorizon_mode", "1 for the mode in force, else 0", "mode"),
    _counter(
        "kvhorizon_canary_windows",
        "Canary: windows that count, `control` and `observe` (vLLM alone)",
        arm=(),
    ),
    _gauge(
        "kvhorizon_canary_mean",
        "Canary: mean over windows of preemptions_per_request, recompute_tokens_per_request, tokens_per_s "
        "(computed for the first time), ttft_s (of first tokens in the window)",
        "measure",
        "arm",
    ),
    _gauge(
        "kvhorizon_canary_difference",
        "Canary: control minus vLLM alone; `mean`, and `low` and `high` of its 95 % interval",
        "measure",
        "bound",
    ),
    _gauge(
        "kvhorizon_guardrail_state",
        "1 for the state of the guardrail, else 0: off (not wanted, or a canary runs), watching, stepped_back (vLLM "
        "decides alone, since control did worse)",
        "state",
    ),
    _counter("kvhorizon_guardrail_switch_offs", "Times that the guardrail stepped back from control"),
    _gauge("kvhorizon_guardrail_native_share", "Share of the time in which vLLM decides alone while something waits"),
    _counter(
        "kvhorizon_guardrail_pairs",
        "Pairs of windows, control and vLLM alone: counted, or not since nothing waited (idle), the load was "
        "unequal, or the engine idled or the mode was changed (spoilt)",
        outcome=("counted", "idle", "unequal", "spoilt"),
    ),
    _gauge(
        "kvhorizon_guardrail_evidence",
        "Evidence against control by measure (wait_s, token_s, tokens_per_s, preemptions_per_s); where their sum "
        "reaches 300 control is switched off",
        "measure",
    ),
    _gauge("kvhorizon_retired", "1 for a part of the plugin that retired after errors in a row", "part"),
    _gauge(
        "kvhorizon_session",
        "1 for the state of the planning session, else 0: off, idle, starting, planning, failing (the last call to the "
        "solver brought no plan)",
        "state",
    ),
    _gauge("kvhorizon_plan_in_force", "1 while a fresh plan is followed"),
    _gauge("kvhorizon_block_price_seconds", "Price of a KV block now [weighted seconds of delay]"),
    _gauge("kvhorizon_pool_blocks", "KV blocks of the pool"),
    _gauge("kvhorizon_free_blocks", "KV blocks free now"),
    _gauge(
        "kvhorizon_promised_blocks",
        "KV blocks that the running requests are expected to hold so many steps from now; over the pool's: pressure",
        "steps",
    ),
    _gauge("kvhorizon_step_seconds", "Recent mean time from one step to the next"),
    _gauge("kvhorizon_tokens_per_step", "Tokens that a decode gains per step, as learned"),
    _gauge("kvhorizon_kept_share", "Share of evicted tokens that come back from caches instead of being recomputed"),
)


def build(registry: CollectorRegistry) -> dict[str, Any]:
    """The families by name, registered."""
    kinds = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
    found: dict[str, Any] = {}
    for metric in CATALOGUE:
        options: dict[str, Any] = {"registry": registry}
        if metric.kind == "histogram":
            options["buckets"] = metric.buckets
        if metric.kind == "gauge":
            options["multiprocess_mode"] = "mostrecent"
        found[metric.name] = kinds[metric.kind](metric.name, metric.text, (*ENGINE_LABELS, *metric.labels), **options)
    return found


def reference() -> str:
    """The catalogue as a Markdown table."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for metric in CATALOGUE:
        name = metric.name + ("_total" if metric.kind == "counter" else "")
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{name}` | {metric.kind} | {labels} | {metric.text} |")
    return "\n".join(lines)
