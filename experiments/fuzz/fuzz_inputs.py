"""Does any input crash a reader? Mutated valid inputs to every parser; only InputError or a usable result will do.

A crash is any other exception (out of memory and out of time among them), a refusal that is not one line, an accepted
input whose result breaks what the rest relies on, and the end of the process. Each reader runs in a process of its own
with limited memory, so that the last is seen; a batch of inputs follows from its reader's name and its number alone.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import signal
import subprocess
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

from experiments.common._harness import Figures, Options, Targets, main, target
from kvhorizon.errors import InputError

SEED = 0
BATCH = 60_000
QUICK_SHARE = 0.01
MOST_MEMORY = 6 << 30  # bytes of address space
MOST_S = 5.0  # of the processor, for one input
KEPT = 20  # kinds of crashes that are described
ROOT = Path(__file__).resolve().parents[2]


def fuzz(name: str, batch: int, inputs: int) -> dict[str, Any]:
    """So many inputs to one reader, in this process."""
    from experiments.fuzz._fuzz_mutate import mutate
    from experiments.fuzz._fuzz_targets import TARGETS, one_line

    one, draw = TARGETS[name], random.Random(f"{SEED}/{name}/{batch}")
    known, found = one.seeds(), {"inputs": 0, "accepted": 0, "refused": 0, "crashes": 0}
    crashes: dict[str, dict[str, str]] = {}
    signal.signal(signal.SIGPROF, _too_long)
    for _ in range(inputs):
        data = mutate(draw, known)
        found["inputs"] += 1
        signal.setitimer(signal.ITIMER_PROF, MOST_S)
        try:
            try:
                one.read(data)
                found["accepted"] += 1
            except InputError as error:
                one_line(error)
                found["refused"] += 1
        except Exception as error:
            found["crashes"] += 1
            place, told = _told(error)
            crashes.setdefault(place, {"reader": name, "error": f"{place}: {told}", "input": repr(data[:120])})
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
    return {**found, "described": list(crashes.values())[:KEPT]}


def _too_long(number: int, frame: object) -> None:
    raise TimeoutError(f"longer than {MOST_S} s")


def _told(error: Exception) -> tuple[str, str]:
    """Its kind and place, and what it says."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno}", str(error)[:200]


def apart(name: str, batch: int, inputs: int) -> dict[str, Any]:
    """`fuzz` in a process of its own; its end is a crash."""
    command = [sys.executable, "-m", "experiments.fuzz_inputs", "--batch", name, str(batch), str(inputs)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    told = {"reader": name, "error": f"exit status {done.returncode}: {done.stderr[-300:]}", "input": f"batch {batch}"}
    return {"inputs": inputs, "accepted": 0, "refused": 0, "crashes": 1, "described": [told]}


def measure(options: Options) -> tuple[Figures, Targets]:
    """All readers, batch by batch."""
    from experiments.fuzz._fuzz_targets import TARGETS

    readers: dict[str, dict[str, float]] = {}
    described: list[dict[str, str]] = []
    for name, one in TARGETS.items():
        wanted = max(round(one.inputs * QUICK_SHARE), 20) if options.quick else one.inputs
        began = time.monotonic()
        total: dict[str, float] = {}
        for batch, first in enumerate(range(0, wanted, BATCH)):
            found = apart(name, batch, min(BATCH, wanted - first))
            described += found.pop("described")
            total = {key: total.get(key, 0) + value for key, value in found.items()}
        readers[name] = {**total, "seconds": time.monotonic() - began}
    figures = {"readers": readers, "described": described[:KEPT]}
    inputs, crashes = (sum(int(one[key]) for one in readers.values()) for key in ("inputs", "crashes"))
    return figures, {"inputs": target(inputs, ">=1000000"), "crashes": target(crashes, "<=0")}


def one_batch(arguments: list[str]) -> None:
    """`--batch READER NUMBER INPUTS`: what `apart` runs."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):
        found = fuzz(arguments[0], int(arguments[1]), int(arguments[2]))
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--batch"]:
        one_batch(sys.argv[2:])
    else:
        main("fuzz_inputs", SEED, measure)
