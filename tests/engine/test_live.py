"""vLLM's own OpenAI server with the plugin and its solver child, as a user starts it; one server for all tests here.

The last test kills the engine.
"""

import os
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from deployed import ALERTS, RULES_FILE, TARGETS
from prometheus_server import Prometheus, installed, shows

from experiments.live.serving._live_http import GONE_WITHIN_S, Watched, disconnects, kill_engine, with_plugin
from experiments.live.serving._live_load import asks, lost, send
from experiments.live.serving._live_server import NAME
from experiments.live.serving._live_tokens import mismatches
from kvhorizon.service.metrics import ServiceMetrics

REQUESTS = 140
SCRAPED_WITHIN_S = 20.0


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, plugin: str) -> Iterator[tuple[Watched, Path, Path]]:
    folder = tmp_path_factory.mktemp("live")
    server, switch = with_plugin(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", plugin, prepend=os.pathsep)
        with server:
            watched = Watched(server)
            watched.wait_for_child()
            yield watched, switch, folder


@pytest.fixture(scope="module", autouse=True)
def scraped(live: tuple[Watched, Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus | None]:
    """A Prometheus that watches all tests here: the engine's own `/metrics`, and a solver service's."""
    if not installed():
        yield None
        return
    with ExitStack() as stack:
        service = ServiceMetrics().expose("127.0.0.1", 0)
        stack.callback(service.server_close)
        stack.callback(service.shutdown)
        targets = [f"127.0.0.1:{port}" for port in (live[0].server.port, service.server_port)]
        yield stack.enter_context(Prometheus(tmp_path_factory.mktemp("prometheus"), targets, RULES_FILE))


def test_the_same_answers_with_fewer_evictions(live: tuple[Watched, Path, Path]) -> None:
    """The same load on vLLM alone (the kill switch) and under control, on a pool that it overwhelms."""
    watched, switch, _ = live
    found = {}
    for mode in ("off", "control"):
        switch.touch() if mode == "off" else switch.unlink()
        before = watched.report
        load, told = watched.serve_all(REQUESTS, seed=1)
        assert lost(load, told) == 0
        counts = [watched.report[name] - before[name] for name in ("preemptions", "recompute_tokens")]
        found[mode] = (told, *counts)
    plain, ours = found["off"], found["control"]
    assert plain[1] > 20
    assert ours[1] < 0.7 * plain[1]
    assert watched.report["errors"] == 0
    tokens = mismatches(watched.server.url, load, plain[0], ours[0])
    watched.skip(int(tokens["differ"]))
    assert tokens["beyond_near_ties"] == 0, tokens


def test_a_wrong_token_would_be_noticed(live: tuple[Watched, Path, Path]) -> None:
    watched, _, _ = live
    load, told = watched.serve_all(2, seed=2)
    _, other = watched.serve_all(2, seed=2)
    assert told[1].tokens is not None
    at = len(told[1].tokens) // 2
    assert other[1].tokens is not None
    other[1].tokens[at] = 3 if told[1].tokens[at] != 3 else 4
    found = mismatches(watched.server.url, load, told, other)
    watched.skip(1)
    assert (found["differ"], found["beyond_near_ties"]) == (1, 1)


def test_lengths_that_no_forecast_reads_are_kept(live: tuple[Watched, Path, Path]) -> None:
    """Each ends at its own length by an end-of-sequence token, and a request that lacks some counts as lost."""
    watched, _, _ = live
    load, told = watched.serve_all(5, seed=3)
    assert [len(one.tokens or []) for one in told] == [ask.output_tokens for ask in load]
    assert {one.reason for one in told} == {"stop"}
    told[0].tokens = (told[0].tokens or [])[:-1]
    told[1].tokens = None
    assert lost(load, told) == 2


def test_clients_that_go_harm_no_request_else(live: tuple[Watched, Path, Path]) -> None:
    watched, switch, _ = live
    found = disconnects(watched, switch)
    assert found["lost"] == 0
    assert watched.report["errors"] == 0


def test_hostile_hints_do_no_harm(live: tuple[Watched, Path, Path]) -> None:
    watched, _, _ = live
    load = [ask._replace(arrival_s=0.0, predicted=10**15) for ask in asks(5, 4, 1.0)]
    assert lost(load, send(watched.server.url, load)) == 0
    watched.skip(len(load))


def test_every_panel_shows_something_and_every_alert_is_evaluated(
    live: tuple[Watched, Path, Path], scraped: Prometheus | None
) -> None:
    """On what was scraped under the loads of all tests before, and of one more."""
    if scraped is None:
        pytest.skip("Prometheus is not installed: dashboards and alerts are NOT TESTED on a live engine")
    live[0].serve_all(20, seed=6)
    variables = {"model": NAME}
    deadline_s = time.monotonic() + SCRAPED_WITHIN_S
    left = dict(TARGETS)
    while left and time.monotonic() < deadline_s:
        left = {name: one for name, one in left.items() if not shows(scraped.drawn(one["expr"], variables))}
    assert not left, f"nothing to see in {list(left)}"
    for name, one in TARGETS.items():
        named = set(re.findall(r"\{\{(\w+)\}\}", one["legendFormat"]))
        for series in scraped.drawn(one["expr"], variables):
            assert named <= set(series["metric"]), name
    assert NAME in scraped.ask("label/model_name/values", **{"match[]": "kvhorizon_pool_blocks"})
    rules = [rule for group in scraped.ask("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys(ALERTS, "ok")
    assert not [rule["name"] for rule in rules if rule["state"] == "firing"]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_asks_about_what_is_there(alert: str, scraped: Prometheus | None) -> None:
    """Each side of it, without its threshold, has a value although nothing is wrong."""
    if scraped is None:
        pytest.skip("Prometheus is not installed: alerts are NOT TESTED on a live engine")
    for side in re.split(r" and | unless ", ALERTS[alert]):
        asked = re.sub(r" (?:[<>]=?|==) [\d.]+$", "", side)
        assert asked != side
        assert scraped.ask("query", query=asked)["result"], asked


def test_a_killed_engine_leaves_nothing_behind(live: tuple[Watched, Path, Path]) -> None:
    watched, _, folder = live
    found = kill_engine(watched, folder)
    assert found["gone_s"] < GONE_WITHIN_S
    assert found["left_behind"] == 0
