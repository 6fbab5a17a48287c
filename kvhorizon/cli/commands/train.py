"""`kvhorizon train`: a learned forecast from a recording, if it beats the history on held-out time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvhorizon.errors import InputError
from kvhorizon.models.forecast.learned.learned import save_model
from kvhorizon.models.forecast.learned.train import train as fit
from kvhorizon.sim.workload.readers import read_trace
from kvhorizon.sim.workload.recorded import recorded


def train(
    recording: Annotated[Path, typer.Argument(help="A trace or recording: CSV, Azure, BurstGPT or Mooncake format.")],
    out: Annotated[Path, typer.Option(help="The model's file (JSON).")],
    seed: Annotated[int, typer.Option(help="Of the search for groups.")] = 0,
) -> None:
    """Fit a learned length forecast; refuses to write one that is no better than the history learned online."""
    model = fit(recorded(read_trace(recording)), seed)
    try:
        save_model(model, out)
    except OSError as error:
        raise InputError("out", str(out), f"must be a writable file ({error.strerror})") from None
    fitted, later = model.report["train_requests"], model.report["held_out_requests"]
    print(f"fitted to {fitted} requests, compared on {later} later ones")
    for name in ("history", "learned"):
        loss, covered = model.report[f"pinball_{name}"], model.report[f"coverage80_{name}"]
        print(f"{name:8} pinball loss {loss:8.2f} tokens   80 % band holds {covered:.1%}")
    print(f"wrote {out}")
