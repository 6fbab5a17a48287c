"""A real vLLM engine behind its OpenAI server, on a pool small enough to be KV-bound: plain, watermark, ours.

Pool by pool, four servers are up; one is under load at a time, and the contenders take turns, seed by seed, in an order
that rotates (`_live_rounds`). Requests arrive twice as fast as plain vLLM served them when all came at once, its end
included, when the engine runs dry: with few requests that is too slow to fill the pool. A reference run with few
requests at a time, in which no request is ever evicted, says which tokens are right. Counts and busy time come from a
probe in the engine (`_live_probe`), times from the clients. The same arrivals then go through the simulator, on an
engine whose step time is fitted to plain vLLM's steps of the same run.

Other work on the machine disturbs times, not counts, and two processes of one program differ by some percent: ratios of
times are medians over the seeds, and the servers are started anew among them. `engine_s` is the time of all steps as
the engine's thread saw it, without waits for a processor; `cpu_s` the processor time of server, engine and solver;
`work_s` the time that its steps would take by their tokens, sequences and KV read alone, priced as plain vLLM's steps
took it: nothing but scheduling moves that. What is served is settled by the machine (`_live_site`). Needs `make
engine`, or vLLM on a GPU.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from experiments.common._harness import Options, main, target
from experiments.live.serving._live_load import SIGMA
from experiments.live.serving._live_measure import Row, fit_cost, simulated, work_s
from experiments.live.serving._live_rounds import Run, contenders, run_rounds
from experiments.live.serving._live_server import Served
from experiments.live.serving._live_site import Site, site

QUICK: dict[str, Any] = {"requests": 400, "starts": 1, "rounds": 1}
SIMULATED = {
    "plain": "fcfs",
    "watermark": "watermark:0.02",
    "greedy": "kvhorizon:greedy",
    "program": "kvhorizon",
}


def measure(options: Options, here: Site) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Pool by pool; targets of all pools but the first have its blocks in their names."""
    if options.quick:
        here = here._replace(**QUICK, pools=here.pools[:1])
    model = here.write()
    figures: dict[str, Any] = {"sigma": SIGMA, "cores": os.cpu_count()}
    targets: dict[str, Any] = {}
    for blocks in here.pools:
        served = replace(here.served, blocks=blocks)
        figures[f"{blocks}_blocks"] = found = _evaluate(run_rounds(served, model, here), served, here)
        found["load_average"] = os.getloadavg()[0]
        after = "" if blocks == here.pools[0] else f"_{blocks}"
        targets |= {name + after: value for name, value in _targets(found).items()}
    return figures, targets


def _evaluate(run: Run, served: Served, here: Site) -> dict[str, Any]:
    rounds, servers = run.rounds, contenders(served)
    cost = fit_cost(run.plain_steps, here.config)
    for row in (one[name] for one in rounds for name in SIMULATED):
        row["work_s"] = work_s(row.pop("work"), cost)
    beside = [
        {name: simulated(load, servers[name], cost, policy, seed) for name, policy in SIMULATED.items()}
        for seed, load in enumerate(run.loads)
    ]
    tokens = {name: _sum([one["tokens"][name] for one in rounds]) for name in SIMULATED} if here.real_weights else None
    return {
        "requests_per_round": here.requests,
        "rounds": len(rounds),
        "starts": here.starts,
        "arrivals_per_s": run.arrivals_per_s,
        "engine": {name: _together([one[name] for one in rounds]) for name in SIMULATED},
        "simulated": {name: _together([one[name] for one in beside]) for name in SIMULATED},
        "program_to_plain": _ratios(rounds, "program"),
        "greedy_to_plain": _ratios(rounds, "greedy"),
        "watermark_to_plain": _ratios(rounds, "watermark"),
        "simulated_program_to_plain": _ratios(beside, "program"),
        "step_cost": cost._asdict(),
        "tokens": tokens,
        "each_round": rounds,
    }


def _targets(found: Mapping[str, Any]) -> dict[str, Any]:
    program, tokens = found["program_to_plain"], found["tokens"]
    targets = {
        "preemption_ratio": target(program["preemptions"], "<=0.15"),
        "recompute_tokens_ratio": target(program["recompute_tokens"], "<=0.35"),
        "throughput_ratio": target(program["throughput_tok_s"], ">=0.98"),
    }
    if tokens is not None:
        worst = max(tokens[name]["beyond_near_ties"] for name in ("greedy", "program"))
        targets["token_mismatches"] = target(worst, "<=0")
    return targets


def _together(rows: Sequence[Row]) -> Row:
    """Sums of counts and means of the rest, over the rounds."""
    found: Row = {}
    for key, value in rows[0].items():
        values = [row[key] for row in rows]
        if isinstance(value, dict):
            whole = [{**dict.fromkeys(sorted({name for one in values for name in one}), 0), **one} for one in values]
            found[key] = _sum(whole) if key in ("ladder", "plans") else _together(whole)
        else:
            found[key] = sum(values) if isinstance(value, int) else statistics.fmean(values)
    return found


def _sum(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: sum(row.get(key, 0) for row in rows) for key in rows[0]}


def _ratios(rounds: Sequence[Mapping[str, Any]], name: str) -> dict[str, float]:
    """To plain vLLM of the same round: counts by their sums, times by the median of the rounds' ratios."""
    counts = ("preemptions", "recompute_tokens", "wasted_flops")
    found = {
        key: sum(one[name][key] for one in rounds) / max(sum(one["plain"][key] for one in rounds), 1) for key in counts
    }

    def median(*path: str) -> float:
        values = []
        for one in rounds:
            ours, theirs = one[name], one["plain"]
            for key in path:
                ours, theirs = ours[key], theirs[key]
            values.append(ours / theirs)
        return statistics.median(values)

    for key in ("throughput_tok_s", "makespan_s"):
        found[key] = median(key)
    for key in ("ttft_s", "tpot_s", "e2e_s"):
        found |= {f"{key}_{part}": median(key, part) for part in ("mean", "p99")}
    found |= {key: median(key) for key in ("engine_s", "cpu_s", "work_s") if key in rounds[0][name]}
    return found


if __name__ == "__main__":
    here = site()
    main("real_engine", 0, lambda options: measure(options, here), here.suffix)
