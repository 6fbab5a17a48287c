"""The documentation against the code: metrics and settings."""

from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from kvhorizon.adapter.accounting_hooks import Counting
from kvhorizon.adapter.plugin import Plugin
from kvhorizon.adapter.settings import PREFIX, PluginSettings
from kvhorizon.adapter.telemetry.catalogue import CATALOGUE, ENGINE_LABELS, HOOKS, build, reference
from kvhorizon.adapter.telemetry.observer import Observer
from kvhorizon.adapter.telemetry.publisher import Publisher
from kvhorizon.recording.schema import Row

DOCS = Path(__file__).resolve().parents[2] / "docs"
SAID_ELSEWHERE = {"canary_window_s", "tls_key", "tls_ca"}  # beside others, or of no use to users


def test_the_table_of_metrics_is_made_from_the_code() -> None:
    """To renew it, put `reference()` between the two marks."""
    text = (DOCS / "reference/metrics.md").read_text()
    table = text.split("catalogue -->\n")[1].split("\n<!-- end of metrics")[0]
    assert table == reference()


def test_all_that_is_in_the_table_is_exported() -> None:
    registry = CollectorRegistry()
    families = build(registry)
    for metric in CATALOGUE:
        families[metric.name].labels(*("x" for _ in (*ENGINE_LABELS, *metric.labels)))
    text = generate_latest(registry).decode()
    for line in reference().splitlines()[2:]:
        name, kind = (cell.strip().strip("`") for cell in line.split("|")[1:3])
        assert f"# TYPE {name} {kind}\n" in text
    assert len(families) == len(CATALOGUE) == len({metric.name for metric in CATALOGUE})


def test_what_will_be_counted_is_shown_before_it_happens() -> None:
    """Else a rate would miss the step from nothing to one, and panels were empty."""
    no_request: Any = None
    registry = Publisher(no_request, no_request, "m", 0).registry
    for metric in CATALOGUE:
        if metric.kind != "gauge" and not set(metric.labels) & {"slo_class", "arm"}:
            assert metric.first, f"{metric.name} begins with nothing"
        suffix = {"counter": "_total", "histogram": "_count", "gauge": ""}[metric.kind]
        for values in metric.first:
            labels = dict(zip((*ENGINE_LABELS, *metric.labels), ("m", "0", *values), strict=True))
            assert registry.get_sample_value(metric.name + suffix, labels) == 0.0


def test_every_hook_that_fails_open_counts_its_errors_from_the_start() -> None:
    parts = {"scheduling": Plugin, "accounting": Counting, "telemetry": Observer}
    found = {
        part: {name for name, hook in vars(owner).items() if hasattr(hook, "__wrapped__")}
        for part, owner in parts.items()
    }
    found["telemetry"].add("collect")
    assert found == {part: set(hooks) for part, hooks in HOOKS.items()}


def test_settings_are_documented() -> None:
    text = (DOCS / "reference/settings.md").read_text()
    for name in set(PluginSettings.model_fields) - SAID_ELSEWHERE:
        assert f"`{PREFIX}{name.upper()}`" in text, name


def test_columns_of_a_recording_are_documented() -> None:
    text = (DOCS / "reference/recording.md").read_text()
    for name in Row._fields:
        assert f"`{name}`" in text, name
