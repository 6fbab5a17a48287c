"""What the guest may do in the vLLM on the path, and whether everybody is served: one line of JSON."""

from __future__ import annotations

import json
from typing import Any

import vllm

from experiments._guest_driver import check_whole, drive, workload
from experiments._guest_engine import Setup

REQUESTS = 40


def probe(asynchronous: bool) -> dict[str, Any]:
    """Forty requests on a pool that is too small, under control."""
    setup = Setup(asynchronous=asynchronous)
    engine, requests = drive(setup), workload(REQUESTS, seed=1)
    guest = engine.scheduler.kvhorizon
    if guest is None:
        return {"level": "NONE"}
    engine.run(requests)
    check_whole(engine.scheduler, requests, setup.blocks)
    total = guest.accounting.total
    return {
        "level": guest.control.level.name,
        "errors": guest.guard.total + guest.account_guard.total,
        "preemptions": total.preemptions,
        "recompute_tokens": total.recompute_tokens,
        "decided": guest.ladder["local"],
    }


if __name__ == "__main__":
    found = {"version": vllm.__version__, "sync": probe(False), "async": probe(True)}
    print("FOUND " + json.dumps(found))
