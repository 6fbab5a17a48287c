"""A real Prometheus in a folder of its own, asked as Grafana asks it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from experiments.live.serving._live_server import free_port

SCRAPE_S = 2  # also the time that a scrape may take
READY_WITHIN_S = 30.0
Series = dict[str, Any]  # as Prometheus answers: `metric`, the labels, and `values`, pairs of time and text


def installed() -> bool:
    """Whether there is one to start."""
    return shutil.which("prometheus") is not None


class Prometheus:
    """`with Prometheus(folder, ["host:port", ...], rules) as prometheus:` scrapes and evaluates until the end."""

    def __init__(self, folder: Path, targets: Sequence[str], rules: Path) -> None:
        every = f"{SCRAPE_S}s"
        config = {
            "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": "test", "static_configs": [{"targets": list(targets)}]}],
        }
        self._folder, self._began_s = folder, time.time()
        self._address = f"127.0.0.1:{free_port()}"
        (folder / "config.yml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML

    def __enter__(self) -> Prometheus:
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={self._folder / 'config.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._address}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
            )
        deadline_s = time.monotonic() + READY_WITHIN_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                self._process.kill()
                raise RuntimeError("Prometheus did not start:\n" + (self._folder / "log").read_text()[-2000:])
            time.sleep(0.1)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(20.0)

    def ask(self, path: str, **query: str) -> Any:
        """`data` of the answer; raises HTTPError with Prometheus' own words where a query is wrong."""
        address = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address, timeout=10.0) as answer:
            return json.loads(answer.read())["data"]

    def drawn(self, expression: str, variables: dict[str, str]) -> list[Series]:
        """What a panel would show of the time since the start."""
        values = {**variables, "__rate_interval": f"{4 * SCRAPE_S}s"}  # Grafana: at least four scrapes
        for name, value in values.items():
            expression = expression.replace(f"${name}", value)
        span = {"start": str(self._began_s), "end": str(time.time()), "step": str(SCRAPE_S)}
        found: list[Series] = self.ask("query_range", query=expression, **span)["result"]
        return found

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self._address}/-/ready", timeout=1.0):
                return True
        except OSError:
            return False


def shows(series: Sequence[Series]) -> bool:
    """Whether there is anything to see: some value that is a number."""
    return any(math.isfinite(float(value)) for one in series for _, value in one["values"])
