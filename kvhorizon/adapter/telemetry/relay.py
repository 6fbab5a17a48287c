"""The scheduler plugin's metrics in the registry of another process: the API server's, which answers the engine's
`/metrics`.

A thread fetches them from the engine's socket each second and keeps the newest, so that a scrape never waits for the
engine, and an engine that is gone or hangs is missing from the answer, not in its way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from kvhorizon.wire.local import ask, local_address

PERIOD_S = 1.0
STALE_S = 10.0  # older answers are not shown


class Relay(Collector):
    """Of the engines of one server, by data-parallel rank."""

    def __init__(self, instance: str, engines: Iterable[int], clock: Callable[[], float] = time.monotonic) -> None:
        self._addresses = {engine: local_address(instance, engine) for engine in engines}
        self._clock = clock
        self._newest: dict[int, tuple[float, list[Metric]]] = {}

    def start(self, registry: CollectorRegistry) -> None:
        """Appear in the registry, and keep up with the engines."""
        registry.register(self)
        threading.Thread(target=self._run, name="kvhorizon-relay", daemon=True).start()

    def describe(self) -> Iterable[Metric]:
        """Nothing: names are known once an engine has answered."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """The families of all engines, each once."""
        merged: dict[str, Metric] = {}
        for at_s, families in list(self._newest.values()):
            for family in families if self._clock() - at_s <= STALE_S else ():
                whole = merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                whole.samples.extend(family.samples)
        return merged.values()

    def fetch(self) -> None:
        """Ask every engine once."""
        for engine, address in self._addresses.items():
            try:
                text = ask(address, "/metrics")
                families = list(text_string_to_metric_families((text or b"").decode()))
            except (OSError, ValueError):
                continue
            self._newest[engine] = (self._clock(), families)

    def _run(self) -> None:
        while True:
            self.fetch()
            time.sleep(PERIOD_S)
