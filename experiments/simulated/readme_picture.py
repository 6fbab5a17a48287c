"""Draw the README's picture: `python -m experiments.readme_picture` writes `docs/img/occupancy.svg`.

The demo's workload under first-come-first-served and under the program (planned in process, so that it repeats).
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.solver.program.search.planner import Budget, Planner, PlannerSettings
from kvhorizon.state import Plan, Snapshot
from kvhorizon.whatif.question import Question, prepare

OUT = Path(__file__).parents[2] / "docs" / "img" / "occupancy.svg"
QUESTION = Question("synthetic:mixed", load=1.3, limit=1500, forecast="noisy:0.6", prefix_caching=False)
WORK = 100
POINTS = 700
ROWS = (("fcfs", "first come, first served", "#8a94a0"), ("kvhorizon", "kvhorizon", "#0b6bcb"))


class InProcess:
    """The planner without its service."""

    def __init__(self) -> None:
        self._planner = Planner(PlannerSettings(), lambda: 0.0)

    def plan(self, snapshot: Snapshot) -> Plan:
        return self._planner.plan(snapshot, Budget(work=WORK))


def main() -> None:
    """Replay and draw."""
    setup = prepare(QUESTION).setup
    mpl.rcParams.update({"svg.hashsalt": "kvhorizon", "font.size": 9, "font.family": "sans-serif"})
    figure, axes = plt.subplots(2, 1, figsize=(8, 3.4), sharex=True, layout="constrained")
    for axis, (name, title, colour) in zip(axes, ROWS, strict=True):
        outcome = replay(setup, parse_policy(name), InProcess())
        line = outcome.timeline[:: max(1, len(outcome.timeline) // POINTS)]
        axis.fill_between(line[:, 0], 100 * line[:, 1] / setup.facts.total_blocks, color=colour, alpha=0.55, lw=0)
        times = outcome.preempted_at[:, 0]
        ticks = np.unique(times.round())
        axis.plot(ticks, np.full(len(ticks), 107.0), "|", color="#c2410c", ms=6, mew=0.6)
        latency = (outcome.finish_s - setup.trace.arrival_s).mean()
        axis.set_title(f"{title}: {len(times):,} evictions, mean latency {latency:.0f} s", loc="left", fontsize=9)
        axis.set_ylim(0, 115)
        axis.set_yticks([0, 50, 100], ["0", "50", "100 %"])
        axis.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("seconds; shaded: KV cache in use; ticks: evictions, whose work is done again")
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT, metadata={"Date": None})


if __name__ == "__main__":
    main()
