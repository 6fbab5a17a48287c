"""What the plugin costs vLLM's scheduler: 256 running and 1 000 waiting requests, a live session with a solver child;
prefix caching on, and half of the requests on one prompt.

Two engines with the same requests take turns of STEPS steps: vLLM's own, and ours. A step is `schedule` and
`update_from_output`; between them the model works, here a sleep of MODEL_S in which the engine's thread holds no
lock, as where a GPU is busy. Hooks are timed under control on a pool that is KV-bound, by the time spent in our
methods outside vLLM's. Whole steps are compared in advise mode: the plugin decides and plans as under control, and the
engine does the same as vLLM's own, so that the steps compare; what presenting the queue costs shows in the hooks only.
As in vLLM's engine core, what exists once the engines do is frozen for the garbage collector. Two engines of one
process differ by some percent by themselves, and by which was there first: the turns are those of STARTS such twos, of
which each is the first in every second. Needs vLLM (0.32).
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from vllm.utils.gc_utils import freeze_gc_heap

from experiments.common._harness import Options, main, target
from experiments.engine._plugin_driver import Drive, Shared, drive, workload
from experiments.engine._plugin_engine import Setup

Reals = NDArray[np.float64]

SEED = 0
RUNNING, WAITING = 256, 1000
MODEL_S = 0.01
STEPS = 10  # of one turn: the machine changes its speed within seconds
TURNS, QUICK_TURNS = 96, 24  # in which hooks are timed
STARTS, QUICK_STARTS = 6, 2
PAIRS = 24  # of turns, in each start
WARM_STEPS = 60
HOOKS = ("before_schedule", "restore", "after_schedule", "added", "preempted", "released")
ACCOUNTS = ("account_preempting", "account_scheduled", "account_release")


def setup(mode: str | None, blocks: int = 13_000, seats: int = RUNNING, local: bool = False) -> Setup:
    """Plain vLLM, or ours in `mode`."""
    settings = {"mode": mode, "local_only": local}
    return Setup(
        blocks=blocks,
        seats=seats,
        batched=8192,
        caching=True,
        step_s=None,
        plugin=mode is not None,
        settings=settings if mode else {},
    )


def requests(count: int, seed: int) -> list[Any]:
    """Prompts of 300 … 700 tokens, outputs of 400 … 800; every second prompt begins with the same 256 tokens."""
    return workload(count, seed, prompt=(300, 700), output=(400, 800), caching=True, shared=Shared(256, every=2))


class Clocked:
    """Adds up the time in the plugin's methods, step by step.

    To read the thread's clock takes microseconds by itself: that lies outside what the wall's clock measures.
    """

    def __init__(self, plugin: Any) -> None:
        self.step_s = self.step_cpu_s = 0.0
        self.steps: list[float] = []
        self.cpu: list[float] = []
        self.by_hook: Counter[str] = Counter()  # CPU seconds
        for name in (*HOOKS, *ACCOUNTS):
            setattr(plugin, name, self._timed(name, getattr(plugin, name)))

    def _timed(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            begin_cpu_s = time.thread_time()
            begin_s = time.perf_counter()
            try:
                return method(*args)
            finally:
                self.step_s += time.perf_counter() - begin_s
                spent_s = time.thread_time() - begin_cpu_s
                self.step_cpu_s += spent_s
                self.by_hook[name] += spent_s

        return timed

    def next_step(self) -> None:
        """A step is over."""
        self.steps.append(self.step_s)
        self.cpu.append(self.step_cpu_s)
        self.step_s = self.step_cpu_s = 0.0


class Load:
    """Keeps WAITING requests waiting, so that each step sees the same pressure."""

    def __init__(self, engine: Drive, seed: int) -> None:
        self.engine = engine
        self._spare = requests(RUNNING + 6 * WAITING, seed)[::-1]
        self._fill(RUNNING + WAITING)

    def _fill(self, count: int) -> None:
        for _ in range(count):
            self.engine.scheduler.add_request(self._spare.pop())

    def top_up(self) -> None:
        """As many more as are missing."""
        running, waiting = self.engine.scheduler.get_request_counts()
        self._fill(max(WAITING - waiting, 0) if running else 0)


def turn(engine: Drive, load: Load, steps: int, each: Callable[[], None] | None = None) -> list[float]:
    """Seconds of `schedule` and `update_from_output` of each step."""
    found = []
    for _ in range(steps):
        load.top_up()
        begin_s = time.perf_counter()
        output = engine.schedule()
        middle_s = time.perf_counter()
        time.sleep(MODEL_S)
        resumed_s = time.perf_counter()
        engine.finish(output)
        found.append(middle_s - begin_s + time.perf_counter() - resumed_s)
        if each is not None:
            each()
    return found


def start(config: Setup, seed: int) -> tuple[Drive, Load]:
    """An engine in the middle of its work; with a session, once plans come."""
    engine = drive(config)
    load = Load(engine, seed)
    freeze_gc_heap()
    plugin = getattr(engine.scheduler, "kvhorizon", None)
    waits = plugin is not None and plugin.session.solver is not None
    deadline_s = time.monotonic() + 180.0
    turn(engine, load, WARM_STEPS)
    while waits and plugin.session.newest is None and time.monotonic() < deadline_s:
        turn(engine, load, 1)
    if waits and plugin.session.newest is None:
        raise RuntimeError("no plan came")
    return engine, load


def hooks(options: Options) -> dict[str, Any]:
    """Microseconds in our methods per step, under control."""
    engine, load = start(setup("control", seats=2 * RUNNING), SEED)
    clocked = Clocked(engine.scheduler.kvhorizon)
    turn(engine, load, STEPS * (QUICK_TURNS if options.quick else TURNS), clocked.next_step)
    plugin = engine.scheduler.kvhorizon
    spent, cpu = np.array(clocked.steps) * 1e6, np.array(clocked.cpu) * 1e6
    running, waiting = engine.scheduler.get_request_counts()
    figures = {
        "hook_p50_us": float(np.median(spent)),
        "hook_p99_us": float(np.quantile(spent, 0.99)),
        "hook_max_us": float(spent.max()),
        "hook_cpu_p50_us": float(np.median(cpu)),
        "hook_cpu_p99_us": float(np.quantile(cpu, 0.99)),
        "mean_cpu_us_by_hook": {name: 1e6 * spent / len(cpu) for name, spent in clocked.by_hook.items()},
        "running": running,
        "waiting": waiting,
        "plans": plugin.plans.counts.total(),
        "preemptions": plugin.accounting.total.preemptions,
        "plugin_errors": plugin.guard.total + plugin.account_guard.total,
        "ladder": dict(plugin.ladder),
    }
    engine.scheduler.shutdown()
    return figures


def compare(mode: str, starts: int, local: bool) -> dict[str, Any]:
    """Ratios of ours in `mode` to vLLM's own, of the same steps, in interleaved turns of `starts` times two engines."""
    found = [_pairs(mode, local, first) for first in (0, 1) * (starts // 2)]
    plain, ours = (np.concatenate([times[side] for times, _, _ in found]) for side in (0, 1))
    cpu = np.concatenate([cpu for _, cpu, _ in found], axis=1)
    of_pairs = np.median(ours, axis=1) / np.median(plain, axis=1)
    p99s = [np.quantile(times[1], 0.99) / np.quantile(times[0], 0.99) for times, _, _ in found]
    return {
        "p50": float(np.median(of_pairs)),
        "p50_by_start": [float(np.median(of_start)) for of_start in np.split(of_pairs, starts)],
        "p99": float(np.median(p99s)),
        "p99_by_start": [float(ratio) for ratio in p99s],
        "mean": float(np.median(ours.mean(axis=1) / plain.mean(axis=1))),
        "round": float(np.median((ours.mean(axis=1) + MODEL_S) / (plain.mean(axis=1) + MODEL_S))),
        "cpu": float(np.median(cpu[1] / cpu[0])),
        "plain_p50_us": float(np.median(plain) * 1e6),
        "plain_p99_us": float(np.quantile(plain, 0.99) * 1e6),
        "same_steps": all(same for _, _, same in found),
    }


def _pairs(mode: str, local: bool, first: int) -> tuple[Reals, Reals, bool]:
    """Of vLLM's own engine and ours, of which `first` starts first: seconds of (2, PAIRS, STEPS) steps, CPU seconds of
    (2, PAIRS) turns, and whether both did the same."""
    sides = setup(None), setup(mode, local=local)
    started = {side: start(sides[side], SEED) for side in (first, 1 - first)}
    both = [started[0], started[1]]
    _align(both)
    times, cpu = np.zeros((2, PAIRS, STEPS)), np.zeros((2, PAIRS))
    for pair in range(PAIRS):
        gc.collect()
        for side in (0, 1) if pair % 2 == 0 else (1, 0):
            begin_cpu_s = time.thread_time()
            times[side, pair] = turn(*both[side], STEPS)
            cpu[side, pair] = time.thread_time() - begin_cpu_s
    same = both[0][0].steps[-STEPS:] == both[1][0].steps[-STEPS:]
    for engine, _ in both:
        engine.scheduler.shutdown()
    gc.unfreeze()
    return times, cpu, same


def _align(both: list[tuple[Drive, Load]]) -> None:
    """The engine that is behind catches up, so that turns compare like with like."""
    most = max(len(engine.steps) for engine, _ in both)
    for engine, load in both:
        turn(engine, load, most - len(engine.steps))


def measure(options: Options) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Hooks, then whole steps, then observation."""
    starts = QUICK_STARTS if options.quick else STARTS
    hook = hooks(options)
    live = compare("advise", starts, local=False)
    observe = compare("observe", starts, local=True)
    figures = {
        "hooks": hook,
        "advise": live,
        "observe": observe,
        "model_s": MODEL_S,
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "pairs": starts * PAIRS,
        "steps_per_turn": STEPS,
    }
    targets = {
        "hook_p50_us": target(hook["hook_p50_us"], "<=100"),
        "hook_p99_us": target(hook["hook_p99_us"], "<=500"),
        "step_p50_ratio": target(live["p50"], "<=1.03"),
        "step_p99_ratio": target(live["p99"], "<=1.10"),
        "observe_throughput_ratio": target(1.0 / observe["round"], ">=0.99"),
    }
    return figures, targets


if __name__ == "__main__":
    main("bench_adapter", SEED, measure)
