"""Dashboards and alerts ask for metrics, and labels, that the code exposes."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from deployed import ALERTS, DASHBOARD, DEPLOY, PANELS, RULES
from prometheus_client import CollectorRegistry

from kvhorizon.adapter.telemetry.catalogue import CATALOGUE, ENGINE_LABELS
from kvhorizon.service.metrics import ServiceMetrics

VLLM = {"vllm:time_to_first_token_seconds_bucket", "vllm:num_requests_waiting", "vllm:num_requests_running"}
ADDED = {"instance", "job", "le"}  # by Prometheus itself
NAME = re.compile(r"((?:kvhorizon_|vllm:)\w+)(?:\{([^}]*)\})?")


def exposed() -> dict[str, set[str]]:
    """Sample names and their labels, of the plugin and of the service."""
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


@pytest.mark.parametrize("expression", [*PANELS.values(), *ALERTS.values()], ids=[*PANELS, *ALERTS])
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
    """A selector for a value that nothing sets would never fire."""
    first = {
        (metric.name, label): {values[at] for values in metric.first}
        for metric in CATALOGUE
        for at, label in enumerate(metric.labels)
    }
    asked = re.findall(r'(kvhorizon_\w+)_total\{(\w+)=~?"([\w|]+)"\}', RULES)
    assert len(asked) >= 4
    for name, label, values in asked:
        assert set(values.split("|")) <= first[name, label], (name, label, values)


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


def promtool(*arguments: str, folder: Path = DEPLOY / "prometheus") -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        pytest.skip("Prometheus is not installed: alerts are NOT TESTED with promtool")
    return subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True, check=False)


def test_alerts_fire_when_they_should_and_are_silent_when_not() -> None:
    for command in (("check", "rules", "kvhorizon.rules.yml"), ("test", "rules", "kvhorizon.rules.test.yml")):
        done = promtool(*command)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_that_never_fires_would_be_noticed(alert: str, tmp_path: Path) -> None:
    shutil.copytree(DEPLOY / "prometheus", tmp_path, dirs_exist_ok=True)
    (tmp_path / "kvhorizon.rules.yml").write_text(RULES.replace(ALERTS[alert], "vector(0) > 1"))
    done = promtool("test", "rules", "kvhorizon.rules.test.yml", folder=tmp_path)
    assert done.returncode != 0
    assert alert in done.stdout + done.stderr
