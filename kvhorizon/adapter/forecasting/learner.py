"""The thread that learns: it takes in what the step has noted, looks at what runs, and keeps the state file.

The step pokes it on the plugin's own clock and waits for nothing. It learns in every mode but off, whoever decides.
"""

from __future__ import annotations

import atexit
import logging
import re
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.engine_facts import data_parallel_rank
from kvhorizon.adapter.forecasting.finished import Ended
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.forecasting.peaks import GAP_LOOKS, LEAST_REQUESTS
from kvhorizon.adapter.forecasting.running import Running
from kvhorizon.errors import in_a_line

logger = logging.getLogger(__name__)

LEARN_S = 0.25
WATCH_S = 0.25
SAVE_S = 60.0


class Learner:
    """Of one engine. `state` is a folder that survives restarts; None keeps nothing. `steps` counts the engine's."""

    def __init__(
        self,
        forecaster: Forecaster,
        engine: Engine,
        rows: Rows,
        state: Path | None = None,
        steps: Callable[[], int] = lambda: 0,
    ) -> None:
        self.errors = 0
        self._forecaster, self._engine, self._rows, self._state = forecaster, engine, rows, state
        self._steps = steps
        self.due_s = self._watch_s = self._save_s = 0.0
        self._now_s = 0.0
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        if state is not None:
            self._restore(state)

    def poke(self, now_s: float) -> None:
        """The step's side: a wake-up when it is time."""
        if now_s < self.due_s:
            return
        self.due_s, self._now_s = now_s + LEARN_S, now_s
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="kvhorizon-learning", daemon=True)
            self._thread.start()
            atexit.register(self.stop)
        self._wake.set()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread and save the state. Stopping twice is fine."""
        atexit.unregister(self.stop)
        self._stopping.set()
        self._wake.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(timeout_s)
            self.once(self._now_s)
            self._save()

    def once(self, now_s: float) -> None:
        """Learn, and look and save when it is time; never raises."""
        try:
            if now_s >= self._watch_s:
                self._watch_s = now_s + WATCH_S
                self._forecaster.learn()
                self._forecaster.watch(running_now(self._engine, self._rows, self._steps()))
            else:
                self._forecaster.learn()
            if now_s >= self._save_s:
                first, self._save_s = self._save_s == 0.0, now_s + SAVE_S
                if not first:
                    self._save()
        except Exception:
            self.errors += 1
            if self.errors == 1:
                logger.exception("kvhorizon failed to learn once")

    def _run(self) -> None:
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._stopping.is_set():
                return
            self.once(self._now_s)

    def _restore(self, state: Path) -> None:
        try:
            self._forecaster.restore(state)
        except Exception as error:  # whatever has become of the files
            logger.warning("kvhorizon begins without what it had learned: %s", in_a_line(error))

    def _save(self) -> None:
        if self._state is None:
            return
        try:
            self._forecaster.save(self._state)
        except Exception as error:  # a full disk, a folder that is another user's
            self.errors += 1
            if self.errors == 1:
                logger.warning("kvhorizon cannot keep what it learned: %s", in_a_line(error))


def running_now(engine: Engine, rows: Rows, steps: int = 0) -> Running:
    """What the engine runs after so many `steps`, read beside its thread: a request that ends meanwhile is left out."""
    found = []
    for request in list(engine.scheduler.running):
        slot = rows.slot_of.get(request.request_id)
        if slot is not None:
            found.append((slot, request.num_output_tokens, request.num_prompt_tokens))
    slots, generated, prompts = np.array(found, dtype=np.int64).reshape(-1, 3).T
    extra, limits = rows.extra, rows.columns.limit
    known = slots < min(len(limits), len(extra.key))
    slots, generated, prompts = slots[known], generated[known], prompts[known]
    return Running(
        extra.handle[slots],
        extra.key[slots],
        extra.hint_key[slots],
        extra.hint_tokens[slots],
        generated,
        prompts + generated,
        limits[slots].astype(np.int64),
        steps,
    )


def state_folder(root: Path | None, config: Any, trained: str = "") -> Path | None:
    """Of one model and data-parallel engine, under the folder that the settings name; what was learned with a trained
    model's groups, which `trained` names, says nothing of another's.
    """
    if root is None:
        return None
    model = str(config.model_config.model)
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", model.rstrip("/").rsplit("/", 1)[-1])
    return root / f"{name}-{zlib.crc32(model.encode()):08x}-{data_parallel_rank(config)}{trained and f'-{trained}'}"


def warm_up_forecasts() -> None:
    """Compile, or load from the cache, all that learning calls, so that it never holds up a step."""
    one = Forecaster()
    for hint in (0, 1):
        one.arrived(hint, 0, hint, 8.0 * hint, 16)
        one.finished(Ended(hint, 0, hint, 8.0 * hint, 8, False, False))
    one.learn()
    size = LEAST_REQUESTS * GAP_LOOKS
    numbers = np.arange(size)
    for _ in range(GAP_LOOKS):
        one.watch(
            Running(
                numbers.astype(np.uint64), numbers, numbers, numbers.astype(np.float64), numbers, numbers, 16 + numbers
            )
        )
