"""What the plugin may do in the vLLM on the path, and whether all is served: one line of JSON."""

from __future__ import annotations

import json
from typing import Any

import vllm

from experiments.engine._plugin_driver import check_whole, drive, workload
from experiments.engine._plugin_engine import Setup

REQUESTS = 40


def probe(asynchronous: bool) -> dict[str, Any]:
    """Forty requests on a pool that is too small, under control."""
    setup = Setup(asynchronous=asynchronous)
    engine, requests = drive(setup), workload(REQUESTS, seed=1)
    plugin = engine.scheduler.kvhorizon
    if plugin is None:
        return {"level": "NONE"}
    engine.run(requests)
    check_whole(engine.scheduler, requests, setup.blocks)
    total = plugin.accounting.total
    return {
        "level": plugin.control.level.name,
        "errors": plugin.guard.total + plugin.account_guard.total,
        "preemptions": total.preemptions,
        "recompute_tokens": total.recompute_tokens,
        "decided": plugin.ladder["local"],
    }


if __name__ == "__main__":
    found = {"version": vllm.__version__, "sync": probe(False), "async": probe(True)}
    print("FOUND " + json.dumps(found))
