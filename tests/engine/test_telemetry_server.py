"""vLLM's OpenAI server as a user starts it: the plugin's numbers are in the engine's own `/metrics`, beside vLLM's.

The scheduler runs in the engine's process, `/metrics` is answered by another. One server serves all the tests here.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from test_telemetry import free_port, samples, total

from experiments.common._scratch import SERVED, model_folder
from kvhorizon.cli.commands.explain import find
from kvhorizon.recording.read import read_recording
from kvhorizon.wire.local import local_addresses

REQUESTS = 24


class Serving(NamedTuple):
    """A server, and where its plugin records."""

    url: str
    own: str
    folder: Path
    process: subprocess.Popen[bytes]


def wait_for(reached: Callable[[], bool], limit_s: float) -> None:
    deadline_s = time.monotonic() + limit_s
    while not reached():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1.0):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory, plugin: str) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("recording")
    port, own = free_port(), free_port()
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "KVHORIZON_LOCAL_ONLY": "true",
        "KVHORIZON_HTTP_PORT": str(own),
        "KVHORIZON_RECORD": str(folder),
        "PYTHONPATH": os.pathsep.join([plugin, *(p for p in sys.path if p)]),
    }
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model_folder(SERVED)),
        *("--served-model-name", "tiny", "--load-format", "dummy", "--skip-tokenizer-init", "--dtype", "float32"),
        *("--max-model-len", "512", "--enforce-eager", "--no-enable-prefix-caching", "--max-num-seqs", "16"),
        *("--num-gpu-blocks-override", "24", "--block-size", "32", "--host", "127.0.0.1", "--port", str(port)),
        *("--scheduler-cls", "kvhorizon.adapter.make_scheduler"),
    ]
    log = tmp_path_factory.mktemp("log") / "server"
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: process.poll() is not None or answers(url), limit_s=900.0)
        assert process.poll() is None, log.read_text()[-3000:]
        threads = [threading.Thread(target=complete, args=(url, number)) for number in range(REQUESTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        yield Serving(url, f"http://127.0.0.1:{own}", folder, process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def complete(url: str, number: int) -> None:
    """One completion of 40 tokens and more."""
    body = {
        "model": "tiny",
        "prompt": [(7 * number + k) % 1000 + 3 for k in range(20 + number)],
        "max_tokens": 40 + 3 * number,
        "ignore_eos": True,
        "detokenize": False,
        "vllm_xargs": {"tenant": f"team-{number % 3}"},
    }
    headers = {"Content-Type": "application/json", "X-Request-Id": f"job{number}"}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120.0) as answer:
        assert json.loads(answer.read())["usage"]["completion_tokens"] == 40 + 3 * number


def scrape(url: str) -> Any:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5.0) as answer:
        return samples(answer.read())


def test_the_engines_own_metrics_hold_the_plugins(serving: Serving) -> None:
    """Within two seconds; and vLLM counts the same evictions."""
    wait_for(lambda: total(scrape(serving.url), "kvhorizon_requests_finished_total") == REQUESTS, limit_s=10.0)
    found, own = scrape(serving.url), scrape(serving.own)
    evictions = total(found, "kvhorizon_preemptions_total")
    assert evictions == total(found, "vllm:num_preemptions_total") > 0
    assert found["kvhorizon_recompute_tokens_total", ()] > 0
    steady = ("_total", "_count", "_sum", "_bucket")
    ours = {key: value for key, value in found.items() if key[0].startswith("kvhorizon_") and key[0].endswith(steady)}
    skipped = ("kvhorizon_overflow", "kvhorizon_recorded")
    assert {key: value for key, value in own.items() if key in ours and not key[0].startswith(skipped)} == {
        key: value for key, value in ours.items() if not key[0].startswith(skipped)
    }


def test_recorded_times_are_those_that_vllm_measures(serving: Serving) -> None:
    """vLLM's own histogram adds up the latencies that its API server sees: some milliseconds more a request."""
    wait_for(lambda: any(serving.folder.glob("*.parquet")), limit_s=30.0)
    wait_for(lambda: len(read_recording(serving.folder)) == REQUESTS, limit_s=30.0)
    recording, found = read_recording(serving.folder), scrape(serving.url)
    for ours, theirs in (("ttft_s", "time_to_first_token_seconds"), ("e2e_s", "e2e_request_latency_seconds")):
        difference_s = total(found, f"vllm:{theirs}_sum") - float(recording.seconds[ours].sum())
        assert abs(difference_s) < 0.05 * REQUESTS
    assert len(set(recording.texts["tenant"])) == 3
    assert recording.facts["model"] == "tiny"
    assert recording.facts["prefix_caching"] is False


def test_a_request_of_the_server_is_explained_by_its_id(serving: Serving) -> None:
    """Whoever was evicted last is in the log; by port, and by the socket that is found on the machine."""
    with urllib.request.urlopen(f"{serving.own}/decisions", timeout=5.0) as answer:
        decisions = json.loads(answer.read())["decisions"]
    name = next(one["request_id"] for one in reversed(decisions) if one["what"] == "evicted")
    given = name.split("-0-")[0]  # as the server's answer has it
    for addresses in ([serving.own], local_addresses()):
        found = find(given, addresses)
        assert found["request"] == name
        assert any(one["what"] == "evicted" and one["why"] for one in found["decisions"])


def free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of the past may linger
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def test_a_killed_engine_leaves_no_address(serving: Serving) -> None:
    """The last test: it kills the server, children and all. Its engine may outlive it a little."""
    before = set(local_addresses())
    assert not free(int(serving.own.rpartition(":")[2]))
    os.killpg(serving.process.pid, signal.SIGKILL)
    serving.process.wait()
    wait_for(lambda: len(set(local_addresses()) & before) < len(before), limit_s=10.0)
    wait_for(lambda: free(int(serving.own.rpartition(":")[2])), limit_s=10.0)
