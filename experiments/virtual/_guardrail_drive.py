"""vLLM's scheduler with the plugin under a virtual clock, for hours: steps take what the step-time model says.

What would look at this machine's time is given the virtual one, and the thread that learns does its work in the step,
so that a run repeats exactly. No model runs; every request gives one token per step until its `max_tokens`.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request

from experiments.engine._plugin_engine import Setup, make
from kvhorizon.adapter.guardrail.meter import Meter, Seen
from kvhorizon.models.performance.gpu import preset
from kvhorizon.models.performance.shape import builtin
from kvhorizon.models.performance.step_time import step_cost, step_seconds

LEARN_S = 2.0  # virtual seconds between two times of learning
COST = step_cost(builtin("qwen3-32b"), preset("h100-80gb"))
SETUP = Setup(blocks=501, seats=64, batched=2048, step_s=None)  # some twenty requests fit
PROMPT, OUTPUT, SPREAD = 250.0, 110.0, 0.6  # medians [tokens] and sigma of lognormal lengths
LONGEST = 2000  # tokens, of either


@dataclass(frozen=True)
class Load:
    """Who comes: by rate at a time [1/s], which never exceeds `most`, or so many clients that ask again at once."""

    name: str
    rate: Callable[[float], float] = lambda _: 0.0
    most: float = 0.0
    clients: int = 0


class VirtualEngine:
    """One engine at work on a load; `settings` are the plugin's."""

    def __init__(self, load: Load, seed: int, settings: dict[str, Any]) -> None:
        self.now_s = 0.0
        self.steps = self.ended = 0
        self.scheduler: Any = make(
            Setup(**{**vars(SETUP), "settings": {"local_only": True, "guardrail": True, **settings}})
        )
        self.plugin = self.scheduler.kvhorizon
        self.plugin.use_clock(lambda: self.now_s, lambda: self.now_s)
        self.plugin.learner.poke = self._learn
        guardrail = self.plugin.switch.guardrail
        if guardrail is not None:
            guardrail.seed = seed
        self._load, self._rng, self._count = load, random.Random(seed), 0
        self._meter = Meter(self.scheduler, self.plugin.accounting)
        self._next_s = self._after(0.0) if load.most else float("inf")
        for _ in range(load.clients):
            self._arrive(0.0)

    def run(self, until: Callable[[VirtualEngine], bool]) -> None:
        """Step by step, until it says so."""
        while not until(self):
            while self._next_s <= self.now_s:
                self._arrive(self._next_s)
                self._next_s = self._after(self._next_s)
            if self.scheduler.has_requests():
                self._step()
            else:
                self.now_s = self._next_s

    def seen(self) -> Seen:
        """What a guardrail would have measured so far."""
        return self._meter.read(self.now_s)

    def close(self) -> None:
        """The plugin's threads end."""
        self.plugin.stop()

    def _after(self, now_s: float) -> float:
        """The next arrival of a Poisson process of changing rate, by thinning (Lewis & Shedler 1979)."""
        while True:
            now_s += self._rng.expovariate(self._load.most)
            if self._rng.random() * self._load.most < self._load.rate(now_s):
                return now_s

    def _arrive(self, now_s: float) -> None:
        prompt, output = (
            min(int(self._rng.lognormvariate(0.0, SPREAD) * median) + 1, LONGEST) for median in (PROMPT, OUTPUT)
        )
        sampling = SamplingParams(max_tokens=output, ignore_eos=True)
        sampling.update_from_generation_config({}, 2)
        self._count += 1
        self.scheduler.add_request(
            Request(
                request_id=f"r{self._count}",
                prompt_token_ids=[5] * prompt,
                sampling_params=sampling,
                pooling_params=None,
                arrival_time=now_s,
            )
        )

    def _step(self) -> None:
        """Schedule, let the time pass, give the tokens."""
        self._meter.step(self.now_s)
        output, requests = self.scheduler.schedule(), self.scheduler.requests
        names = list(output.num_scheduled_tokens)
        gives = [not requests[name].is_prefill_chunk for name in names]
        self.now_s += self._seconds(output.num_scheduled_tokens)
        self.steps += 1
        result = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: place for place, name in enumerate(names)},
            sampled_token_ids=[[7] if gave else [] for gave in gives],
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )
        for outputs in self.scheduler.update_from_output(output, result).values():
            over = sum(one.finish_reason is not None for one in outputs.outputs)
            self.ended += over
            for _ in range(over if self._load.clients else 0):
                self._arrive(self.now_s)

    def _seconds(self, scheduled: dict[str, int]) -> float:
        """Of a step, by the step-time model; requests have been moved on already."""
        prefill = pairs = decodes = kv = 0.0
        for name, tokens in scheduled.items():
            end = self.scheduler.requests[name].num_computed_tokens
            if tokens == 1:
                decodes, kv = decodes + 1, kv + end
            else:
                prefill, pairs = prefill + tokens, pairs + tokens * (end - 0.5 * (tokens - 1))
        return float(step_seconds(COST, prefill, pairs, decodes, kv, len(scheduled)))

    def _learn(self, now_s: float) -> None:
        learner = self.plugin.learner
        if now_s >= learner.due_s:
            learner.due_s = now_s + LEARN_S
            learner.once(now_s)
