"""A planner with no cleverness, for tests of what is around one; also run as a child process of the wire tests.

It admits what waits, in queue order, and prices blocks by the revisions it has seen, so that a test can tell a
planner that was kept from a fresh one. Moments in time stand for moods: see `HANG_S` and its neighbours.
"""

import sys
import threading
import time
from dataclasses import replace

import numpy as np

from kvhorizon.errors import InputError
from kvhorizon.state import Plan, Source

HANG_S, GARBAGE_S, BROKEN_S, SLOW_S, REFUSE_S = 666.0, 667.0, 668.0, 669.0, 670.0  # values of `now_s`


class StubPlanner:
    def __init__(self):
        self.seen = 0

    def plan(self, snapshot, budget):
        self.seen += 1
        if snapshot.now_s == HANG_S:
            time.sleep(60.0)
        if snapshot.now_s == SLOW_S:
            time.sleep(0.3)
        if snapshot.now_s == BROKEN_S:
            raise ZeroDivisionError("an accident")
        if snapshot.now_s == REFUSE_S:
            raise InputError("now_s", REFUSE_S, "must be another day")
        plan = admit_all(snapshot, float(self.seen))
        return replace(plan, admissions=plan.admissions + np.uint64(1000)) if snapshot.now_s == GARBAGE_S else plan

    def refine(self, seconds):
        pass


class Gate(StubPlanner):
    """A planner that waits in its first plan until the test opens it."""

    def __init__(self):
        super().__init__()
        self.entered, self.opened = threading.Event(), threading.Event()

    def plan(self, snapshot, budget):
        self.entered.set()
        assert self.opened.wait(10)
        return super().plan(snapshot, budget)


def admit_all(snapshot, price=1.0):
    running, waiting = np.split(snapshot.requests.handle, [snapshot.num_running])
    return Plan(
        engine_epoch=snapshot.facts.engine_epoch,
        based_on_revision=snapshot.revision,
        source=Source.GREEDY,
        admissions=waiting,
        admit_at_steps=np.arange(len(waiting), dtype=np.float64),
        evictions=running[:0],
        bucket_steps=np.array([0.0]),
        block_prices=np.array([price]),
        objective=1.1,
        bound=1.0,
    )


if __name__ == "__main__":
    from kvhorizon.service.main import main

    sys.exit(main(sys.argv[1:], StubPlanner))
