"""Fit the step-time coefficients, and write the table that ships: `python -m experiments.step_time_fit`.

Data: `calibration/aic_step_times.csv.gz` below KVHORIZON_DATA, step times summed from aiconfigurator's measured kernels
(vLLM backend). Points whose KV would not fit into the GPU cannot occur and are left out.
"""

from __future__ import annotations

import csv
from dataclasses import astuple, fields
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import least_squares

from experiments.common._harness import data
from kvhorizon.compiled.compiler import counting
from kvhorizon.models.performance.calibration import Coefficients
from kvhorizon.models.performance.gpu import Gpu, preset
from kvhorizon.models.performance.shape import ModelShape, builtin
from kvhorizon.models.performance.step_time import EngineOverhead, step_cost, step_seconds

GPU_PRESETS = {"a100_sxm": "a100-80gb", "h100_sxm": "h100-80gb", "h200_sxm": "h200", "l40s": "l40s-48gb"}
GRID = ["prefill_tokens", "prefill_ctx", "num_decode", "decode_ctx"]
NO_OVERHEAD = EngineOverhead(step_s=0.0, sequence_s=0.0)
START = Coefficients(1e-4, 1.2, 1.4, 1.4, 1.2, 5e-6, 1.8)
LOWER = Coefficients(0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0)  # nothing is faster than the hardware
UPPER = Coefficients(1e-2, 5.0, 8.0, 8.0, 8.0, 1e-2, 8.0)
UNIT = Coefficients(1e-4, 1.0, 1.0, 1.0, 1.0, 1e-5, 1.0)
TYPICAL_ERROR = 0.05  # beyond it a point counts less than squared


class Samples(NamedTuple):
    """Measured steps of one model on one GPU."""

    shape: ModelShape
    gpu: Gpu
    tp: int
    work: NDArray[np.float64]  # (N, 5) the arguments of `step_seconds`
    seconds: NDArray[np.float64]  # (N,)
    grid: NDArray[np.int64]  # (N, 4) the grid point: prefill tokens, their context, decodes, their context

    def subset(self, keep: NDArray[np.bool_]) -> Samples:
        return self._replace(work=self.work[keep], seconds=self.seconds[keep], grid=self.grid[keep])


def load() -> list[Samples]:
    """One record per model, GPU and TP."""
    frame = pd.read_csv(data() / "calibration" / "aic_step_times.csv.gz")
    frame = frame[frame.kv_fits == 1]
    groups = frame.groupby(["model", "gpu", "tp"])
    return [_samples(builtin(model), preset(GPU_PRESETS[gpu]), int(tp), rows) for (model, gpu, tp), rows in groups]


def _samples(shape: ModelShape, gpu: Gpu, tp: int, rows: pd.DataFrame) -> Samples:
    grid = rows[GRID].to_numpy(dtype=np.int64)
    prefill, start, decodes = (grid[:, i].astype(np.float64) for i in range(3))
    pairs = prefill * (start + 0.5 * (prefill + 1.0))
    work = np.column_stack([prefill, pairs, decodes, rows.kv_tokens.to_numpy(dtype=float), decodes + (prefill > 0)])
    return Samples(shape, gpu, tp, work, rows.ms.to_numpy(dtype=float) / 1e3, grid)


@counting
def _each_step(cost, work):  # type: ignore[no-untyped-def]
    seconds = np.empty(len(work))
    for i in range(len(work)):
        seconds[i] = step_seconds(cost, work[i, 0], work[i, 1], work[i, 2], work[i, 3], work[i, 4])
    return seconds


def predict(samples: Samples, coefficients: Coefficients) -> NDArray[np.float64]:
    """Kernel seconds (N,) of the samples' steps, without engine overhead."""
    cost = step_cost(samples.shape, samples.gpu, samples.tp, coefficients, NO_OVERHEAD)
    predicted: NDArray[np.float64] = _each_step(cost, samples.work)
    return predicted


def relative_error(samples: Samples, coefficients: Coefficients) -> NDArray[np.float64]:
    """(predicted − measured) / measured, (N,)."""
    return predict(samples, coefficients) / samples.seconds - 1.0


def fit(samples: Samples) -> Coefficients:
    """Least squares on the relative error, dampened for outliers (soft L1), within physical bounds."""
    best = least_squares(
        lambda x: relative_error(samples, Coefficients(*x)),
        astuple(START),
        bounds=(astuple(LOWER), astuple(UPPER)),
        x_scale=astuple(UNIT),
        loss="soft_l1",
        f_scale=TYPICAL_ERROR,
    )
    return Coefficients(*(float(f"{x:.4g}") if x > 1e-9 else 0.0 for x in best.x))


def main() -> None:
    """Fit all points of each model, GPU and TP; write the table."""
    path = Path(str(files("kvhorizon.models.performance"))) / "data" / "step_time.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["model", "family", "tp", "moe", *(f.name for f in fields(Coefficients)), "mape"])
        for s in load():
            c = fit(s)
            mape = np.abs(relative_error(s, c)).mean()
            table.writerow([s.shape.name, s.gpu.family, s.tp, int(s.shape.experts > 0), *astuple(c), f"{mape:.3f}"])


if __name__ == "__main__":
    main()
