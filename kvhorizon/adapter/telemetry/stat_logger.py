"""vLLM's way to more metrics, entry point `vllm.stat_logger_plugins`: loaded in the API server's process.

vLLM's own numbers are not touched. Where several API servers run, `/metrics` is answered from the directory
PROMETHEUS_MULTIPROC_DIR instead; the engine's process writes there by itself, and nothing is to be relayed.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from prometheus_client import REGISTRY
from vllm.v1.metrics.loggers import AggregateStatLoggerBase  # type: ignore[import-not-found, unused-ignore]

from kvhorizon.adapter.telemetry.relay import Relay
from kvhorizon.errors import in_a_line

logger = logging.getLogger(__name__)


class KvhorizonStatLogger(AggregateStatLoggerBase):  # type: ignore[misc, unused-ignore]
    """Relays what the plugin in the engine's process has counted; shows nothing where there is no plugin."""

    def __init__(self, vllm_config: Any, engine_indexes: list[int] | None = None, *_: Any, **__: Any) -> None:
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            try:
                Relay(str(vllm_config.instance_id), engine_indexes or [0]).start(REGISTRY)
            except Exception as error:  # whatever it is, the server starts
                logger.warning("kvhorizon's metrics will be missing from the engine's own: %s", in_a_line(error))

    def record(self, *_: Any, **__: Any) -> None:
        """Nothing: what vLLM tells here is in its own metrics."""

    def log_engine_initialized(self) -> None:
        """Nothing to say."""
