"""One tiny engine, three loads: vLLM alone with room for all, under control, and with evictions that plans ask for.

    python -m experiments._tiny_run KIND…

with drafts of an n-gram lookup (`ngram`) or of a model (`draft`, the engine's own over again, so that nearly all are
taken), with KV in host memory (`reload`), or a step ahead (`asynchronous`). The last line is FOUND and JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from vllm.config import KVTransferConfig

from experiments.engine._tiny_engine import FEW, REQUESTS, Served, TinyEngine
from experiments.live.serving._live_model import write_model
from kvhorizon.adapter.modes import Mode
from kvhorizon.adapter.planning import ticker
from kvhorizon.adapter.plugin import Plugin
from kvhorizon.solver.evictions import Gates
from kvhorizon.solver.expiry import DatedPlan
from kvhorizon.state import Plan, Snapshot, Source
from kvhorizon.wire.validate import check_snapshot

DRAFTS = 3
HOST_GB = 0.25
PLAN_EVERY_S = 0.02  # the steps of so small a model are short


class Evictions:
    """In a planning session's place: whoever came last is to be evicted, as often as the plugin asks for a plan."""

    solver = object()
    replaced = failed_starts = errors = 0
    took_s = 0.0

    def __init__(self, plugin: Plugin) -> None:
        self.newest: DatedPlan | None = None
        self._epoch = plugin.plans._epoch
        plugin.session, plugin.may_evict = self, True  # type: ignore[assignment]
        ticker.TICK_S = PLAN_EVERY_S
        plugin.control.gates = Gates(occupancy=0.0, residency_s=0.0)

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""

    def offer(self, made: Callable[[], Snapshot] | None) -> None:
        """Check the snapshot as the service would, and answer at once."""
        if made is None:
            return
        snapshot = made()
        check_snapshot(snapshot)
        waiting = snapshot.requests.handle[snapshot.num_running :]
        none = np.zeros(0)
        plan = Plan(
            engine_epoch=self._epoch,
            based_on_revision=snapshot.revision,
            source=Source.PROGRAM,
            admissions=waiting,
            admit_at_steps=np.zeros(len(waiting)),
            evictions=snapshot.requests.handle[: snapshot.num_running][-1:],
            bucket_steps=none,
            block_prices=none,
        )
        self.newest = DatedPlan(plan, snapshot.now_s)


def arguments_of(kinds: Sequence[str]) -> dict[str, Any]:
    """For vLLM."""
    model = str(write_model())
    found: dict[str, Any] = {"model": model, "asynchronous": "asynchronous" in kinds}
    if "ngram" in kinds:
        found["speculative_config"] = {"method": "ngram", "prompt_lookup_max": 3, "prompt_lookup_min": 1}
    if "draft" in kinds:
        found["speculative_config"] = {"method": "draft_model", "model": model}
    if "speculative_config" in found:
        found["speculative_config"]["num_speculative_tokens"] = DRAFTS
    if "reload" in kinds:
        by_hand = {"spec_name": "HostMemorySpec", "spec_module_path": "experiments.engine._host_memory"}
        found["kv_offloading_size"] = HOST_GB
        found["kv_transfer_config"] = KVTransferConfig(
            kv_connector_extra_config=by_hand | {"offload_prompt_only": False}
        )
    return found


def mismatches(reference: Served, other: Served) -> list[int]:
    """Requests whose tokens are not the same; of those aborted, what came is to be the beginning."""
    return [
        number
        for number, (one, two) in enumerate(zip(reference.tokens, other.tokens, strict=True))
        if (one[: len(two)] if number in other.aborted else one) != two
    ]


def told(served: Mapping[str, Served]) -> dict[str, Any]:
    """As JSON takes it; tokens are compared with those of `plain`."""
    plain = served["plain"]
    return {name: asdict(one) | {"differ": mismatches(plain, one)} for name, one in served.items()}


def serve_all(kinds: Sequence[str]) -> dict[str, Any]:
    """All three loads; host memory is emptied in between. `means` lets plans evict whomever they name."""
    engine = TinyEngine({"local_only": True, "knob": "means"}, **arguments_of(kinds))
    reload = "reload" in kinds
    found = {"may_evict": engine.plugin.may_evict}
    served = {}
    for name in ("plain", "control", "plans"):
        if name == "plans":
            Evictions(engine.plugin)
        if reload:
            engine.scheduler.reset_prefix_cache(reset_connector=True)
        together = FEW if name == "plain" else REQUESTS
        served[name] = engine.serve(Mode.OFF if name == "plain" else Mode.CONTROL, together, reload and name == "plans")
    return found | {"kept": engine.plugin.losing.kept} | told(served)


if __name__ == "__main__":
    print("FOUND " + json.dumps(serve_all(sys.argv[1:])), flush=True)
    os._exit(0)  # vLLM's threads need not be waited for
