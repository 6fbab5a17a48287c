"""An eviction is priced at what it will take to undo: by host memory's speed where KV is kept there."""

from types import SimpleNamespace
from typing import Any

import pytest

from kvhorizon.adapter.accounting.recomputation import Tally
from kvhorizon.adapter.control.preemption_cost import losing_of
from kvhorizon.models.performance.kept_share import BELIEF_TOKENS, BELIEVED_SHARE
from kvhorizon.models.performance.kv_offload import HOST_GB_S
from kvhorizon.models.performance.shape import builtin
from kvhorizon.models.performance.step_time import recompute_seconds
from kvhorizon.state import StepCost

COST = StepCost(fixed_s=0.005, weights_s=0.008, linear_s_per_token=4e-5, attention_s_per_pair=1e-9)
CONTEXT = 5000


def config(connector: str | None = None, tp: int = 1, **extra: Any) -> Any:
    transfer = SimpleNamespace(kv_connector=connector, kv_connector_extra_config=extra) if connector else None
    return SimpleNamespace(kv_transfer_config=transfer, parallel_config=SimpleNamespace(tensor_parallel_size=tp))


def price(config: Any, total: Tally, measured: bool = False, prefill_s: float = 1.0) -> float:
    losing = losing_of(config, COST, builtin("llama-3.1-8b"), measured)
    losing.see(total, prefill_s)
    return float(recompute_seconds(losing.cost(), 0, CONTEXT))


def test_without_offloading_all_is_computed_again() -> None:
    assert price(config(), Tally()) == recompute_seconds(COST, 0, CONTEXT)
    assert price(config("NixlConnector"), Tally()) == recompute_seconds(COST, 0, CONTEXT)


@pytest.mark.parametrize(
    "of",
    [config("OffloadingConnector"), config("MultiConnector", connectors=[{"kv_connector": "OffloadingConnector"}])],
    ids=["one", "several"],
)
def test_what_host_memory_keeps_is_read_back(of: Any) -> None:
    """131 072 bytes a token at 25 GB/s: 26 ms for 5 000 tokens, against 212 ms of recompute."""
    reload_s = CONTEXT * 131072 / (HOST_GB_S * 1e9)
    whole_s = recompute_seconds(COST, 0, CONTEXT)
    wanted_s = BELIEVED_SHARE * reload_s + (1.0 - BELIEVED_SHARE) * whole_s
    assert price(of, Tally()) == pytest.approx(wanted_s)
    assert wanted_s < 0.25 * whole_s


def test_what_came_back_is_learned() -> None:
    """A host memory that is too small keeps nothing; a prefix cache gives all back for nothing."""
    many = 1000 * int(BELIEF_TOKENS)
    whole_s = recompute_seconds(COST, 0, CONTEXT)
    assert price(config("OffloadingConnector"), Tally(recompute_tokens=many)) > 0.98 * whole_s
    assert price(config(), Tally(restored_tokens=many)) < 0.02 * whole_s


def test_on_an_unknown_gpu_recompute_costs_what_prefill_is_measured_to_cost() -> None:
    """On a known one (above) a measured second per token changes nothing."""
    whole_s = recompute_seconds(COST, 0, CONTEXT)
    twice_s = 2.0 * COST.linear_s_per_token
    assert price(config(), Tally(), measured=True, prefill_s=twice_s) == pytest.approx(2.0 * whole_s)
    losing = losing_of(config(), COST, None, measured=True)
    for prefill_s in (0.0, COST.linear_s_per_token):
        losing.see(Tally(), prefill_s)
        assert recompute_seconds(losing.steps, 0, CONTEXT) == pytest.approx(whole_s if prefill_s else 0.0)


def test_tensor_parallel_gpus_read_their_shares_at_once() -> None:
    full = losing_of(config("OffloadingConnector"), COST, builtin("llama-3.1-8b")).reload_s_per_token
    split = losing_of(config("OffloadingConnector", tp=4), COST, builtin("llama-3.1-8b")).reload_s_per_token
    assert split == pytest.approx(full / 4)
