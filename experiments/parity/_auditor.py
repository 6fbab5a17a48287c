"""An independent count of recompute, and of blocks, from what vLLM's scheduler puts out; it asks no plugin.

Known tokens are the prompt's and those delivered; computed positions are those of the chunks put out, without drafts
that were refused: of d drafts in a chunk of which t tokens are delivered, d + 1 − t were. With asynchronous scheduling
a request may have been evicted before the output of its last chunk comes: that takes nothing back.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

IN_FLIGHT = 4  # steps whose output may be to come, at most


class Auditor:
    """Of one scheduler. Call `see` with each output before the tokens of that step are delivered."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.recomputed = 0  # tokens
        self.preemptions = 0
        self.block_errors = 0
        self._known: Counter[str] = Counter()
        self._computed: dict[str, int] = {}
        self._mark: dict[str, int] = {}
        self._drafts: dict[int, dict[str, int]] = {}  # by step whose output is to come
        self._evicted: dict[str, int] = {}  # step of the last time
        self._steps = 0

    def arrived(self, request: Any) -> None:
        """A request of so many prompt tokens."""
        self._known[request.request_id] = request.num_prompt_tokens

    def delivered(self, name: str, tokens: int, step: int | None = None) -> None:
        """Output of the step of that number, else of the last one, left the engine."""
        self._known[name] += tokens
        step = self._steps if step is None else step
        if step >= self._evicted.get(name, 0):
            drafts = self._drafts[step].get(name, 0)
            self._computed[name] = self._computed.get(name, 0) - max(drafts + 1 - tokens, 0)

    def see(self, output: Any) -> None:
        """One scheduled step."""
        self._steps += 1
        for name in output.preempted_req_ids or ():
            self.preemptions += 1
            self._evicted[name] = self._steps
            computed = min(self._computed.get(name, 0), self._known[name])
            self._mark[name] = max(self._mark.get(name, 0), computed)
        for name, start in _starts(output):
            end, mark = start + output.num_scheduled_tokens[name], self._mark.get(name, 0)
            self._computed[name] = end
            self.recomputed += max(min(end, mark) - start, 0)
            if end >= mark:
                self._mark.pop(name, None)
        self._drafts[self._steps] = {name: len(drafts) for name, drafts in output.scheduled_spec_decode_tokens.items()}
        self._drafts.pop(self._steps - IN_FLIGHT, None)
        if self._steps % 8 == 0:
            self.block_errors += not self.blocks_add_up()

    def blocks_add_up(self) -> bool:
        """Free blocks, those about to be and those held by live requests are the pool; no other holds one."""
        manager = self.scheduler.kv_cache_manager
        tables = manager.coordinator.single_type_managers[0].req_to_blocks
        held = Counter(block.block_id for table in tables.values() for block in table if not block.is_null)
        pool = manager.block_pool
        strangers = set(tables) - set(self.scheduler.requests)
        shared = all(pool.blocks[number].ref_cnt == count for number, count in held.items())
        free = pool.get_num_free_blocks()
        free += sum(len(blocks) for _, blocks in getattr(self.scheduler, "deferred_frees", ()))
        return shared and not strangers and free + len(held) == pool.num_gpu_blocks - 1


def _starts(output: Any) -> list[tuple[str, int]]:
    """Where each scheduled chunk begins."""
    new = [(one.req_id, one.num_computed_tokens) for one in output.scheduled_new_reqs]
    cached = output.scheduled_cached_reqs
    return new + list(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
