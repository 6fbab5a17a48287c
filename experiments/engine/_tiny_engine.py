"""vLLM's engine core on the CPU with a tiny seeded model and a pool too small for its load, round by round.

What the plugin expects of each step is held against what vLLM then takes, and everything is counted a second time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vllm.sampling_params import SamplingParams
from vllm.v1.engine.core import EngineCore
from vllm.v1.request import Request

from experiments.live.faults._live_core import config_of, executor_of
from experiments.live.serving._live_model import VOCABULARY
from experiments.parity._auditor import Auditor
from kvhorizon.adapter.forecasting.hints import NAME as HINT
from kvhorizon.adapter.forecasting.learner import running_now
from kvhorizon.adapter.modes import Mode
from kvhorizon.adapter.plugin import Plugin

BLOCKS, BLOCK, SEATS, MAX_LEN = 24, 32, 16, 512
REQUESTS = 24
FEW = 4  # requests that fit together, whatever they become
LOOK_EVERY = 8  # steps between two looks at the pace


@dataclass
class Served:
    """What came of one load."""

    tokens: list[list[int]] = field(default_factory=list)  # by request
    steps: int = 0
    preemptions: int = 0
    recomputed: int = 0  # tokens, by the plugin
    audited: int = 0  # tokens, by the auditor
    restored: int = 0  # tokens
    block_errors: int = 0
    plugin_errors: int = 0
    evicted: int = 0  # as plans asked
    expected: int = 0  # steps of requests whose tokens and blocks were foretold
    surprises: list[str] = field(default_factory=list)  # where vLLM took others
    drafts: int = 0
    accepted: int = 0
    decodes: int = 0  # steps of requests that decode
    decoded: int = 0  # tokens that came of them
    learned: float = 1.0  # tokens per step, as the plugin knows them
    loading: int = 0  # most requests whose KV was on its way at a time
    aborted: list[int] = field(default_factory=list)
    left: int = 0  # requests and blocks that should be held by none any more


class TinyEngine:
    """One engine; `arguments` go to vLLM besides the usual ones. Steps are foretold to the token if synchronous."""

    def __init__(self, settings: dict[str, Any], asynchronous: bool = False, **arguments: Any) -> None:
        sizes = {"max_model_len": MAX_LEN, "max_num_seqs": SEATS, "block_size": BLOCK}
        config = config_of(settings, num_gpu_blocks_override=BLOCKS, **sizes, **arguments)
        config.scheduler_config.async_scheduling = asynchronous  # the CPU platform turns it off
        self.core = EngineCore(config, executor_of, log_stats=True)
        self.scheduler: Any = self.core.scheduler
        self.plugin: Plugin = self.scheduler.kvhorizon
        self.plugin.learner.poke = lambda _: None  # type: ignore[method-assign]
        self._watch()
        self.served = Served()
        self.auditor = Auditor(self.scheduler)
        self._foretold: dict[str, tuple[int, int]] = {}  # tokens and new blocks, by running request
        self._decoding: set[str] = set()
        self._numbers: dict[str, int] = {}

    def serve(self, mode: Mode, together: int, aborts: bool = False) -> Served:
        """All requests, so many of them at a time; with `aborts`, some leave while their KV is on its way."""
        served = self.served = Served(tokens=[[] for _ in range(REQUESTS)])
        self.auditor = Auditor(self.scheduler)
        self.plugin.switch.chosen = mode
        before = asdict(self.plugin.accounting.total)
        evicted, errors = self.plugin.control.evicted, self._errors
        for first in range(0, REQUESTS, together):
            for number in range(first, min(first + together, REQUESTS)):
                self._arrive(number)
            while self.scheduler.has_unfinished_requests():
                self._round(aborts)
        while self.scheduler.has_requests():  # copies that are still under way
            self._round(aborts)
        total = asdict(self.plugin.accounting.total)
        served.preemptions, served.recomputed, served.restored = (
            total[name] - before[name] for name in ("preemptions", "recompute_tokens", "restored_tokens")
        )
        served.audited, served.block_errors = self.auditor.recomputed, self.auditor.block_errors
        served.plugin_errors, served.evicted = self._errors - errors, self.plugin.control.evicted - evicted
        served.learned = self.plugin.forecaster.tables.tokens_per_step
        free = self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()
        served.left = BLOCKS - 1 - free + self.plugin.accounting.tracked + len(self.plugin.rows.slot_of)
        return served

    @property
    def _errors(self) -> int:
        return self.plugin.guard.total + self.plugin.account_guard.total

    def _arrive(self, number: int) -> None:
        length = 40 + 3 * number
        sampling = SamplingParams(temperature=0.0, max_tokens=length, ignore_eos=True, extra_args={HINT: length})
        sampling.update_from_generation_config({}, 2)
        prompt = [(7 * number + k * k) % (VOCABULARY - 3) + 3 for k in range(20 + number)]
        request = Request(
            request_id=f"r{len(self._numbers)}",
            prompt_token_ids=prompt,
            sampling_params=sampling,
            pooling_params=None,
            block_hasher=self.core.request_block_hasher,
        )
        self._numbers[request.request_id] = number
        self.auditor.arrived(request)
        self.core.add_request(request)

    def _round(self, aborts: bool) -> None:
        """A turn of the busy loop."""
        served = self.served
        outputs, executed = self.core.step_fn()
        self.core.post_step(executed)
        for output in (output for one in (outputs or {}).values() for output in one.outputs):
            served.tokens[self._numbers[output.request_id]] += output.new_token_ids
            self.auditor.delivered(output.request_id, len(output.new_token_ids))
            if output.request_id in self._decoding:
                served.decodes += 1
                served.decoded += len(output.new_token_ids)
                served.accepted += len(output.new_token_ids) - 1
        served.steps += 1
        if served.steps % LOOK_EVERY == 0:
            plugin = self.plugin
            plugin.forecaster.watch(running_now(plugin.engine, plugin.rows, plugin.control.step))
        loading = [one for one in self.scheduler.kv_holding_waiting if one.status.name == "WAITING_FOR_REMOTE_KVS"]
        served.loading = max(served.loading, len(loading))
        if aborts and loading and len(served.aborted) < 3 and served.steps % 5 == 0:
            served.aborted.append(self._numbers[loading[-1].request_id])
            self.core.abort_requests([loading[-1].request_id])

    def _watch(self) -> None:
        """Look at what each step is expected to take, and at what it takes."""
        plugin, scheduler = self.plugin, self.scheduler
        before, schedule = plugin.before_schedule, scheduler.schedule

        def expecting() -> None:
            before()
            demand = plugin.control.batch.demand()
            names = [plugin.rows.request[slot].request_id for slot in demand.slots.tolist()]
            pairs = zip(demand.tokens.tolist(), demand.blocks.tolist(), strict=True)
            self._foretold = dict(zip(names, pairs, strict=True))

        def scheduled(*args: Any, **more: Any) -> Any:
            output = schedule(*args, **more)
            self._see(output)
            return output

        plugin.before_schedule = expecting  # type: ignore[method-assign]
        scheduler.schedule = scheduled

    def _see(self, output: Any) -> None:
        served, cached = self.served, output.scheduled_cached_reqs
        self.auditor.see(output)
        served.drafts += sum(len(drafts) for drafts in output.scheduled_spec_decode_tokens.values())
        self._decoding = {
            name
            for name, start in zip(cached.req_ids, cached.num_computed_tokens, strict=True)
            if self.scheduler.requests[name].num_tokens - start == 1
        }
        blocks = dict(zip(cached.req_ids, (_count(ids) for ids in cached.new_block_ids), strict=True))
        for name, foretold in self._foretold.items():
            if name in (output.preempted_req_ids or ()):
                continue
            taken = output.num_scheduled_tokens.get(name, 0), blocks.get(name, 0)
            served.expected += 1
            if taken != foretold:
                served.surprises.append(f"step {served.steps}, {name}: {foretold} foretold, {taken} taken")


def _count(block_ids: Sequence[Sequence[int]] | None) -> int:
    return len(block_ids[0]) if block_ids is not None else 0
