"""How fast what-if is as a whole, how much memory a million requests take, and what Ray costs over a pool.

*Speed.* One what-if over every compiled policy (those that ask no solver), hindsight bound and summaries among it, at
two seeds in two processes: requests × policies / second. Processor seconds of the two processes count, half of their
sum being the time on two cores of their own; the wall clock is told beside it. *Memory.* A file of a million requests,
from reading to the written report, under the compiled ones of the default policies: the peak of resident memory.
*Ray.* The same questions by two warm workers on a cluster of two nodes and by a warm pool of two processes, in turns,
the best of several rounds; results must be equal but for their timing. Needs Ray beside kvhorizon, else it is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from experiments.common._harness import Figures, Options, Targets, main, target
from kvhorizon.sim.policies.baselines.named import BASELINES
from kvhorizon.sim.policies.registry import DEFAULT_POLICIES, parse_policy
from kvhorizon.sim.workload.readers import write_trace
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.whatif.executors import Run, executor
from kvhorizon.whatif.many import answer
from kvhorizon.whatif.question import Question, prepare, what_if

SEED = 0
OURS = ("fcfs", "fcfs:free-recompute", "priority", "watermark:0.02")
GREEDY = ("kvhorizon:greedy", "kvhorizon:greedy/means", "kvhorizon:greedy/strict", "kvhorizon:edge-only")
NEED_A_PART = {"victims": "victims:thrifty", "admission": "admission:reserve"}
COMPILED = (*OURS, *GREEDY, *(NEED_A_PART.get(name, name) for name in BASELINES))
ASKED = Question("synthetic:chat", gpu="a100-40gb", load=0.95, prefix_caching=False)
REQUESTS, QUICK_REQUESTS = 100_000, 2_000
MANY, QUICK_MANY = 1_000_000, 20_000
RAY_QUESTIONS, RAY_REQUESTS, QUICK_RAY_REQUESTS = 8, 20_000, 1_000
ROUNDS, QUICK_ROUNDS = 5, 1
PROCESSES = 2
WORK = 100


def timed(requests: int, seed: int) -> dict[str, Any]:
    """Processor seconds of one what-if over all compiled policies, after a small one that loads the compiled code."""
    small = dataclasses.replace(ASKED, limit=200, seed=seed, policies=COMPILED)
    what_if(prepare(small), {})
    prepared = prepare(dataclasses.replace(small, limit=requests))
    began_s, began_wall_s = time.process_time(), time.perf_counter()
    results = what_if(prepared, {}).results
    spent = {"cpu_s": time.process_time() - began_s, "wall_s": time.perf_counter() - began_wall_s}
    return {**spent, "timing": results["timing"]}


def speed(requests: int) -> dict[str, Any]:
    """Requests × policies per second on two cores."""
    with ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool:
        runs = list(pool.map(timed, [requests] * PROCESSES, range(PROCESSES)))
    replays = requests * len(COMPILED) * PROCESSES
    slowest = max(COMPILED, key=lambda name: runs[0]["timing"][name])
    return {
        "policies": len(COMPILED),
        "requests_per_question": requests,
        "per_s": replays / (sum(run["cpu_s"] for run in runs) / PROCESSES),
        "per_s_by_the_wall": replays / max(run["wall_s"] for run in runs),
        "each_per_s_one_core_by_the_wall": {
            name: requests / min(run["timing"][name] for run in runs) for name in COMPILED
        },
        "slowest": slowest,
    }


def big(path: str) -> dict[str, float]:
    """What the whole command does with a file, and the peak of memory."""
    from kvhorizon.report.page import render

    compiled = tuple(name for name in DEFAULT_POLICIES if parse_policy(name).planner is None)
    found = what_if(prepare(dataclasses.replace(ASKED, trace=path, policies=compiled)), {})
    page = render(found, "kvhorizon what-if")
    (Path(path).parent / "report.html").write_text(page, encoding="utf-8")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
    return {"requests": len(found.trace), "peak_bytes": peak, "page_bytes": float(len(page))}


def memory(requests: int) -> dict[str, float]:
    """`big` on a file of so many requests, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.csv.gz"
        write_trace(synthesize("chat", requests, SEED), path)
        command = [sys.executable, "-m", "experiments.bench_whatif", "--big", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """The address of a Ray cluster of two nodes with a worker each, on this machine.

    Raises RuntimeError where Ray's own nodes do not come up in the time that it gives them.
    """
    niceness = str(os.nice(0))  # as the pool's; Ray's own choice is 15
    os.environ.update({"RAY_worker_niceness": niceness, "RAY_gcs_server_port_wait_time_s": "120"})
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    nodes = Cluster()
    try:
        try:
            for _ in range(2):
                nodes.add_node(**node)
        except Exception as error:  # Ray has no narrower one for a node that is late
            raise RuntimeError(f"Ray did not start: {error}") from error
        yield nodes.address
    finally:
        nodes.shutdown()


def ray_beside_pool(requests: int, rounds: int) -> dict[str, Any]:
    """The same questions by both in turns, each warm."""
    questions = [
        dataclasses.replace(ASKED, limit=requests, seed=seed, policies=DEFAULT_POLICIES[:2])
        for seed in range(RAY_QUESTIONS)
    ]
    seconds: dict[str, list[float]] = {"pool": [], "ray": []}
    answers: dict[str, list[dict[str, Any]]] = {}
    with contextlib.ExitStack() as stack:
        run_by: dict[str, Run] = {
            "pool": stack.enter_context(executor("processes", PROCESSES)),
            "ray": stack.enter_context(executor(f"ray:{stack.enter_context(cluster())}", PROCESSES)),
        }
        for number in range(rounds + 1):
            for name, run in run_by.items():
                began_s = time.perf_counter()
                answers[name] = _in_order(run(answer, questions, WORK))
                if number:  # the first is for warming up
                    seconds[name].append(time.perf_counter() - began_s)
    same = [plain(one) for one in answers["pool"]] == [plain(one) for one in answers["ray"]]
    return {
        "seconds": seconds,
        "ray_over_pool": min(seconds["pool"]) / min(seconds["ray"]),
        "identical": int(same),
        "version": importlib.import_module("ray").__version__,
    }


def _in_order(found: Iterator[tuple[int, dict[str, Any]]]) -> list[dict[str, Any]]:
    return [results for _, results in sorted(found, key=lambda one: one[0])]


def plain(results: dict[str, Any]) -> str:
    """Results as bytes would be written, without what a clock said."""
    return json.dumps({key: value for key, value in results.items() if key != "timing"})


def measure(options: Options) -> tuple[Figures, Targets]:
    """Speed, memory, Ray."""
    fast = speed(QUICK_REQUESTS if options.quick else REQUESTS)
    large = memory(QUICK_MANY if options.quick else MANY)
    figures: dict[str, Any] = {"speed": fast, "memory": large}
    targets = {
        "requests_per_s_all_compiled_policies": target(fast["per_s"], ">=60000"),
        "peak_gib": target(large["peak_bytes"] / 2**30, "<=4"),
    }
    if importlib.util.find_spec("ray") is None:
        print("bench_whatif: Ray is not installed here; its figures are LEFT OUT", file=sys.stderr)
        return figures, targets
    beside = ray_beside_pool(
        QUICK_RAY_REQUESTS if options.quick else RAY_REQUESTS, QUICK_ROUNDS if options.quick else ROUNDS
    )
    figures["ray"] = beside
    targets["ray_over_pool"] = target(beside["ray_over_pool"], ">=0.85")
    targets["ray_identical"] = target(beside["identical"], ">=1")
    return figures, targets


if __name__ == "__main__":
    if sys.argv[1:2] == ["--big"]:
        print(json.dumps(big(sys.argv[2])))
    else:
        main("bench_whatif", SEED, measure)
