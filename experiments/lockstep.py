"""Is the simulated engine's schedule that of vLLM's own scheduler, step by step? Needs vLLM 0.32 (see `make engine`).

Random scenarios vary pool, block size, token budget, sequences, chunked prefill, long-prefill limit and watermark.
After each scheduling decision the running and waiting requests and their order, tokens scheduled, blocks held,
preemptions and free blocks must be equal. Scenario seeds are 0 … SCENARIOS − 1. Then faults planted in our step must
all be found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor

from experiments._harness import Figures, Options, Targets, main, target

SCENARIOS, QUICK_SCENARIOS = 480, 24
REQUESTS, QUICK_REQUESTS = 320, 120
MUTANT_SEEDS, MUTANT_REQUESTS, MUTANT_STEPS = 40, 60, 400
PROCESSES = 2


def one(arguments: tuple[int, int]) -> dict[str, object]:
    """One scenario, in a process of its own."""
    from experiments._lockstep import compare
    from experiments._our_side import OurSide
    from experiments._scenario import draw

    seed, requests = arguments
    scenario = draw(seed, requests)
    found = compare(scenario, OurSide.start(scenario))
    return {
        "seed": seed,
        "steps": found.steps,
        "preemptions": found.preemptions,
        "mean_running": found.mean_running,
        "cached_tokens": found.cached_tokens,
        "aborted": found.aborted,
        "difference": found.difference,
    }


def caught(name: str) -> bool:
    """Whether any of a few scenarios finds the mutant; run with numba disabled."""
    from experiments._lockstep import compare
    from experiments._mutants import mutant
    from experiments._our_side import OurSide
    from experiments._scenario import draw

    rules = mutant(name)
    for seed in range(MUTANT_SEEDS):
        scenario = draw(seed, MUTANT_REQUESTS)
        try:
            found = compare(scenario, OurSide.start(scenario, rules), MUTANT_STEPS)
        except (IndexError, ValueError):  # it left the arrays: found, too
            return True
        if found.difference:
            return True
    return False


def missed_mutants() -> list[str]:
    """Names of the mutants that no scenario finds, from a process without compilation."""
    code = (
        "import json; from experiments.lockstep import caught; from experiments._mutants import MUTANTS; "
        "print(json.dumps([name for name in MUTANTS if not caught(name)]))"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    missed: list[str] = json.loads(done.stdout.splitlines()[-1])
    return missed


def measure(options: Options) -> tuple[Figures, Targets]:
    """All scenarios on two processes, then the mutants."""
    scenarios = QUICK_SCENARIOS if options.quick else SCENARIOS
    requests = QUICK_REQUESTS if options.quick else REQUESTS
    with ProcessPoolExecutor(PROCESSES) as pool:
        runs = list(pool.map(one, [(seed, requests) for seed in range(scenarios)], chunksize=4))
    steps, preemptions = (sum(int(str(run[name])) for run in runs) for name in ("steps", "preemptions"))
    differences = [run for run in runs if run["difference"]]
    from experiments._mutants import MUTANTS

    missed = missed_mutants()
    figures = {
        "scenarios": len(runs),
        "requests_per_scenario": requests,
        "mean_running": sum(float(str(run["mean_running"])) * int(str(run["steps"])) for run in runs) / max(steps, 1),
        "cached_tokens": sum(int(str(run["cached_tokens"])) for run in runs),
        "aborted": sum(int(str(run["aborted"])) for run in runs),
        "first_differences": differences[:5],
        "mutants": len(MUTANTS),
        "missed": missed,
    }
    return figures, {
        "differences": target(len(differences), "<=0"),
        "steps": target(steps, ">=1000000"),
        "preemptions": target(preemptions, ">=100000"),
        "mutants_missed": target(len(missed), "<=0"),
    }


if __name__ == "__main__":
    main("lockstep", 0, measure)
