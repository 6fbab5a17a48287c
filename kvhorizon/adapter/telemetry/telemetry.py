"""All of it put together for one plugin: observer, metrics, recording, and where they can be read."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from kvhorizon.adapter.engine_facts import data_parallel_rank
from kvhorizon.adapter.settings import PluginSettings
from kvhorizon.adapter.telemetry import explain
from kvhorizon.adapter.telemetry.canary import CanaryReport, Windows
from kvhorizon.adapter.telemetry.listen import Answer, Listener, Route, as_json, listen_locally, listen_tcp
from kvhorizon.adapter.telemetry.observer import Observer
from kvhorizon.adapter.telemetry.publisher import Publisher
from kvhorizon.adapter.telemetry.recorder import Recorder
from kvhorizon.errors import InputError, in_a_line
from kvhorizon.models.performance.kv_offload import kv_bytes_on_one
from kvhorizon.models.performance.shape import ModelShape
from kvhorizon.state import EngineFacts

if TYPE_CHECKING:
    from kvhorizon.adapter.plugin import Plugin

logger = logging.getLogger(__name__)

PERIOD_S = 1.0


class Telemetry:
    """Of one plugin. `observer` is the step's side; all else runs beside it, and ends with the plugin."""

    def __init__(self, plugin: Plugin, settings: PluginSettings, config: Any, facts: EngineFacts) -> None:
        """Raises InputError where the settings ask for what there cannot be. A port that is taken and a disk that is
        full cost that part only, with one line."""
        engine = data_parallel_rank(config)
        windows = Windows(settings.canary_window_s) if settings.canary < 1.0 else None
        self.observer = Observer(plugin, settings.record is not None and settings.record_prefixes, windows)
        self.canary = CanaryReport(windows) if windows is not None else None
        plugin.accounting.on_finished = self.observer.released
        self.publisher = Publisher(plugin, self.observer, model_name(config), engine, self.canary)
        self.publisher.publish()  # compiles, or loads from the cache, before the engine serves
        self.recorder = make_recorder(settings, engine, described(config, facts, plugin.accounting.shape))
        self.http = self._listen_http(settings, engine)
        self.local = self._listen_locally(str(config.instance_id), engine)
        self._plugin, self._engine_id = plugin, facts.engine_id
        self._work = threading.Lock()  # over the recorder
        self._stopping = threading.Event()
        listeners = [listener for listener in (self.http, self.local) if listener is not None]
        arguments = (weakref.ref(self), listeners, self._stopping)
        self._thread = threading.Thread(target=_keep_up, args=arguments, name="kvhorizon-telemetry", daemon=True)
        self._thread.start()

    def collect(self) -> None:
        """Take in what the step has told since the last time."""
        ended = self.publisher.publish()
        recorder = self.recorder
        if recorder is None:
            return
        with self._work:
            recorder.take(ended)
            self.publisher.recorded(recorder.written, recorder.lost)

    def stop(self) -> None:
        """The rest is written; addresses are given back. Stopping twice is fine."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        self._thread.join(5.0)
        self.once(last=True)

    def once(self, last: bool = False) -> None:
        """One round of the thread; an error costs this round only."""
        try:
            self.collect()
            if self.recorder is not None:
                with self._work:
                    self.recorder.flush(idle=not self._plugin.engine.scheduler.requests, now=last)
        except Exception as error:
            self.observer.guard.failed("collect", error)

    def _listen_http(self, settings: PluginSettings, engine: int) -> Listener | None:
        if not settings.http_port:
            return None
        port = settings.http_port + engine
        try:
            return listen_tcp(settings.http_host, port, self._routes())
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            if isinstance(error, OverflowError | socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                raise InputError("http_port", port, f"cannot be bound on {settings.http_host}: {why}") from None
            logger.warning("kvhorizon cannot be asked on %s:%d: %s", settings.http_host, port, why)
            return None

    def _listen_locally(self, instance: str, engine: int) -> Listener | None:
        try:
            return listen_locally(instance, engine, self._routes())
        except (OSError, AttributeError) as error:  # not Linux, or no such socket allowed
            logger.warning("kvhorizon's metrics will be missing from the engine's own: %s", error)
            return None

    def _routes(self) -> Mapping[str, Route]:
        """They do not keep the plugin alive."""
        methods = {
            "/metrics": self._metrics,
            "/explain": self._explain,
            "/decisions": self._decisions,
            "/canary": self._canary,
            "/guardrail": self._guardrail,
        }
        return {path: _weakly(method) for path, method in methods.items()}

    def _metrics(self, _query: Mapping[str, str]) -> Answer:
        self.collect()
        return CONTENT_TYPE_LATEST, generate_latest(Shown(self.publisher.registry))

    def _explain(self, query: Mapping[str, str]) -> Answer | None:
        found = explain.explain(self._plugin, query.get("request", ""), time.time(), self._engine_id)
        return None if found is None else as_json(found)

    def _canary(self, _query: Mapping[str, str]) -> Answer | None:
        if self.canary is None:
            return None
        self.collect()
        return "text/plain; charset=utf-8", f"{self.canary.line()}\n".encode()

    def _guardrail(self, _query: Mapping[str, str]) -> Answer | None:
        guardrail = self._plugin.switch.guardrail
        return None if guardrail is None else ("text/plain; charset=utf-8", f"{guardrail.line()}\n".encode())

    def _decisions(self, _query: Mapping[str, str]) -> Answer:
        return as_json(explain.newest(self._plugin, time.time()))


class Shown(Collector):
    """A registry without the creation times that its client adds to each sample."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        """The families."""
        for family in self._registry.collect():
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield family


def make_recorder(settings: PluginSettings, engine: int, described: Mapping[str, Any]) -> Recorder | None:
    """The recorder that the settings ask for; None, with one line, where it cannot begin. Raises InputError."""
    if settings.record is None:
        return None
    started = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    name = f"{started}-{engine}-{os.getpid()}-{secrets.token_hex(2)}"
    most_bytes, given = settings.record_limit_mb * 2**20, settings.record_tenants == "given"
    try:
        return Recorder(settings.record, name, described, most_bytes, given)
    except (OSError, ImportError) as error:
        logger.warning("kvhorizon records nothing: %s", in_a_line(error))
        return None


def model_name(config: Any) -> str:
    """As vLLM labels its own metrics."""
    served = getattr(config.model_config, "served_model_name", None) or config.model_config.model
    return str(served[0] if isinstance(served, list | tuple) else served)


def described(config: Any, facts: EngineFacts, shape: ModelShape | None) -> dict[str, Any]:
    """The engine, for whoever reads its recording."""
    kv_bytes = kv_bytes_on_one(shape, int(config.parallel_config.tensor_parallel_size))
    told = {"cost": facts.cost._asdict(), "model": model_name(config), "kv_bytes_per_token": kv_bytes}
    caching = getattr(getattr(config, "cache_config", None), "enable_prefix_caching", None)
    if isinstance(caching, bool):
        told["prefix_caching"] = caching
    return {**dataclasses.asdict(facts), **told}


def _weakly(method: Callable[[Mapping[str, str]], Answer | None]) -> Route:
    weak = weakref.WeakMethod(method)

    def route(query: Mapping[str, str]) -> Answer | None:
        alive = weak()
        return None if alive is None else alive(query)

    return route


def _keep_up(telemetry: weakref.ref[Telemetry], listeners: list[Listener], stopping: threading.Event) -> None:
    """Each second, until it is stopped or the plugin is no more."""
    while not stopping.wait(PERIOD_S):
        alive = telemetry()
        if alive is None:
            break
        alive.once()
        del alive
    for listener in listeners:
        listener.stop()
