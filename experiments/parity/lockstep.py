"""Is the simulated engine's schedule that of vLLM's own scheduler, step by step? Needs vLLM 0.32 (see `make engine`).

Random scenarios vary pool, block size, token budget, sequences, chunked prefill, long-prefill limit, watermark, prefix
caching, priorities, clients that go, async scheduling. After each scheduling decision the running and waiting requests
and their order, tokens scheduled, computed (so prefix hits) and put out, blocks held, preemptions and free blocks must
be equal. Scenario seeds are 0 … SCENARIOS − 1. Then faults planted in our step must all be found.
"""

from __future__ import annotations

import gc
import hashlib
import json
import multiprocessing
import traceback
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.common._harness import Figures, Options, Targets, main, target

if TYPE_CHECKING:
    from experiments.parity._lockstep import Recording

SCENARIOS, QUICK_SCENARIOS = 330, 24
REQUESTS, QUICK_REQUESTS = 800, 160
MUTANT_SEEDS = (*range(72), 1698, 1711)  # the last two show a rare one: a victim among those who had their tokens
MUTANT_REQUESTS, MUTANT_STEPS = 60, 300
PROCESSES = 2
KEPT = Path("build") / "lockstep"  # scenarios that are done, so that a run which was cut off goes on
COMPARED = ("async_scheduling", "arrays", "blocks", "cache", "queue", "step")


@dataclass(frozen=True, slots=True)
class Run:
    """What a scenario showed."""

    seed: int
    difference: str | None
    steps: int
    preemptions: int
    mean_running: float
    cached_tokens: int  # found in the prefix cache
    aborted: int
    ahead: bool


def folder_of(requests: int) -> Path:
    """Where finished scenarios are kept; another one as soon as either side or the comparison changes."""
    import vllm

    root = Path(__file__).resolve().parents[2]
    sources = [root / "kvhorizon/sim/engine" / f"{name}.py" for name in COMPARED]
    sources += [Path(__file__).with_name(f"_{name}.py") for name in ("lockstep", "our_side", "scenario", "vllm_side")]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    digest.update(f"vllm {vllm.__version__} {requests}".encode())
    return KEPT / digest.hexdigest()[:16]


def one(seed: int, requests: int, folder: Path | None) -> Run:
    """One scenario on both sides, or what `folder` keeps of it."""
    kept = folder / f"{seed}.json" if folder else None
    if kept and kept.exists():
        return Run(**json.loads(kept.read_text(encoding="utf-8")))
    run = compared(seed, requests)
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(asdict(run)), encoding="utf-8")
    return run


def compared(seed: int, requests: int) -> Run:
    """One scenario on both sides."""
    from experiments.parity._lockstep import difference, record
    from experiments.parity._our_side import OurSide
    from experiments.parity._scenario import draw

    gc.set_threshold(200_000, 50, 50)  # recordings are large and hold no cycles
    recording = record(draw(seed, requests))
    ours = OurSide.start(recording.scenario)
    return Run(
        seed=seed,
        difference=difference(recording, ours),
        steps=len(recording.steps),
        preemptions=recording.preemptions,
        mean_running=recording.mean_running,
        cached_tokens=ours.cached_tokens,
        aborted=recording.aborted,
        ahead=recording.scenario.engine.ahead,
    )


def short(seed: int) -> Recording:
    """A short scenario on vLLM's side, for mutants to be compared with."""
    from experiments.parity._lockstep import record
    from experiments.parity._scenario import draw

    return record(draw(seed, MUTANT_REQUESTS), MUTANT_STEPS)


def seen(name: str | None, recordings: list[Recording]) -> str | None:
    """How the mutant is first told from vLLM, or None; an exception counts where it arises in the mutant's code."""
    from experiments.parity._lockstep import difference
    from experiments.parity._mutants import ORIGIN, mutant
    from experiments.parity._our_side import OurSide

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
    from experiments.parity._mutants import MUTANTS

    recordings = list(pool.map(short, MUTANT_SEEDS))
    recordings.sort(key=lambda recording: sum(len(step.seen.running) for step in recording.steps))
    asked = {name or "nothing": pool.submit(seen, name, recordings) for name in (None, *MUTANTS)}
    return {name: future.result() for name, future in asked.items()}


def measure(options: Options) -> tuple[Figures, Targets]:
    """All scenarios on two processes, then the mutants."""
    scenarios = QUICK_SCENARIOS if options.quick else SCENARIOS
    requests = QUICK_REQUESTS if options.quick else REQUESTS
    folder = None if options.quick else folder_of(requests)
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        asked = [pool.submit(one, seed, requests, folder) for seed in range(scenarios)]
        runs = [future.result() for future in asked]
        found = mutants(pool)
    false_alarm = found.pop("nothing")
    steps = sum(run.steps for run in runs)
    differences = [asdict(run) for run in runs if run.difference]
    missed = [name for name, how in found.items() if how is None]
    figures = {
        "scenarios": len(runs),
        "requests_per_scenario": requests,
        "mean_running": sum(run.mean_running * run.steps for run in runs) / max(steps, 1),
        "steps_ahead": sum(run.steps for run in runs if run.ahead),
        "cached_tokens": sum(run.cached_tokens for run in runs),
        "aborted": sum(run.aborted for run in runs),
        "first_differences": differences[:5],
        "mutants": len(found),
        "missed": missed,
        "false_alarm": false_alarm,
    }
    return figures, {
        "differences": target(len(differences), "<=0"),
        "steps": target(steps, ">=1000000"),
        "preemptions": target(sum(run.preemptions for run in runs), ">=100000"),
        "mutants_missed": target(len(missed), "<=0"),
    }


if __name__ == "__main__":
    main("lockstep", 0, measure)
