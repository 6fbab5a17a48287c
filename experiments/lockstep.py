"""Is the simulated engine's schedule that of vLLM's own scheduler, step by step? Needs vLLM 0.32 (see `make engine`).

Random scenarios vary pool, block size, token budget, sequences, chunked prefill, long-prefill limit, watermark, prefix
caching, priorities, clients that go, async scheduling. After each scheduling decision the running and waiting requests
and their order, tokens scheduled, computed (so prefix hits) and put out, blocks held, preemptions and free blocks must
be equal. Scenario seeds are 0 … SCENARIOS − 1. Then faults planted in our step must all be found.
"""

from __future__ import annotations

import multiprocessing
import traceback
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from experiments._harness import Figures, Options, Targets, main, target

if TYPE_CHECKING:
    from experiments._lockstep import Recording

SCENARIOS, QUICK_SCENARIOS = 480, 24
REQUESTS, QUICK_REQUESTS = 320, 80
MUTANT_SEEDS = (*range(72), 669, 698)  # the last two show a rare one: a victim among those who had their tokens
MUTANT_REQUESTS, MUTANT_STEPS = 60, 300
PROCESSES = 2


def one(arguments: tuple[int, int]) -> dict[str, object]:
    """One scenario on both sides."""
    from experiments._lockstep import difference, record
    from experiments._our_side import OurSide
    from experiments._scenario import draw

    seed, requests = arguments
    recording = record(draw(seed, requests))
    ours = OurSide.start(recording.scenario)
    return {
        "seed": seed,
        "difference": difference(recording, ours),
        "steps": len(recording.steps),
        "preemptions": recording.preemptions,
        "mean_running": recording.mean_running,
        "cached_tokens": ours.cached_tokens,
        "aborted": recording.aborted,
    }


def short(seed: int) -> Recording:
    """A short scenario on vLLM's side, for mutants to be compared with."""
    from experiments._lockstep import record
    from experiments._scenario import draw

    return record(draw(seed, MUTANT_REQUESTS), MUTANT_STEPS)


def seen(name: str | None, recordings: list[Recording]) -> str | None:
    """How the mutant is first told from vLLM, or None; an exception counts where it arises in the mutant's code."""
    from experiments._lockstep import difference
    from experiments._mutants import ORIGIN, mutant
    from experiments._our_side import OurSide

    rules = mutant(name)
    for recording in recordings:
        try:
            found = difference(recording, OurSide.start(recording.scenario, rules))
        except (IndexError, ValueError, OverflowError) as error:
            if traceback.extract_tb(error.__traceback__)[-1].filename != ORIGIN:
                raise
            found = repr(error)
        if found:
            return f"seed {recording.scenario.seed}: {found}"
    return None


def mutants(pool: ProcessPoolExecutor) -> dict[str, str | None]:
    """How each is seen; under the name of nothing, whether the unchanged rules are, run like a mutant."""
    from experiments._mutants import MUTANTS

    recordings = list(pool.map(short, MUTANT_SEEDS))
    recordings.sort(key=lambda recording: sum(len(step.seen.running) for step in recording.steps))
    asked = {name or "nothing": pool.submit(seen, name, recordings) for name in (None, *MUTANTS)}
    return {name: future.result() for name, future in asked.items()}


def measure(options: Options) -> tuple[Figures, Targets]:
    """All scenarios on two processes, then the mutants."""
    scenarios = QUICK_SCENARIOS if options.quick else SCENARIOS
    requests = QUICK_REQUESTS if options.quick else REQUESTS
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        runs = list(pool.map(one, [(seed, requests) for seed in range(scenarios)], chunksize=4))
        found = mutants(pool)
    false_alarm = found.pop("nothing")
    steps, preemptions = (sum(int(str(run[name])) for run in runs) for name in ("steps", "preemptions"))
    differences = [run for run in runs if run["difference"]]
    missed = [name for name, how in found.items() if how is None]
    figures = {
        "scenarios": len(runs),
        "requests_per_scenario": requests,
        "mean_running": sum(float(str(run["mean_running"])) * int(str(run["steps"])) for run in runs) / max(steps, 1),
        "cached_tokens": sum(int(str(run["cached_tokens"])) for run in runs),
        "aborted": sum(int(str(run["aborted"])) for run in runs),
        "first_differences": differences[:5],
        "mutants": len(found),
        "missed": missed,
        "false_alarm": false_alarm,
    }
    return figures, {
        "differences": target(len(differences), "<=0"),
        "steps": target(steps, ">=1000000"),
        "preemptions": target(preemptions, ">=100000"),
        "mutants_missed": target(len(missed), "<=0"),
    }


if __name__ == "__main__":
    main("lockstep", 0, measure)
