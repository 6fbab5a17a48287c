"""Does the simulated engine take as long as measured ones did?

Each run of `_measured_runs` is replayed from its first arrival to its last token, with coefficients fitted to the first
half of its time series (`_measured_fit`). Scored are the requests whose first token came in the second half, so that
nothing scored was fitted: errors of their mean TTFT, TPOT and e2e latency, TTFT's relative to the mean e2e, since
queueing amplifies it. `throughput_err`: of tokens (prompt and output) after the half, per second until the last one.
The targets take the worst run. `all_finished_later` scores the many requests that merely finish in the second half.
"""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from experiments.common._harness import Figures, Options, Targets, main, target
from experiments.parity._measured_fit import Fitted, fit
from experiments.parity._measured_runs import FCFS, MODELS, FloatArray, MeasuredRun, by_second, load, trajectory
from kvhorizon.sim.replay import replay

LIMIT = "<=0.06"


def latencies(run: MeasuredRun, first_s: FloatArray, last_s: FloatArray, of: NDArray[np.bool_]) -> dict[str, float]:
    """Means over the requests `of` (N,) [s]."""
    arrival_s, gaps = run.trace.arrival_s, np.maximum(run.trace.output_tokens - 1, 1)
    each = {"ttft": first_s - arrival_s, "tpot": (last_s - first_s) / gaps, "e2e": last_s - arrival_s}
    return {name: float(values[of].mean()) for name, values in each.items()}


def errors(simulated: dict[str, float], measured: dict[str, float]) -> dict[str, float]:
    """Of the means; TTFT's relative to e2e."""
    scale = measured | {"ttft": measured["e2e"]}
    return {f"{name}_mean_err": abs(simulated[name] - measured[name]) / scale[name] for name in measured}


def throughput(tokens: float, tokens_by_half: float, last_s: float, half_s: float) -> float:
    """Of the second half [tokens/s]."""
    return (tokens - tokens_by_half) / (last_s - half_s)


def throughputs(run: MeasuredRun, fitted: Fitted) -> dict[str, float]:
    """Of the second half, simulated and measured [tokens/s]."""
    steps = trajectory(run, fitted.cost(run), np.inf)
    tokens = float(run.trace.prompt_tokens.sum() + run.trace.output_tokens.sum())
    simulated_by_half = float(by_second(steps, np.array([float(run.half_s)])).sum())
    measured_by_half = float(run.prompt_tokens[run.half_s - 1] + run.output_tokens[run.half_s - 1])
    return {
        "simulated": throughput(tokens, simulated_by_half, float(steps[-1, 0]), run.half_s),
        "measured": throughput(tokens, measured_by_half, float(run.last_token_s.max()), run.half_s),
    }


def score(run: MeasuredRun, fitted: Fitted) -> dict[str, object]:
    """Simulated against measured, for one run."""
    outcome = replay(run.setup(fitted.cost(run)), FCFS)
    groups = {"scored": run.first_token_s > run.half_s, "all_finished_later": run.last_token_s > run.half_s}
    result: dict[str, object] = {"fitted": asdict(fitted.coefficients) | asdict(fitted.overhead)}
    for name, of in groups.items():
        simulated = latencies(run, outcome.first_token_s, outcome.finish_s, of)
        measured = latencies(run, run.first_token_s, run.last_token_s, of)
        result[name] = {
            "requests": int(of.sum()),
            "simulated_s": simulated,
            "measured_s": measured,
            "errors": errors(simulated, measured),
        }
    rate = throughputs(run, fitted)
    return result | {"throughput": rate, "throughput_err": abs(rate["simulated"] / rate["measured"] - 1.0)}


def measure(options: Options) -> tuple[Figures, Targets]:
    """Every run scored (quick: one); the worst error of each kind."""
    names = list(MODELS)[:1] if options.quick else list(MODELS)
    runs = [load(name) for name in names]
    figures = {run.shape.name: score(run, fit(run)) for run in runs}
    scored = [result["scored"]["errors"] for result in figures.values()]  # type: ignore[index]
    worst = {name: max(errors[name] for errors in scored) for name in scored[0]}
    worst["throughput_err"] = max(result["throughput_err"] for result in figures.values())  # type: ignore[type-var]
    return figures, {name: target(value, LIMIT) for name, value in worst.items()}


if __name__ == "__main__":
    main("measured_engines", 0, measure)
