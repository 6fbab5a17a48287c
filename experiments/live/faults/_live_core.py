"""vLLM's engine core with its model in this process: its busy loop without the sockets around it, round by round.

Faults can be planted in it to the very step, which no server allows, and a step is timed as its thread experiences it.
"""

from __future__ import annotations

import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # nothing but this process
os.environ["OMP_NUM_THREADS"] = "1"  # the thread that is timed does all the work

from vllm.engine.arg_utils import EngineArgs
from vllm.sampling_params import SamplingParams
from vllm.utils.gc_utils import freeze_gc_heap
from vllm.v1.engine.core import EngineCore
from vllm.v1.executor import Executor
from vllm.v1.request import Request

from experiments.live.serving._live_clock import own_s
from experiments.live.serving._live_load import MAX_TOKENS, Ask, asks
from experiments.live.serving._live_model import END, LENGTH, write_model
from kvhorizon.adapter.forecasting.hints import NAME as HINT
from kvhorizon.adapter.modes import Mode
from kvhorizon.adapter.plugin import Plugin

BLOCKS, BLOCK, SEATS, BATCHED, MAX_LEN = 200, 32, 64, 2048, 1024
WAITING = 20  # requests kept waiting, so that every round is under the same pressure
FLOOD = 5000
_LOAD = 20_000  # requests drawn in advance; they are used again after that


class LiveCore:
    """One engine under a load that never lets it rest, until it is told to drain."""

    def __init__(self, settings: dict[str, Any] | None = None, seed: int = 0) -> None:
        config = config_of(
            settings or {},
            model=str(write_model()),
            max_model_len=MAX_LEN,
            max_num_seqs=SEATS,
            max_num_batched_tokens=BATCHED,
            block_size=BLOCK,
            num_gpu_blocks_override=BLOCKS,
            logits_processors=["experiments.live.serving._live_model:EndAtLength"],
        )
        self.core = EngineCore(config, executor_of, log_stats=True)
        self.scheduler: Any = self.core.scheduler
        self.plugin: Plugin = self.scheduler.kvhorizon
        self.tokens: dict[str, int] = defaultdict(int)
        self.wanted: dict[str, int] = {}
        self.lost: list[str] = []
        self.finished = 0
        self._asks = asks(_LOAD, seed, 1.0)
        self._burst: list[Request] = []
        self._number = 0
        freeze_gc_heap()  # as the engine core did before the load was drawn, which is no engine's garbage

    def requests(self, count: int) -> list[Request]:
        """The next requests of the load."""
        found = []
        for _ in range(count):
            ask = self._asks[self._number % _LOAD]
            found.append(_request(f"r{self._number}", ask))
            self.wanted[found[-1].request_id] = ask.output_tokens
            self._number += 1
        return found

    def round(self, arrivals: Sequence[Request] = ()) -> float:
        """One turn of the busy loop: take in what has arrived, then a step. Returns its seconds."""
        burst, self._burst = self._burst, []
        begin_s = own_s()
        for request in (*burst, *arrivals):
            self.core.add_request(request)
        outputs, executed = self.core.step()
        self.core.post_step(executed)
        seconds = own_s() - begin_s
        for one in outputs.values():
            for output in one.outputs:
                self._take(output)
        return seconds

    def flood(self) -> None:
        """FLOOD short requests arrive before the next step."""
        asked = Ask(0.0, self._asks[0].prompt[:16], 8, 8)
        self._burst = [_request(f"f{self._number + n}", asked) for n in range(FLOOD)]
        self.wanted |= dict.fromkeys((one.request_id for one in self._burst), asked.output_tokens)
        self._number += FLOOD

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return int(self.scheduler.get_request_counts()[1])

    def under_load(self, rounds: int) -> list[float]:
        """So many rounds with WAITING requests kept waiting; the seconds of each."""
        return [self.round(self.missing()) for _ in range(rounds)]

    def missing(self) -> list[Request]:
        """What has to arrive so that WAITING requests wait."""
        return self.requests(max(min(WAITING - self.waiting, 4), 0))

    def drain(self) -> None:
        """Serve what is there to its end."""
        while self.scheduler.has_unfinished_requests():
            self.round()
        self.lost += [name for name in self.wanted if name not in self.lost]
        self.wanted.clear()

    def abort(self, names: Sequence[str]) -> None:
        """The clients of these go."""
        for name in names:
            self.wanted.pop(name, None)
            self.tokens.pop(name, None)
        self.core.abort_requests(list(names))

    def plain(self, alone: bool) -> None:
        """vLLM's own code only, or with the plugin again, which then reads the engine anew."""
        if alone:
            self.scheduler.kvhorizon = None
        elif self.scheduler.kvhorizon is None:
            self.scheduler.kvhorizon = self.plugin
            self.plugin.recall()

    def close(self) -> None:
        """End the engine, and the plugin with its solver."""
        self.plain(alone=False)
        self.core.shutdown()

    def _take(self, output: Any) -> None:
        name = output.request_id
        self.tokens[name] += len(output.new_token_ids)
        if output.finish_reason is not None:
            got, wanted = self.tokens.pop(name), self.wanted.pop(name, None)
            self.finished += 1
            if wanted is not None and (got != wanted or str(output.finish_reason) != "stop"):
                self.lost.append(name)


def wait_for_plans(live: LiveCore, timeout_s: float, rounds: list[float] | None = None) -> float:
    """Serve until a new plan is followed; seconds that it took, infinite if none came in time.

    `rounds` takes the seconds of the rounds meanwhile.
    """
    begin_s, serial = time.monotonic(), live.plugin.plans.serial
    while time.monotonic() - begin_s < timeout_s:
        seconds = live.under_load(5)
        if rounds is not None:
            rounds += seconds
        if live.plugin.plans.serial > serial and live.plugin.mode is Mode.CONTROL:
            return time.monotonic() - begin_s
    return float("inf")


def config_of(settings: dict[str, Any], **arguments: Any) -> Any:
    """vLLM's configuration of an exact, seeded engine with the plugin in it, `arguments` besides."""
    return EngineArgs(
        skip_tokenizer_init=True,
        dtype="float32",
        seed=1,
        enforce_eager=True,
        enable_prefix_caching=False,
        scheduler_cls="kvhorizon.adapter.make_scheduler",
        additional_config={"kvhorizon": {"guardrail": False, **settings}},
        **arguments,
    ).create_engine_config()


def executor_of(config: Any) -> Any:
    """vLLM 0.32 looks for its CPU kernels in all modules that are loaded, and stumbles over llvmlite's."""
    hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith("llvmlite")}
    try:
        return Executor.get_class(config)(config)
    finally:
        sys.modules.update(hidden)


def _request(name: str, ask: Ask) -> Request:
    sampling = SamplingParams(
        temperature=0.0, max_tokens=MAX_TOKENS, extra_args={HINT: ask.predicted, LENGTH: ask.output_tokens}
    )
    sampling.update_from_generation_config({}, END)
    return Request(request_id=name, prompt_token_ids=ask.prompt, sampling_params=sampling, pooling_params=None)
