"""Seconds of a thread as it experiences them: without those in which others had the processor."""

from __future__ import annotations

import time
from pathlib import Path

_FILE = Path("/proc/thread-self/schedstat")  # Linux: nanoseconds on the processor, ready but waiting for it, slices


def own_s() -> float:
    """Wall-clock seconds without those that this thread was ready to run and had to wait; only differences count.

    Waiting for locks, pipes and other threads is kept, so that a step held up by ours shows. Where the system does not
    tell, plain seconds.
    """
    try:
        waited_s = int(_FILE.read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        waited_s = 0.0
    return time.perf_counter() - waited_s
