"""What is shown of the plugin is what it did: on vLLM's real scheduler, against counts made apart from it."""

import errno
import gc
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from test_plugin_session import run_until

from experiments.engine._plugin_driver import Drive, check_whole, drive, workload
from experiments.engine._plugin_engine import Setup
from kvhorizon.adapter.telemetry import recorder
from kvhorizon.adapter.telemetry.canary import LINE_EVERY
from kvhorizon.adapter.telemetry.observer import Observer
from kvhorizon.cli.commands.explain import find, planned, sentence
from kvhorizon.errors import InputError
from kvhorizon.recording.read import read_recording
from kvhorizon.whatif.question import Question, prepare, what_if
from kvhorizon.wire.local import ask, local_addresses

STEP_S = 0.02
BOUNDS = ("low", "mean", "high")
Samples = dict[tuple[str, tuple[str, ...]], float]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def engine(asynchronous: bool = False, caching: bool = False, **settings: Any) -> Drive:
    made = drive(Setup(asynchronous=asynchronous, caching=caching, settings={"local_only": True, **settings}))
    observer = made.scheduler.kvhorizon.telemetry.observer
    observer._clock = observer._wall = lambda: made.now_s
    return made


def run(made: Drive, requests: list[Any]) -> None:
    """One arrives every second step, and is stamped on the engine's own clock."""
    arriving = list(reversed(requests))
    while arriving or made.busy:
        if arriving and len(made.steps) >= 2 * (len(requests) - len(arriving)):
            request = arriving.pop()
            request.arrival_time = made.now_s
            made.scheduler.add_request(request)
        made.step()


def samples(text: bytes | None) -> Samples:
    """Values by name and by the labels that are ours, in the order in which they are shown."""
    assert text is not None
    found: Samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            own = tuple(v for k, v in sorted(sample.labels.items()) if k not in ("engine", "model_name"))
            found[sample.name, own] = sample.value
    return found


def total(found: Samples, name: str) -> float:
    return sum(value for (one, _), value in found.items() if one == name)


@pytest.mark.parametrize(("mode", "asynchronous"), [("observe", False), ("control", True)])
def test_metrics_are_what_was_counted(mode: str, asynchronous: bool) -> None:
    port = free_port()
    made = engine(asynchronous, mode=mode, http_port=port)
    requests = workload(60, seed=1)
    run(made, requests)
    plugin = made.scheduler.kvhorizon
    plugin.learner.stop()  # its thread has taken in all that finished
    found = samples(ask(f"http://127.0.0.1:{port}", "/metrics"))
    cost = plugin.accounting.total
    evictions = sum(request.num_preemptions for request in requests)
    assert evictions > 0
    assert found["kvhorizon_requests_finished_total", ("length",)] == len(requests)
    assert total(found, "kvhorizon_preemptions_total") == evictions == cost.preemptions
    assert found["kvhorizon_recompute_tokens_total", ()] == cost.recompute_tokens > 0
    assert found["kvhorizon_wasted_flops_total", ()] == pytest.approx(cost.wasted_flops)
    assert found["kvhorizon_request_preemptions_count", ()] == len(requests)
    assert found["kvhorizon_request_preemptions_sum", ()] == evictions
    assert found["kvhorizon_request_recompute_tokens_sum", ()] == cost.recompute_tokens
    assert total(found, "kvhorizon_steps_total") == len(made.steps)
    assert total(found, "kvhorizon_admissions_total") == len(requests)
    assert found["kvhorizon_forecasts_scored_total", ()] == plugin.forecaster.health.finished == len(requests)
    assert found["kvhorizon_forecast_coverage", ("0.8",)] == plugin.forecaster.health.coverage80
    assert found["kvhorizon_mode", (mode,)] == 1.0
    assert found["kvhorizon_pool_blocks", ()] == 159
    by = {labels[0] for (name, labels), n in found.items() if name == "kvhorizon_preemptions_total" and n > 0}
    assert by == {"vllm"} if mode == "observe" else "local" in by
    assert 0.0 < found["kvhorizon_recompute_seconds_total", ("measured",)] < len(made.steps) * STEP_S
    assert total(found, "kvhorizon_exceptions_total") == 0.0
    assert plugin.telemetry.observer.live == 0
    plugin.stop()


def test_the_canary_reports_the_difference(caplog: pytest.LogCaptureFixture) -> None:
    """Arrivals faster than the engine serves them: vLLM preempts in its windows, the plugin hardly in its own."""
    port = free_port()
    made = engine(canary=0.5, canary_window_s=4.0, http_port=port)
    with caplog.at_level("INFO", "kvhorizon"):
        run(made, workload(700, seed=3))
        found = samples(ask(f"http://127.0.0.1:{port}", "/metrics"))
    arms = [found["kvhorizon_canary_windows_total", (arm,)] for arm in ("control", "observe")]
    assert min(arms) >= 3
    assert sum(arms) <= made.now_s / 4.0
    bounds = {bound: found["kvhorizon_canary_difference", (bound, "preemptions_per_request")] for bound in BOUNDS}
    assert bounds["low"] < bounds["mean"] < bounds["high"]
    assert bounds["mean"] < 0.0  # ten windows of each do not make it certain every time
    means = {arm: found["kvhorizon_canary_mean", (arm, "preemptions_per_request")] for arm in ("control", "observe")}
    assert means["control"] - means["observe"] == pytest.approx(bounds["mean"])
    assert found["kvhorizon_canary_mean", ("control", "ttft_s")] > 0.0
    assert f"{arms[0]:.0f} windows under control" in (ask(f"http://127.0.0.1:{port}", "/canary") or b"").decode()
    assert sum("kvhorizon canary: " in line for line in caplog.messages) == sum(arms) // LINE_EVERY
    made.scheduler.kvhorizon.stop()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_recording_holds_every_request(asynchronous: bool, tmp_path: Path) -> None:
    """Times against those of the engine's own output, token by token, on the engine's clock."""
    made = engine(asynchronous, mode="observe", record=str(tmp_path), caching=True, record_prefixes=True)
    requests = workload(60, seed=1, caching=True, shared=64, extra={"tenant": "team-a", "session": "s-1"})
    run(made, requests)
    made.scheduler.kvhorizon.stop()
    found = {row.request_id: row for row in read_recording(tmp_path).rows()}
    assert len(found) == len(requests)
    first, last, tokens = {}, {}, Counter[str]()
    for step, name, new in made.trace:
        at_s = (step - asynchronous) * STEP_S  # asynchronous output comes after the next step was scheduled
        if new:
            first.setdefault(name, at_s)
            last[name] = at_s
            tokens[name] += new
    for request in requests:
        row, name = found[request.request_id], request.request_id
        assert row.output_tokens == tokens[name]
        assert row.prompt_tokens == request.num_prompt_tokens
        assert row.max_tokens == request.max_tokens
        assert row.preemptions == request.num_preemptions
        assert row.finish == "length"
        assert row.mode == "observe"
        assert row.ttft_s == pytest.approx(first[name] - request.arrival_time, abs=STEP_S * (1 + asynchronous))
        assert row.e2e_s == pytest.approx(last[name] - request.arrival_time, abs=STEP_S * (1 + asynchronous))
        assert len(row.prefix_hashes) == request.num_prompt_tokens // 16
        assert row.tenant
        assert "team-a" not in row.tenant
        assert row.session
        assert "s-1" not in row.session
        assert row.sampling == 0
    assert len({row.tenant for row in found.values()}) == 1
    assert len({row.prefix_hashes[3] for row in found.values() if len(row.prefix_hashes) > 3}) == 1
    accounting = made.scheduler.kvhorizon.accounting.total
    assert sum(row.recompute_tokens for row in found.values()) == accounting.recompute_tokens
    assert accounting.preemptions > 0


@pytest.mark.parametrize("caching", [False, True])
def test_a_recording_is_replayed_with_the_prefix_caching_that_vllm_had(tmp_path: Path, caching: bool) -> None:
    """What-if has it on or off as recorded, and finds the shared system prompts by vLLM's own hashes."""
    made = engine(caching=caching, mode="observe", record=str(tmp_path), record_prefixes=True)
    run(made, workload(30, seed=2, caching=caching, shared=64))
    made.scheduler.kvhorizon.stop()
    assert read_recording(tmp_path).facts["prefix_caching"] is caching
    results = what_if(prepare(Question(str(tmp_path), policies=("fcfs",))), {}).results
    assert results["engine"]["prefix_caching"] is caching
    assert results["warnings"] == []
    assert (results["policies"][0]["cached_share"] > 0.0) is caching


def test_a_full_disk_costs_nothing_but_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = drive(Setup(plugin=False)).run(workload(60, seed=1))
    made = engine(mode="observe", record=str(tmp_path))
    plugin = made.scheduler.kvhorizon
    telemetry = plugin.telemetry

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(telemetry.recorder._folder, "write", full)
        patch.setattr(recorder, "IDLE_FILE_S", 0.0)
        made.run(workload(60, seed=1))
        telemetry.once()
    assert made.trace == plain.trace
    assert telemetry.recorder.written == 0
    plugin.stop()
    assert (telemetry.recorder.written, telemetry.recorder.lost) == (60, 0)
    assert telemetry.observer.guard.total == 0
    assert len(read_recording(tmp_path)) == 60


def test_rows_that_no_request_takes_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "KEPT_ROWS", 10)
    made = engine(mode="observe", record=str(tmp_path))
    run(made, workload(40, seed=1))
    telemetry = made.scheduler.kvhorizon.telemetry
    telemetry.stop()
    assert telemetry.recorder.written + telemetry.recorder.lost == 40
    assert telemetry.recorder.lost > 0


@pytest.mark.parametrize("hook", ["scheduled", "preempting", "released"])
def test_broken_telemetry_changes_nothing(hook: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = drive(Setup(plugin=False)).run(workload(60, seed=1))
    made = drive(Setup(settings={"local_only": True, "mode": "observe"}))
    plugin = made.scheduler.kvhorizon
    observer: Observer = plugin.telemetry.observer
    inside = {
        "scheduled": (observer, "_see_first_tokens"),
        "preempting": (plugin.control.log, "note"),
        "released": (observer, "over"),
    }
    monkeypatch.setattr(*inside[hook], None)
    requests = workload(60, seed=1)
    made.run(requests)
    assert made.trace == plain.trace
    assert observer.guard.failures[hook] > 0
    check_whole(made.scheduler, requests, 160)


def test_requests_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """One that waits, one that runs, one that was evicted, one that nothing knows."""
    port = free_port()
    made = engine(mode="control", http_port=port)
    address = f"http://127.0.0.1:{port}"
    for request in workload(60, seed=1):
        made.scheduler.add_request(request)
    plugin = made.scheduler.kvhorizon
    while plugin.accounting.total.preemptions == 0 or not made.scheduler.waiting:
        made.step()
    waiting, running = made.scheduler.waiting[-1], made.scheduler.running[0]
    found = find(waiting.request_id, [address])
    assert found["state"] == "waiting"
    assert f"of {len(made.scheduler.waiting)} came before it" in found["now"]
    assert find(running.request_id, [address])["state"] == "running"
    evicted = next(one for one in plugin.control.log.newest() if one.what == "evicted")
    said = [sentence(one) for one in find(evicted.request_id, [address])["decisions"]]
    assert any(
        f"step {evicted.step}: evicted by the rule beside the engine" in one and evicted.why in one for one in said
    )
    with pytest.raises(InputError, match="request='no_request', must be live"):
        find("no_request", [address])
    plugin.stop()
    with pytest.raises(InputError, match="must answer"):
        find(waiting.request_id, [address])


def test_the_solvers_plan_is_explained() -> None:
    """On the real clock, with a solver child: what its newest plan says of a request that has not run yet."""
    port = free_port()
    made = drive(Setup(blocks=400, seats=24, step_s=None, settings={"mode": "control", "http_port": port}))
    requests = workload(300, seed=3, output=(2000, 4000))
    for request in requests:
        made.scheduler.add_request(request)
    counts = made.scheduler.kvhorizon.plans.counts
    run_until(made, lambda: counts["program"] + counts["greedy"] >= 2, limit_s=600.0)
    found = find(made.scheduler.waiting[-1].request_id, [f"http://127.0.0.1:{port}"])
    assert found["handle"]
    deadline_s = time.monotonic() + 60.0  # the solver is nice, and the machine may be busy
    while (said := planned(found, None)) is None:
        assert time.monotonic() < deadline_s
    assert said.startswith(("admit", "wait"))
    for request in requests:
        made.abort(request.request_id)
    made.scheduler.shutdown()


def test_vllms_own_evictions_are_explained() -> None:
    made = engine(mode="observe")
    run(made, workload(60, seed=1))
    log = made.scheduler.kvhorizon.control.log
    assert log.counts["evicted", "vllm"] == made.scheduler.kvhorizon.accounting.total.preemptions > 0
    assert "it came last in vLLM's own order" in log.newest()[-1].why


def test_the_plugins_socket_goes_with_it() -> None:
    before = set(local_addresses())
    made = engine(mode="observe")
    (own,) = set(local_addresses()) - before
    assert samples(ask(own, "/metrics"))["kvhorizon_pool_blocks", ()] == 159
    del made
    deadline_s = time.monotonic() + 20.0
    while own in local_addresses():
        assert time.monotonic() < deadline_s
        gc.collect()
        time.sleep(0.2)


def test_a_port_in_use_costs_the_port_only(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as taken, caplog.at_level("WARNING", "kvhorizon"):
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        made = engine(http_port=port)
    assert [line for line in caplog.messages if f"cannot be asked on 127.0.0.1:{port}" in line]
    assert made.scheduler.kvhorizon.telemetry.http is None
    assert made.scheduler.kvhorizon.telemetry.local is not None


def test_an_address_that_is_not_of_this_machine_is_a_wrong_setting() -> None:
    with pytest.raises(InputError, match=r"http_port=\d+, cannot be bound on 192.0.2.1"):
        engine(http_port=49152, http_host="192.0.2.1")


def test_a_folder_that_is_none_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"record=.*, must be a writable folder"):
        engine(record=str(tmp_path / "file"))


PROCESS = """
import json
from test_telemetry import engine, run
from experiments.engine._plugin_driver import workload
made = engine(mode="observe")
run(made, workload(60, seed=1))
made.scheduler.kvhorizon.telemetry.once()
print("FOUND " + json.dumps(made.scheduler.kvhorizon.accounting.total.preemptions), flush=True)
"""


def test_several_api_servers_read_it_from_their_directory(tmp_path: Path) -> None:
    """vLLM then answers `/metrics` from PROMETHEUS_MULTIPROC_DIR, where the engine's process writes as well."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    paths = [str(Path(__file__).parent), *sys.path]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    done = subprocess.run(
        [sys.executable, "-c", PROCESS], capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-3000:]
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(tmp_path))
    labels = {"engine": "0", "by": "vllm"}
    found = [
        sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "kvhorizon_preemptions_total" and labels.items() <= sample.labels.items()
    ]
    assert found == [json.loads(lines[0].removeprefix("FOUND "))]
