"""vLLM's own OpenAI server as a process, started as a user starts it, on a pool small enough to be KV-bound."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from experiments.live.serving._live_probe import FILE

ROOT = Path(__file__).resolve().parents[3]
START_TIMEOUT_S = 300.0
NAME = "tiny"


@dataclass(frozen=True)
class Served:
    """Of one server."""

    blocks: int = 240
    seats: int = 64
    block_size: int = 32  # attention on the CPU wants multiples of it
    batched: int = 2048
    max_len: int = 1024
    scheduler: str = "plain"  # of experiments.live.serving._live_probe
    watermark: float = 0.0
    dtype: str = "float32"
    options: tuple[str, ...] = ("--enforce-eager",)  # of the machine's kind
    settings: dict[str, str] = field(default_factory=dict)  # KVHORIZON_… variables
    prefix_caching: bool = False  # vLLM's default is to have it
    tokenizer: bool = False  # in the model's folder; structured output needs one


class LiveServer:
    """`with LiveServer(served, model, folder) as server:`; it serves once entered. Two may be alive at a time."""

    def __init__(self, served: Served, model: Path, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.served = served
        self.port = free_port()
        self.log = folder / "server.log"
        self.probe = folder / "probe.json"
        self._model = model
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the API server."""
        assert self._process is not None
        return self._process.pid

    def __enter__(self) -> LiveServer:
        self.launch()
        self.wait()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def launch(self) -> None:
        """Begin to start."""
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *self._arguments()],
                env=self._environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Until it serves; raises RuntimeError with the end of its log where it does not."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=5.0) as answer:
                    if answer.status == 200:
                        return
            except OSError:
                time.sleep(0.5)
        self.stop()
        raise RuntimeError("the server did not start:\n" + self._said())

    def stop(self) -> None:
        """End the API server, and with it the engine; by force after ten seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def cpu_s(self) -> float:
        """Seconds of processor time so far: of the API server, the engine and all solvers, gone ones too."""
        everyone = [psutil.Process(self.pid)]
        everyone += everyone[0].children(recursive=True)
        times = [one.cpu_times() for one in everyone]
        return float(sum(one.user + one.system + one.children_user + one.children_system for one in times))

    def expect(self, finished: int) -> None:
        """The next report is wanted when so many requests have finished since the start, and none before."""
        self.probe.with_suffix(".goal").write_text(str(finished), encoding="ascii")

    def report(self, finished: int, timeout_s: float = 60.0) -> dict[str, Any]:
        """The probe's newest report, once so many requests have finished since the start."""
        deadline_s = time.monotonic() + timeout_s
        while time.monotonic() < deadline_s:
            if self.probe.exists():
                found: dict[str, Any] = json.loads(self.probe.read_text(encoding="utf-8"))
                if found["finished"] >= finished:
                    return found
            time.sleep(0.05)
        raise RuntimeError(f"not {finished} requests finished within {timeout_s} s after the load:\n" + self._said())

    def _said(self) -> str:
        return self.log.read_text(encoding="utf-8")[-4000:]

    def _arguments(self) -> list[str]:
        served = self.served
        values = {
            "model": self._model,
            "served-model-name": NAME,
            "host": "127.0.0.1",
            "port": self.port,
            "max-model-len": served.max_len,
            "max-num-seqs": served.seats,
            "max-num-batched-tokens": served.batched,
            "num-gpu-blocks-override": served.blocks,
            "block-size": served.block_size,
            "watermark": served.watermark,
            "dtype": served.dtype,
            "stream-interval": 8,  # tokens per answer, after the first
            "seed": 1,
            "scheduler-cls": f"experiments.live.serving._live_probe.{served.scheduler}",
            "logits-processors": "experiments.live.serving._live_model:EndAtLength",
        }
        flags = [
            *served.options,
            *(() if served.tokenizer else ("--skip-tokenizer-init",)),
            "--enable-prefix-caching" if served.prefix_caching else "--no-enable-prefix-caching",
            "--disable-uvicorn-access-log",
        ]
        return [part for key, value in values.items() for part in (f"--{key}", str(value))] + flags

    def _environment(self) -> dict[str, str]:
        inherited = os.environ.get("PYTHONPATH")
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT) if not inherited else os.pathsep.join([str(ROOT), inherited]),
            "VLLM_LOGGING_LEVEL": "WARNING",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine's process runs the model itself
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_USE_V2_MODEL_RUNNER": "0",  # the second one has no logits processors
            "VLLM_USE_FLASHINFER_SAMPLER": "0",
            FILE: str(self.probe),
            **self.served.settings,
        }


def free_port() -> int:
    """A TCP port that nothing listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
