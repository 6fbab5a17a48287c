"""Dashboards and alerts ask for metrics, and labels, that the code exposes."""

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from kvhorizon.adapter.telemetry.catalogue import CATALOGUE, ENGINE_LABELS
from kvhorizon.service.metrics import ServiceMetrics

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana/kvhorizon.json").read_text())
RULES = (DEPLOY / "prometheus/kvhorizon.rules.yml").read_text()
ALERTS = re.findall(r"^        expr: (.+)$", RULES, re.MULTILINE)
PANELS = {f"{panel['title']} {one['refId']}": one["expr"] for panel in DASHBOARD["panels"] for one in panel["targets"]}
VLLM = {"vllm:time_to_first_token_seconds_bucket", "vllm:num_requests_waiting", "vllm:num_requests_running"}
ADDED = {"instance", "job", "le"}  # by Prometheus itself
NAME = re.compile(r"((?:kvhorizon_|vllm:)\w+)(?:\{([^}]*)\})?")


def exposed() -> dict[str, set[str]]:
    """Sample names and their labels, of the guest and of the service."""
    found: dict[str, set[str]] = {}
    for metric in CATALOGUE:
        labels = {*ENGINE_LABELS, *metric.labels}
        suffixes = {"counter": ("_total",), "gauge": ("",), "histogram": ("_sum", "_count", "_bucket")}[metric.kind]
        found |= {metric.name + suffix: labels for suffix in suffixes}
    registry: CollectorRegistry = ServiceMetrics().registry
    for family in registry.collect():
        names = {"counter": ["_total"], "histogram": ["_sum", "_count", "_bucket"]}.get(family.type, [""])
        found |= {family.name + suffix: found.get(family.name + suffix, set()) | {"source"} for suffix in names}
    return found


@pytest.mark.parametrize("expression", [*PANELS.values(), *ALERTS], ids=[*PANELS, *map(str, range(len(ALERTS)))])
def test_every_query_asks_for_what_is_exposed(expression: str) -> None:
    known = exposed()
    asked = NAME.findall(expression)
    assert asked
    labels: set[str] = set()
    for name, selector in asked:
        assert name in known or name in VLLM, name
        labels |= known.get(name, {"model_name", "engine"})
        for label in re.findall(r"(\w+)\s*=", selector):
            assert label in known.get(name, {"model_name", "engine"}), f"{name} has no label {label}"
    for group in re.findall(r"(?:by|on) \(([^)]*)\)", expression):
        for label in (one.strip() for one in group.split(",")):
            assert label in labels | ADDED, label
    assert expression.count("(") == expression.count(")")


def test_values_of_labels_are_those_of_the_code() -> None:
    """A selector for a value that nobody sets would never fire."""
    from kvhorizon.adapter.telemetry.publisher import SESSION_STATES

    for state in re.findall(r'kvhorizon_session\{state="(\w+)"\}', RULES):
        assert state in SESSION_STATES
    meant = {metric.name: metric.text for metric in CATALOGUE}
    for name, label, value in re.findall(r'(kvhorizon_\w+)_total\{(\w+)="(\w+)"\}', RULES):
        assert value in meant[name], (name, label, value)


def test_panels_do_not_overlap_and_are_described() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["description"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"]) >= 15


def test_every_alert_is_complete() -> None:
    assert len(ALERTS) == RULES.count("- alert:") == RULES.count("severity:") == RULES.count("summary:") >= 6
