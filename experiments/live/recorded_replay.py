"""Record a live engine, replay the recording: does what-if see what the engine did?

vLLM's own OpenAI server on a pool small enough to be KV-bound, with the plugin in observe mode, serves requests that
come LOAD times as fast as it serves them when all come at once. Its recording goes through what a user does with it,
`kvhorizon what-if`: the step time is fitted to the recording's first half, the whole is replayed as vLLM schedules it,
and the requests whose first token came in the second half are compared: errors of their mean time to first token and
per output token, relative to what was recorded, and of the number of their evictions. The worst of the seeds counts.
Needs `make engine`.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.common._harness import Figures, Options, Targets, main, target
from experiments.live.serving._live_load import asks, lost, send
from experiments.live.serving._live_model import write_model
from experiments.live.serving._live_server import LiveServer, Served
from kvhorizon.recording.read import Recording, read_recording
from kvhorizon.recording.schema import Row
from kvhorizon.recording.write import write_rows
from kvhorizon.whatif.question import Question, prepare

SEEDS, QUICK_SEEDS = (0, 1), (100,)  # what was tried while building used seeds from 100 on
REQUESTS, QUICK_REQUESTS = 600, 400
WARM = 20
LOAD = 2.0
BLOCKS, SEATS = 240, 128
LIMIT = "<=0.10"
RECORDED_S = 60.0  # until everything is in a file, at most


def serve(server: LiveServer, requests: int, seed: int, rate: float) -> tuple[float, int]:
    """One load; when it began (time of day), and how many requests were lost."""
    load, began_s = asks(requests, seed, rate), time.time()
    return began_s, lost(load, send(server.url, load))


def rows_since(folder: Path, began_s: float, requests: int) -> tuple[list[Row], Recording]:
    """What was recorded of the load, once all of it is there."""
    deadline_s = time.monotonic() + RECORDED_S
    while True:
        found = read_recording(folder) if any(folder.glob("*.parquet")) else None
        rows = [] if found is None else [row for row in found.rows() if row.arrival_s >= began_s]
        if found is not None and len(rows) >= requests:
            return rows, found
        if time.monotonic() > deadline_s:
            raise RuntimeError(f"{len(rows)} of {requests} requests were recorded within {RECORDED_S} s")
        time.sleep(1.0)


def replayed(rows: list[Row], recording: Recording, folder: Path) -> dict[str, Any]:
    """What what-if says of itself."""
    path = folder / "load.parquet"
    write_rows(path, rows, recording.facts)
    prepared = prepare(Question(str(path), policies=("fcfs",), prefix_caching=False))  # as the server
    if prepared.self_check is None:
        raise RuntimeError("what-if had nothing to compare itself with")
    return {**prepared.self_check._asdict(), "step_cost": prepared.engine.facts.cost._asdict()}


def measure(options: Options) -> tuple[Figures, Targets]:
    """Serve, record, replay, seed by seed."""
    requests, seeds = (QUICK_REQUESTS, QUICK_SEEDS) if options.quick else (REQUESTS, SEEDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recording = folder / "recording"
        settings = {"KVHORIZON_MODE": "observe", "KVHORIZON_LOCAL_ONLY": "true", "KVHORIZON_RECORD": str(recording)}
        served = Served(BLOCKS, SEATS, scheduler="ours", settings=settings)
        with LiveServer(served, write_model(), folder) as server:
            serve(server, WARM, 99, 50.0)
            began_s = time.monotonic()
            serve(server, requests, 98, 1e6)
            rate = LOAD * requests / (time.monotonic() - began_s)
            runs = []
            for seed in seeds:
                begin_s, missing = serve(server, requests, seed, rate)
                rows, whole = rows_since(recording, begin_s, requests)
                runs.append({"lost": missing, **replayed(rows, whole, folder)})
    figures = {"runs": runs, "arrivals_per_s": rate, "load_average": os.getloadavg()[0], "cores": os.cpu_count()}
    worst = {name: max(run["errors"][name] for run in runs) for name in runs[0]["errors"]}
    return figures, {
        "ttft_mean_err": target(worst["ttft_s"], LIMIT),
        "tpot_mean_err": target(worst["tpot_s"], LIMIT),
        "preemptions_err": target(worst["preemptions"], LIMIT),
    }


if __name__ == "__main__":
    main("recorded_replay", 0, measure)
