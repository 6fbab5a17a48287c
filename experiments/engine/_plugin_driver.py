"""vLLM's own scheduler, with or without a plugin (`_plugin_engine`), driven without a model and on a clock of its own.

A step runs as an engine core would run it: schedule, execute, update; asynchronous scheduling is one step ahead. Every
request whose prefill is complete gives one token, and as many of its drafts as chance accepts, and ends at its
`max_tokens`.
"""

from __future__ import annotations

import os
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus

from experiments.engine._plugin_engine import BLOCK, Setup, make


class Shared(NamedTuple):
    """So many tokens, with which every so many-th request begins."""

    tokens: int
    every: int = 1


def workload(
    count: int,
    seed: int,
    prompt: tuple[int, int] = (10, 300),
    output: tuple[int, int] = (5, 150),
    caching: bool = False,
    shared: Shared | int = 0,
    priorities: int = 1,
    extra: dict[str, Any] | None = None,
) -> list[Request]:
    """Random requests that begin with the same `shared` tokens. Deterministic in the seed."""
    prefix = Shared(shared) if isinstance(shared, int) else shared
    rng = random.Random(seed)
    hash_of = get_hash_fn_by_name("sha256")
    init_none_hash(hash_of)
    hasher = get_request_block_hasher(BLOCK, hash_of) if caching else None
    found = []
    for number in range(count):
        sampling = SamplingParams(max_tokens=rng.randint(*output), ignore_eos=True, extra_args=extra)
        sampling.update_from_generation_config({}, 2)
        tokens = [5] * (prefix.tokens if number % prefix.every == 0 else 0) + [
            rng.randint(3, 1000) for _ in range(rng.randint(*prompt))
        ]
        found.append(
            Request(
                request_id=f"r{number}",
                prompt_token_ids=tokens,
                sampling_params=sampling,
                pooling_params=None,
                priority=rng.randrange(priorities),
                block_hasher=hasher,
            )
        )
    return found


class Scheduled(NamedTuple):
    """A step whose output is to come."""

    output: Any
    sampled: list[bool]  # which requests will give a token
    number: int  # of the step, from 1


@dataclass
class Drive:
    """One engine at work. `trace` holds (step, request, tokens) of all output, `steps` what each step scheduled."""

    scheduler: Any
    trace: list[tuple[int, str, int]] = field(default_factory=list)
    given_by: list[int] = field(default_factory=list)  # step that the output in `trace` is of
    steps: list[tuple[tuple[str, int], ...]] = field(default_factory=list)
    ends: dict[str, str] = field(default_factory=dict)
    _flight: deque[Scheduled] = field(default_factory=deque)
    asynchronous: bool = False
    step_s: float | None = None
    now_s: float = 0.0
    drafts: int = 0
    _accepts: random.Random = field(default_factory=lambda: random.Random(0))

    def abort(self, name: str) -> None:
        """The client of a request goes."""
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)

    def step(self, see: Callable[[Any], None] | None = None) -> Any:
        """One round of the engine core; `see` is called with what was scheduled, which is also returned."""
        scheduler, output = self.scheduler, None
        if scheduler.has_requests():
            scheduled = self.schedule()
            output = scheduled.output
            self._flight.append(scheduled)
            if see is not None:
                see(output)
        depth = 2 if self.asynchronous else 1
        if self._flight and (output is None or len(self._flight) >= depth or not output.num_scheduled_tokens):
            self.finish(self._flight.popleft())
        return output

    def schedule(self) -> Scheduled:
        """The first half of a synchronous step."""
        output = self.scheduler.schedule()
        sampled = [not self.scheduler.requests[name].is_prefill_chunk for name in output.num_scheduled_tokens]
        self.steps.append(tuple(output.num_scheduled_tokens.items()))
        self.now_s += self.step_s or 0.0
        return Scheduled(output, sampled, len(self.steps))

    def finish(self, scheduled: Scheduled) -> None:
        """The second half."""
        output, sampled, number = scheduled
        names = list(output.num_scheduled_tokens)
        drafted = output.scheduled_spec_decode_tokens
        tokens = [
            [7] * (1 + self._accepts.randint(0, len(drafted.get(name, ())))) if gives else []
            for name, gives in zip(names, sampled, strict=True)
        ]
        result = sampled_by_model(names, tokens)
        for outputs in self.scheduler.update_from_output(output, result).values():
            for one in outputs.outputs:
                self.trace.append((len(self.steps), one.request_id, len(one.new_token_ids)))
                self.given_by.append(number)
                if one.finish_reason is not None:
                    self.ends[one.request_id] = str(one.finish_reason)
        if self.drafts and not self.asynchronous:  # else vLLM has put them in place already
            self.scheduler.update_draft_token_ids(DraftTokenIds(names, [[7] * self.drafts for _ in names]))

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self.scheduler.has_unfinished_requests() or self._flight)

    def run(self, requests: list[Request], every: int = 2, most_steps: int = 50_000) -> Drive:
        """A request arrives every `every` steps; until all are done."""
        arriving = deque(requests)
        for number in range(most_steps):
            while arriving and len(requests) - len(arriving) <= number // every:
                self.scheduler.add_request(arriving.popleft())
            if not arriving and not self.busy:
                return self
            self.step()
        raise AssertionError(f"not done after {most_steps} steps: {len(self.ends)} of {len(requests)} ended")


def sampled_by_model(names: list[str], tokens: list[list[int]]) -> ModelRunnerOutput:
    """What a model's runner returns for the requests `names`: the new `tokens` of each, none while it is prefilled."""
    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: place for place, name in enumerate(names)},
        sampled_token_ids=tokens,
        logprobs=None,
        prompt_logprobs_dict={},
        pooler_output=[],
    )


def drive(setup: Setup) -> Drive:
    """An engine ready to be driven."""
    engine = Drive(make(setup), asynchronous=setup.asynchronous, step_s=setup.step_s, drafts=setup.drafts)
    if setup.plugin and setup.step_s is not None:
        plugin = engine.scheduler.kvhorizon
        plugin.use_clock(lambda: engine.now_s, lambda: 0.0)
    return engine


def check_whole(scheduler: Any, requests: list[Request], blocks: int) -> None:
    """All are finished, with all of their output; all blocks are free; nothing of them is kept."""
    assert not scheduler.requests
    for request in requests:
        assert request.is_finished(), request.request_id
        if request.status == RequestStatus.FINISHED_LENGTH_CAPPED:
            assert request.num_output_tokens == request.max_tokens
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == blocks - 1
    plugin = getattr(scheduler, "kvhorizon", None)
    if plugin is not None:
        assert not plugin.rows.slot_of
        assert plugin.accounting.tracked == 0
        assert plugin.hidden == 0
