"""How well does the step-time model predict steps it was not fitted to?

Half of the grid points (batch compositions) are held out, the same for every model and GPU; the physical form is fitted
to the others. `transfer_mape` predicts a dense model with the median coefficients of the *other* dense models on the
GPU; `transfer_moe_mape` a mixture of experts with those of the *dense* models on the GPU, or of mixtures of experts on
the *other* GPUs.

The engine overhead is fitted to half of the vLLM runs (Qwen3-32B, H100, TP 2, 4, 8; steady, with long outputs) as
measured time per output token less the kernel sums, and tested on the other half. On the RTX PRO 6000, whose kernels
nothing summed, it is fitted together with the kernels' factors to the first half of each run, and tested on the
second (`_measured_fit`).
"""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from experiments.common._harness import Figures, Options, Targets, data, main, target
from experiments.parity._measured_fit import fit as fit_run
from experiments.parity._measured_runs import FCFS, MODELS
from experiments.parity._measured_runs import load as load_run
from experiments.parity.measured_engines import errors, latencies
from experiments.parity.step_time_fit import Samples, fit, load, relative_error
from kvhorizon.models.performance.calibration import Coefficients
from kvhorizon.sim.replay import replay

SEED = 20260101
STEADY_OUTPUT_TOKENS = 512  # shorter outputs are mostly prefill
STEADY_TTFT_MS = 5000.0  # beyond it requests queued


def measure(options: Options) -> tuple[Figures, Targets]:
    rng = np.random.default_rng(SEED)
    samples = load()
    test = held_out(samples, rng)
    fitted = [fit(s.subset(~out)) for s, out in zip(samples, test, strict=True)]
    errors = [np.abs(relative_error(s, c))[out] for s, c, out in zip(samples, fitted, test, strict=True)]
    each = {f"{s.shape.name}/{s.gpu.family}/tp{s.tp}": float(e.mean()) for s, e in zip(samples, errors, strict=True)}
    pooled = np.concatenate(errors)
    figures = {
        "heldout_steps": len(pooled),
        "heldout_p95": float(np.quantile(pooled, 0.95)),
        "heldout_mape_by_kind": by_kind(samples, errors, test),
        "heldout_mape_each": each,
        "transfer_mape": transfer_mape(samples, fitted, test),
        "transfer_moe_mape": transfer_moe_mape(samples, fitted, test),
        **engine_overhead(rng),
        "engine_measured": {name: measured_overhead(name) for name in list(MODELS)[: 1 if options.quick else None]},
    }
    targets = {
        "heldout_mape": target(float(pooled.mean()), "<=0.06"),
        "heldout_mape_worst": target(max(each.values()), "<=0.10"),
    }
    return figures, targets


def held_out(samples: list[Samples], rng: np.random.Generator) -> list[NDArray[np.bool_]]:
    """Per record, which of its samples (N,) lie on the half of the grid points drawn for the test."""
    points = sorted({tuple(point) for s in samples for point in s.grid.tolist()})
    drawn = {points[i] for i in rng.permutation(len(points))[: len(points) // 2]}
    return [np.array([tuple(point) in drawn for point in s.grid.tolist()]) for s in samples]


def by_kind(
    samples: list[Samples], errors: list[NDArray[np.float64]], test: list[NDArray[np.bool_]]
) -> dict[str, float]:
    error = np.concatenate(errors)
    prefill, decodes = np.concatenate([s.grid[out] for s, out in zip(samples, test, strict=True)])[:, [0, 2]].T > 0
    kinds = {"decode": ~prefill, "prefill": ~decodes, "mixed": prefill & decodes}
    return {kind: float(error[which].mean()) for kind, which in kinds.items()}


def transfer_mape(samples: list[Samples], fitted: list[Coefficients], test: list[NDArray[np.bool_]]) -> float:
    """Held-out error of dense models that borrow their coefficients."""
    errors = []
    for s, out in zip(samples, test, strict=True):
        others = [
            c
            for other, c in zip(samples, fitted, strict=True)
            if other.gpu == s.gpu and other.shape != s.shape and not other.shape.experts
        ]
        if others and not s.shape.experts:
            errors.append(np.abs(relative_error(s, median(others)))[out])
    return float(np.concatenate(errors).mean())


def transfer_moe_mape(
    samples: list[Samples], fitted: list[Coefficients], test: list[NDArray[np.bool_]]
) -> dict[str, dict[str, float]]:
    """Held-out error of mixtures of experts that borrow, per GPU."""
    found = {}
    for s, out in zip(samples, test, strict=True):
        if s.shape.experts:
            all_others = [(o, c) for o, c in zip(samples, fitted, strict=True) if o is not s]
            dense = median([c for o, c in all_others if o.gpu == s.gpu and not o.shape.experts])
            experts = median([c for o, c in all_others if o.gpu != s.gpu and o.shape.experts])
            found[s.gpu.family] = {
                "dense_here": float(np.abs(relative_error(s, dense))[out].mean()),
                "experts_elsewhere": float(np.abs(relative_error(s, experts))[out].mean()),
            }
    return found


def median(coefficients: list[Coefficients]) -> Coefficients:
    """One by one."""
    return Coefficients(*(float(np.median([getattr(c, f.name) for c in coefficients])) for f in fields(Coefficients)))


def engine_overhead(rng: np.random.Generator) -> dict[str, float]:
    """What the engine adds to its kernels, a + b · sequences [ms]; held-out error of TPOT with and without it."""
    runs = pd.read_csv(data() / "calibration" / "silicon_vllm_h100_h200.csv")
    steady = (runs.osl >= STEADY_OUTPUT_TOKENS) & (runs.ttft < STEADY_TTFT_MS)
    runs = runs[steady & (runs.model == "Qwen/Qwen3-32B") & (runs.isl.isin([1024, 4096]))]
    tpot, kernels, sequences = (runs[name].to_numpy(dtype=float) for name in ("tpot", "tpot_pred", "conc"))
    test = rng.permutation(len(runs)) < len(runs) // 2
    terms = np.column_stack([np.ones(len(runs)), sequences]) / tpot[:, None]  # (N, 2), for relative errors
    step_ms, sequence_ms = np.linalg.lstsq(terms[~test], ((tpot - kernels) / tpot)[~test])[0]
    corrected = kernels + step_ms + sequence_ms * sequences
    return {
        "engine_runs": len(runs),
        "engine_step_ms": float(step_ms),
        "engine_sequence_ms": float(sequence_ms),
        "engine_tpot_mape_kernels_only": float(np.abs(kernels / tpot - 1.0)[test].mean()),
        "engine_tpot_mape": float(np.abs(corrected / tpot - 1.0)[test].mean()),
    }


def measured_overhead(name: str) -> dict[str, float]:
    """The same of a measured run [ms], and the error of mean TPOT over the requests of its second half."""
    run = load_run(name)
    fitted = fit_run(run)
    outcome = replay(run.setup(fitted.cost(run)), FCFS)
    scored = run.first_token_s > run.half_s
    simulated = latencies(run, outcome.first_token_s, outcome.finish_s, scored)
    measured = latencies(run, run.first_token_s, run.last_token_s, scored)
    return {
        "step_ms": 1e3 * fitted.overhead.step_s,
        "sequence_ms": 1e3 * fitted.overhead.sequence_s,
        "tpot_mean_err": errors(simulated, measured)["tpot_mean_err"],
    }


if __name__ == "__main__":
    main("step_time", SEED, measure)
