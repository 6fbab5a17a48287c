"""What undoing an eviction costs [s]: reading back what is kept, computing again what is gone.

    reload_s · k · c  +  (1 − k) · recompute(c)          of a context of c tokens

k is the share of evicted tokens that survived until their resume, learned from the exact counts
(`models.performance.kept_share`). A prefix cache gives back for nothing, vLLM's KV offloading at the speed of the bus.
On a GPU that no preset describes, recompute costs what a token of prefill is measured to lengthen a step by
(`prefill_price`). The rules beside the engine and, as `Habits`, the planner price evictions by it.
"""

from __future__ import annotations

from typing import Any

from kvhorizon.adapter.accounting.recomputation import Tally
from kvhorizon.models.performance.kept_share import Kept
from kvhorizon.models.performance.kv_offload import kv_bytes_on_one, reload_s_per_token
from kvhorizon.models.performance.shape import ModelShape
from kvhorizon.models.performance.step_time import undoing
from kvhorizon.state import Habits, StepCost

OFFLOADERS = ("OffloadingConnector", "SimpleCPUOffloadConnector", "LMCacheConnectorV1", "LMCacheMPConnector")


class Losing:
    """Of one engine."""

    def __init__(self, cost: StepCost, reload_s_per_token: float, offloads: bool, measured: bool = False) -> None:
        """`cost` is believed throughout or, where prices are `measured`, until there is evidence."""
        self.offloads, self.reload_s_per_token = offloads, reload_s_per_token
        self._believed = self.steps = cost  # of the engine's steps: at the start, and now
        self._measured = measured
        self._kept = Kept(offloads)

    def see(self, total: Tally, prefill_s_per_token: float) -> None:
        """Take in what came back and what did not since the last time, and what a token of prefill costs."""
        self._kept.see(total.restored_tokens, total.recompute_tokens)
        if self._measured:
            self.steps = _scaled(self._believed, prefill_s_per_token)

    @property
    def kept(self) -> float:
        """k, the share that comes back."""
        return self._kept.share

    def cost(self) -> StepCost:
        """Step costs with which `recompute_seconds` gives the price."""
        return undoing(self.steps, self.kept, self.reload_s_per_token)

    def habits(self, tokens_per_step: float) -> Habits:
        """What the planner is told, k to three places."""
        return Habits(tokens_per_step, round(self.kept, 3), self.reload_s_per_token)


def _scaled(cost: StepCost, prefill_s_per_token: float) -> StepCost:
    """So that a token of prefill costs so much, and attention in proportion."""
    attention_s = cost.attention_s_per_pair * prefill_s_per_token / cost.linear_s_per_token
    return cost._replace(linear_s_per_token=prefill_s_per_token, attention_s_per_pair=attention_s)


def losing_of(config: Any, cost: StepCost, shape: ModelShape | None, measured: bool = False) -> Losing:
    """As vLLM's configuration says where evicted KV is kept; `measured`: on a GPU of unknown speed."""
    transfer = getattr(config, "kv_transfer_config", None)
    offloads = transfer is not None and _offloads(transfer)
    kv_bytes = kv_bytes_on_one(shape, int(config.parallel_config.tensor_parallel_size))
    return Losing(cost, reload_s_per_token(kv_bytes) if offloads else 0.0, offloads, measured)


def _offloads(transfer: Any) -> bool:
    """By the connector's name; of several, any."""
    extra = getattr(transfer, "kv_connector_extra_config", None) or {}
    several = [one.get("kv_connector") for one in extra.get("connectors", ()) if isinstance(one, dict)]
    return any(name in OFFLOADERS for name in [getattr(transfer, "kv_connector", None), *several])
