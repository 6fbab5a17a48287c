"""Classes of service on vLLM's real scheduler: whoever is interactive overtakes the batch that came before."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.engine._plugin_driver import Drive, check_whole, drive, workload
from experiments.engine._plugin_engine import Setup
from kvhorizon.adapter.plugin import Plugin

CLASSES = {"interactive": {"weight": 8.0, "ttft_s": 1.0}, "batch": {"weight": 0.25}}
BATCH = 90
LATE = 12  # arrives when the queue is long


def first_tokens(ours: Drive) -> dict[str, int]:
    """The step of each request's first token."""
    first: dict[str, int] = {}
    for step, name, tokens in ours.trace:
        if tokens:
            first.setdefault(name, step)
    return first


def serve(
    knob: str, asynchronous: bool, classes: dict[str, object], many: dict[str, str], late: dict[str, str]
) -> Drive:
    """Alike requests but for what they say, r0 … of the `many`, then l0 … of the `late`."""
    settings = {"local_only": True, "knob": knob, "classes": classes}
    ours = drive(Setup(blocks=120, asynchronous=asynchronous, settings=settings))
    size = {"prompt": (80, 80), "output": (40, 40)}
    first, last = workload(BATCH, seed=1, **size, extra=many), workload(LATE, seed=2, **size, extra=late)
    for number, request in enumerate(last):
        request.request_id = f"l{number}"
    for request in first + last:
        ours.scheduler.add_request(request)
    ours.run([])
    check_whole(ours.scheduler, first + last, 120)
    return ours


def run(knob: str, asynchronous: bool, classes: dict[str, object]) -> tuple[Drive, Plugin, dict[str, int]]:
    """Batch requests, the interactive ones last; each one's first token, as a step."""
    ours = serve(knob, asynchronous, classes, {"slo_class": "batch"}, {"slo_class": "interactive"})
    return ours, ours.scheduler.kvhorizon, first_tokens(ours)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("knob", ["means", "balanced"])
def test_the_interactive_overtake_the_batch(knob: str, asynchronous: bool) -> None:
    """Without classes they are served last, as they came; with them, among the first ones after those that run."""
    waits = {}
    for classes in ({}, CLASSES):
        _, plugin, first = run(knob, asynchronous, classes)
        assert plugin.guard.total == plugin.account_guard.total == 0
        assert plugin.ladder["local"] > 0
        mine = [first[f"l{number}"] for number in range(LATE)]
        others = [first[f"r{number}"] for number in range(BATCH)]
        waits[bool(classes)] = sum(mine) / LATE, sum(others) / BATCH
    assert waits[False][0] > waits[False][1]
    assert waits[True][0] < 0.6 * waits[False][0]
    assert waits[True][0] < waits[True][1]


def test_what_became_of_each_class_is_counted() -> None:
    ours, plugin, _ = run("means", False, CLASSES)
    ours.scheduler.shutdown()
    registry = plugin.telemetry.publisher.registry
    labels = {"model_name": plugin.telemetry.publisher._labels["model_name"], "engine": "0"}

    def value(name: str, **more: str) -> float:
        return registry.get_sample_value(name, {**labels, **more}) or 0.0

    assert value("kvhorizon_class_requests_total", slo_class="interactive") == LATE
    assert value("kvhorizon_class_requests_total", slo_class="batch") == BATCH
    assert value("kvhorizon_class_ttft_seconds_count", slo_class="interactive") == LATE
    ends = [value("kvhorizon_class_finished_total", slo_class="interactive", met=met) for met in ("yes", "no")]
    assert sum(ends) == LATE


def test_a_tenant_that_floods_the_engine_lets_the_other_in() -> None:
    """Alike requests; those of the second tenant come last, and find the first one with all the memory."""
    waits = []
    for tenants in ({}, {"flood": {"share": 0.05}}):
        ours = serve("means", False, {"tenants": tenants}, {"tenant": "flood"}, {"tenant": "other"})
        assert ours.scheduler.kvhorizon.guard.total == 0
        first = first_tokens(ours)
        waits.append(sum(first[f"l{number}"] for number in range(LATE)) / LATE)
    assert waits[1] < 0.7 * waits[0]
    telemetry = ours.scheduler.kvhorizon.telemetry
    telemetry.publisher.publish()
    labels = {**telemetry.publisher._labels, "tenant": "flood"}
    assert 0.0 < telemetry.publisher.registry.get_sample_value("kvhorizon_tenant_factor", labels) <= 1.0
