"""What a measured run says about its engine: five coefficients of step time, fitted to half of its time series.

The simulated run is to show, second by second, as many prompt and output tokens as were measured. Coefficients are
multiples of those expected: kernel factors of the nearest GPU measured by aiconfigurator, the engine overhead of vLLM
on H100. Least squares weigh a deviation of 1 % of the half's tokens like one of SPREAD (log) from what was expected;
this prior matters where the half says little, as about small batches. Prefill attention and the sharpness of the
roofline hardly show in these runs and stay as expected. Where replicas step together, one that prefills holds up the
others, so a prompt token is expected to take as long as on one GPU. Several GPUs talk over PCIe, twice per layer, which
the kernel factors, of one GPU, do not hold.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares

from experiments.parity._measured_runs import GPU, FloatArray, MeasuredRun, by_second, trajectory
from kvhorizon.models.performance.calibration import Coefficients, calibrated
from kvhorizon.models.performance.step_time import EngineOverhead, step_cost
from kvhorizon.state import StepCost

NAMES = ("weights", "linear", "kv", "step_s", "sequence_s")
# Spread of the logarithm. Weights and KV: of the shipped table, between models on one GPU; linear layers: more, since
# they stand for the interconnect too; overhead: its order of magnitude.
SPREAD = np.array([0.07, 0.5, 0.12, 1.0, 1.0])
COLLECTIVE_S = 2e-5  # a small all-reduce over PCIe: assumed, twice the 10 us with NVLink (NVIDIA/nccl-tests issue 123)
SHARE = 0.01  # of the half's tokens
STEP = 0.1  # of finite differences, in spreads: large enough that single steps of the engine do not show
TOLERANCE = 1e-3
TRIALS = 12  # it settles within them, but for the ripples that single steps leave
HORIZON_S = 5.0  # simulated beyond the half, so that its last step is complete


class Fitted(NamedTuple):
    """An engine as its run shows it."""

    coefficients: Coefficients
    overhead: EngineOverhead

    def cost(self, run: MeasuredRun) -> StepCost:
        return step_cost(run.shape, GPU, run.gpus, self.coefficients, self.overhead)


def expected(run: MeasuredRun) -> Fitted:
    """Before anything was measured."""
    kernels = calibrated(run.shape, GPU, run.gpus)
    overhead = EngineOverhead()
    talk_s = 2 * run.shape.layers * COLLECTIVE_S if run.gpus > 1 else 0.0
    return Fitted(
        replace(kernels, linear=kernels.linear * run.replicas),
        replace(overhead, step_s=overhead.step_s + talk_s),
    )


def scaled(prior: Fitted, z: FloatArray) -> Fitted:
    """The engine that deviates from `prior` by z spreads, (5,)."""
    weights, linear, kv, step, sequence = np.exp(SPREAD * z).tolist()
    c, overhead = prior
    return Fitted(
        replace(c, weights=c.weights * weights, linear=c.linear * linear, kv=c.kv * kv),
        EngineOverhead(overhead.step_s * step, overhead.sequence_s * sequence),
    )


def fit(run: MeasuredRun) -> Fitted:
    """From the first `half_s` seconds of the time series, and the requests that arrive; reads no other measured time.

    No kernel gets faster than the hardware (factor 1).
    """
    prior = expected(run)
    seconds = np.arange(1.0, run.half_s + 1.0)
    measured = np.column_stack([run.prompt_tokens, run.output_tokens])[: run.half_s]

    def residuals(z: FloatArray) -> FloatArray:
        steps = trajectory(run, scaled(prior, z).cost(run), run.half_s + HORIZON_S)
        return np.concatenate([((by_second(steps, seconds) - measured) / (SHARE * measured[-1])).ravel(), z])

    def slopes(z: FloatArray) -> FloatArray:
        steps = STEP * np.eye(len(z))
        return np.column_stack([(residuals(z + step) - residuals(z - step)) / (2 * STEP) for step in steps])

    c = prior.coefficients
    lowest = np.full(len(NAMES), -np.inf)
    lowest[:3] = -np.log([c.weights, c.linear, c.kv]) / SPREAD[:3] - 1e-9
    start, limits = np.zeros(len(NAMES)), (lowest, np.inf)
    best = least_squares(residuals, start, jac=slopes, bounds=limits, xtol=TOLERANCE, ftol=TOLERANCE, max_nfev=TRIALS)
    return scaled(prior, best.x)
