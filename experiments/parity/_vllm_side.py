"""vLLM's own scheduler, driven without a model: one step at a time, requests entering at given steps.

`Scheduler`, `AsyncScheduler` and `KVCacheManager` are vLLM's, untouched; only the engine core and the model runner are
played: each request whose prefill is complete gives one token, known after the step, or, with async scheduling, after
the step that follows it has been decided. Needs vLLM (0.32).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import NamedTuple

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from vllm.config import CacheConfig, DeviceConfig, ModelConfig, ParallelConfig, SchedulerConfig, VllmConfig
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.core.single_type_kv_cache_manager import register_all_kvcache_specs
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager

from experiments.common._scratch import model_folder
from experiments.parity._scenario import STOP, Scenario, Seen


def _config(scenario: Scenario) -> VllmConfig:
    longest, engine = scenario.max_model_len, scenario.engine
    return VllmConfig(
        model_config=ModelConfig(
            model=model_folder(), dtype="float16", seed=0, skip_tokenizer_init=True, max_model_len=longest
        ),
        scheduler_config=SchedulerConfig(
            max_num_seqs=engine.max_seqs,
            max_num_batched_tokens=engine.max_tokens,
            max_model_len=longest,
            enable_chunked_prefill=engine.chunked,
            long_prefill_token_threshold=engine.long_prefill_tokens,
            async_scheduling=engine.ahead,
            is_encoder_decoder=False,
            policy="priority" if engine.by_priority else "fcfs",
            watermark=engine.watermark,
        ),
        cache_config=CacheConfig(block_size=engine.block_size, enable_prefix_caching=engine.prefix_caching),
        parallel_config=ParallelConfig(),
        device_config=DeviceConfig("cpu"),
    )


def make_scheduler(scenario: Scenario) -> Scheduler:
    """A scheduler whose pool has the scenario's blocks, all usable; one more is vLLM's null block."""
    config, size = _config(scenario), scenario.engine.block_size
    blocks = scenario.engine.total_blocks + 1
    config.cache_config.block_size = size
    config.cache_config.num_gpu_blocks = blocks
    register_all_kvcache_specs(config)
    spec = FullAttentionSpec(block_size=size, num_kv_heads=2, head_size=16, dtype=torch.float16)
    kv = KVCacheConfig(num_blocks=blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)])
    kind = AsyncScheduler if scenario.engine.ahead else Scheduler
    return kind(
        vllm_config=config,
        kv_cache_config=kv,
        block_size=size,
        hash_block_size=size,
        log_stats=False,
        structured_output_manager=StructuredOutputManager(config),
    )


class UnderWay(NamedTuple):
    """A step that has been decided and not been heard of."""

    output: SchedulerOutput
    gives: dict[str, bool]  # whether each scheduled request is past its prefill, in order


@dataclass(slots=True)
class VllmSide:
    """One scenario on vLLM's scheduler."""

    scenario: Scenario
    scheduler: Scheduler
    requests: list[Request]
    under_way: list[UnderWay] = field(default_factory=list)

    @classmethod
    def start(cls, scenario: Scenario) -> VllmSide:
        requests = []
        hash_of = get_hash_fn_by_name("sha256")
        init_none_hash(hash_of)
        hasher = get_request_block_hasher(scenario.engine.block_size, hash_of)
        for n, tokens in enumerate(scenario.tokens):
            sampling = SamplingParams(max_tokens=int(scenario.limit[n]), stop_token_ids=[STOP], ignore_eos=True)
            sampling.update_from_generation_config({}, 2)
            requests.append(
                Request(
                    request_id=str(n),
                    prompt_token_ids=tokens[: scenario.prompt[n]].tolist(),
                    sampling_params=sampling,
                    pooling_params=None,
                    arrival_time=float(n),
                    priority=int(scenario.priority[n]),
                    block_hasher=hasher if scenario.engine.prefix_caching else None,
                )
            )
        return cls(scenario, make_scheduler(scenario), requests)

    def add(self, n: int) -> None:
        """Request n arrives."""
        self.scheduler.add_request(self.requests[n])

    def lives(self, n: int) -> bool:
        """Whether request n has arrived and not ended."""
        return str(n) in self.scheduler.requests

    def abort(self, n: int) -> None:
        """The client of request n goes."""
        self.scheduler.finish_requests(str(n), RequestStatus.FINISHED_ABORTED)

    def schedule(self) -> Seen:
        """Decide one step; what it decided."""
        scheduler = self.scheduler
        output = scheduler.schedule()
        scheduled = output.num_scheduled_tokens
        gives = {name: not scheduler.requests[name].is_prefill_chunk for name in scheduled}
        self.under_way.append(UnderWay(output, gives))
        manager = scheduler.kv_cache_manager
        running = [int(request.request_id) for request in scheduler.running]
        waiting = [int(request.request_id) for request in scheduler.waiting]
        return Seen(
            running=running,
            waiting=waiting,
            scheduled=[scheduled.get(str(n), 0) for n in running],
            blocks=[len(manager.get_block_ids(str(n))[0]) for n in running],
            computed=[self.requests[n].num_computed_tokens - scheduled.get(str(n), 0) for n in running],
            free_blocks=manager.block_pool.get_num_free_blocks(),
            preemptions=[self.requests[n].num_preemptions for n in running],
            outputs=[self.requests[n].num_output_tokens for n in running + waiting],
        )

    def execute(self) -> None:
        """Play the model: hear of the oldest step under way, unless one more may be decided before."""
        if len(self.under_way) <= self.scenario.engine.ahead:
            return
        output, gives = self.under_way.pop(0)
        self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=list(gives),
                req_id_to_index={name: place for place, name in enumerate(gives)},
                sampled_token_ids=[self._token(name) if gives[name] else [] for name in gives],
                logprobs=None,
                prompt_logprobs_dict={},
                pooler_output=[],
            ),
        )

    def _token(self, name: str) -> list[int]:
        """The next of a request; of one that has ended, any."""
        request = self.scheduler.requests.get(name)
        return [STOP] if request is None else [int(self.scenario.tokens[int(name)][request.num_tokens])]

    @property
    def unfinished(self) -> bool:
        """Whether any request that arrived has not finished."""
        return self.scheduler.has_unfinished_requests()
