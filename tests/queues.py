"""Snapshots of engines with long queues."""

from dataclasses import fields, replace

import numpy as np

from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.state import Snapshot


def long_queue(revision: int, count: int = 50_000) -> Snapshot:
    """So many wait that no socket takes what is said of them at once."""
    few = sample_snapshot(revision)
    of = np.append(np.arange(few.num_running), np.full(count, few.num_running))
    rows = {field.name: getattr(few.requests, field.name)[of] for field in fields(few.requests)}
    rows["handle"] = np.arange(1, len(of) + 1, dtype=np.uint64)
    return replace(few, requests=replace(few.requests, **rows))
