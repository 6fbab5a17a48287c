"""vLLM's own scheduler with or without a guest, driven without a model and on a clock of its own.

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

import torch
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    ModelConfig,
    ParallelConfig,
    SchedulerConfig,
    SpeculativeConfig,
    VllmConfig,
)
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import DraftTokenIds, ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from experiments._scratch import model_folder
from kvhorizon.adapter import make_scheduler

BLOCK = 16


@dataclass(frozen=True)
class Setup:
    """Of one engine."""

    blocks: int = 160
    seats: int = 24
    batched: int = 512
    max_len: int = 8192
    asynchronous: bool = False
    caching: bool = False
    policy: str = "fcfs"
    watermark: float = 0.0
    data_parallel: int = 1
    drafts: int = 0  # a step, of a draft model, which wants room for as many tokens beyond
    guest: bool = True
    step_s: float | None = 0.02  # on the guest's clock; None: real time
    settings: dict[str, Any] = field(default_factory=lambda: {"local_only": True})


def make(setup: Setup) -> Scheduler:
    """vLLM's scheduler, ours if `setup.guest`."""
    model = ModelConfig(
        model=model_folder(), dtype="float16", seed=0, skip_tokenizer_init=True, max_model_len=setup.max_len
    )
    parallel = ParallelConfig(data_parallel_size=setup.data_parallel, data_parallel_size_local=setup.data_parallel)
    config = VllmConfig(
        model_config=model,
        scheduler_config=SchedulerConfig(
            max_num_seqs=setup.seats,
            max_num_batched_tokens=setup.batched,
            max_model_len=setup.max_len,
            enable_chunked_prefill=True,
            async_scheduling=setup.asynchronous,
            is_encoder_decoder=False,
            policy=setup.policy,
            watermark=setup.watermark,
        ),
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=setup.caching),
        parallel_config=parallel,
        speculative_config=_speculation(setup, model, parallel),
        device_config=DeviceConfig("cpu"),
        additional_config={"kvhorizon": setup.settings} if setup.guest else {},
    )
    config.scheduler_config.async_scheduling = setup.asynchronous  # the CPU platform turns it off
    config.cache_config.block_size = BLOCK
    config.cache_config.num_gpu_blocks = setup.blocks
    register_all_kvcache_specs(config)
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=2, head_size=16, dtype=torch.float16)
    own = AsyncScheduler if setup.asynchronous else Scheduler
    return (make_scheduler if setup.guest else own)(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=setup.blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        ),
        block_size=BLOCK,
        hash_block_size=BLOCK,
        log_stats=True,
        structured_output_manager=StructuredOutputManager(config),
    )


def _speculation(setup: Setup, model: Any, parallel: Any) -> Any:
    """The model drafts for itself."""
    if not setup.drafts:
        return None
    return SpeculativeConfig(
        method="draft_model",
        model=model_folder(),
        num_speculative_tokens=setup.drafts,
        target_model_config=model,
        target_parallel_config=parallel,
    )


def workload(
    count: int,
    seed: int,
    prompt: tuple[int, int] = (10, 300),
    output: tuple[int, int] = (5, 150),
    caching: bool = False,
    shared: int = 0,
    priorities: int = 1,
    extra: dict[str, Any] | None = None,
) -> list[Request]:
    """Random requests; the first `shared` tokens are everybody's. Deterministic in the seed."""
    rng = random.Random(seed)
    hash_of = get_hash_fn_by_name("sha256")
    init_none_hash(hash_of)
    hasher = get_request_block_hasher(BLOCK, hash_of) if caching else None
    found = []
    for number in range(count):
        sampling = SamplingParams(max_tokens=rng.randint(*output), ignore_eos=True, extra_args=extra)
        sampling.update_from_generation_config({}, 2)
        tokens = [5] * shared + [rng.randint(3, 1000) for _ in range(rng.randint(*prompt))]
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
        result = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: place for place, name in enumerate(names)},
            sampled_token_ids=tokens,
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )
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


def drive(setup: Setup) -> Drive:
    """An engine ready to be driven."""
    engine = Drive(make(setup), asynchronous=setup.asynchronous, step_s=setup.step_s, drafts=setup.drafts)
    if setup.guest and setup.step_s is not None:
        guest = engine.scheduler.kvhorizon
        guest.use_clock(lambda: engine.now_s, lambda: 0.0)
    return engine


def check_whole(scheduler: Any, requests: list[Request], blocks: int) -> None:
    """All are finished, with all of their output; all blocks are free; nothing of them is kept."""
    assert not scheduler.requests
    for request in requests:
        assert request.is_finished(), request.request_id
        if request.status == RequestStatus.FINISHED_LENGTH_CAPPED:
            assert request.num_output_tokens == request.max_tokens
    assert scheduler.kv_cache_manager.block_pool.get_num_free_blocks() == blocks - 1
    guest = getattr(scheduler, "kvhorizon", None)
    if guest is not None:
        assert not guest.rows.slot_of
        assert guest.accounting.tracked == 0
        assert guest.hidden == 0
