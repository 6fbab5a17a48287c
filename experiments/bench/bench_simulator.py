"""How fast the simulator is, in CPU seconds of one core, and how much memory a request takes.

Each run is measured in a process of its own, after one small run that loads the compiled code; the best of several
counts, since other programs share the machine. Memory is the peak of resident memory with 10⁶ requests less that with
10⁵, over the difference.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from typing import Any

from experiments.bench._bench_cases import CASES, Case, build
from experiments.common._harness import Figures, Options, Targets, main, target
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay

SEED = 0
REPEATS, QUICK_REPEATS = 3, 1
QUICK_DIVISOR = 20
FEW, MANY = 100_000, 1_000_000


def measure_case(case: Case, requests: int) -> dict[str, float]:
    """CPU seconds, steps and peak memory of one replay, in this process."""
    replay(build(case, 200), parse_policy(case.policy))
    setup = build(case, requests)
    began = time.process_time()
    outcome = replay(setup, parse_policy(case.policy))
    return {
        "cpu_s": time.process_time() - began,
        "steps": outcome.steps,
        "requests": requests,
        "preemptions_per_request": float(outcome.preemptions.mean()),
        "running": float(outcome.timeline[:, 2].mean()),
        "cached_tokens_per_request": outcome.cached_tokens / requests,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0,
    }


def apart(case: str, requests: int) -> dict[str, float]:
    """`measure_case` in a process of its own."""
    command = [sys.executable, "-m", "experiments.bench_simulator", "--case", case, str(requests)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def best(case: str, options: Options) -> dict[str, float]:
    """The least CPU time of several runs of a case."""
    requests = CASES[case].requests // (QUICK_DIVISOR if options.quick else 1)
    runs = [apart(case, requests) for _ in range(QUICK_REPEATS if options.quick else REPEATS)]
    return min(runs, key=lambda run: run["cpu_s"])


def bytes_per_request(options: Options) -> float:
    """Peak memory that each further request of a trace adds."""
    divisor = QUICK_DIVISOR if options.quick else 1
    few, many = FEW // divisor, MANY // divisor
    return (apart("fcfs", many)["peak_bytes"] - apart("fcfs", few)["peak_bytes"]) / (many - few)


def measure(options: Options) -> tuple[Figures, Targets]:
    """Every case, then memory."""
    runs = {case: best(case, options) for case in CASES}
    per_s = {case: run["requests"] / run["cpu_s"] for case, run in runs.items()}
    bound = runs["bound"]
    targets = {
        "fcfs_steps_per_s": target(bound["steps"] / bound["cpu_s"], ">=1000000"),
        "fcfs_requests_per_s": target(per_s["fcfs"], ">=100000"),
        "prefix_requests_per_s": target(per_s["prefix"], ">=30000"),
        "greedy_requests_per_s": target(per_s["greedy"], ">=30000"),
        "peak_bytes_per_request": target(bytes_per_request(options), "<=400"),
    }
    return {"runs": runs}, targets


def one_case(arguments: list[str]) -> None:
    """`--case NAME REQUESTS`: what `apart` runs."""
    found: dict[str, Any] = measure_case(CASES[arguments[0]], int(arguments[1]))
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--case"]:
        one_case(sys.argv[2:])
    else:
        main("bench_simulator", SEED, measure)
