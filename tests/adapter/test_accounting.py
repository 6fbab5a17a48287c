"""The high-water-mark rule, by hand."""

import pytest
from fakes import request

from kvhorizon.adapter.accounting.recomputation import Accounting
from kvhorizon.adapter.engine_facts import UNKNOWN_COST
from kvhorizon.models.performance.flops import prefill_flops
from kvhorizon.models.performance.shape import builtin

SHAPE = builtin("llama-3.1-8b")


def schedule(accounts: Accounting, one: object, tokens: int) -> None:
    """A chunk, as the engine does it."""
    accounts.scheduled({one.request_id: tokens}, {one.request_id: one})  # type: ignore[attr-defined]
    one.num_computed_tokens += tokens  # type: ignore[attr-defined]


def evict(accounts: Accounting, one: object) -> None:
    accounts.preempting(one)
    one.num_computed_tokens = 0  # type: ignore[attr-defined]


def test_everything_is_computed_again() -> None:
    accounts = Accounting(SHAPE, UNKNOWN_COST)
    one = request("a", prompt=100, output=20, computed=120)
    evict(accounts, one)
    schedule(accounts, one, 80)
    schedule(accounts, one, 60)  # 40 of them again; 20 new ones
    assert accounts.total.recompute_tokens == 120
    flops = prefill_flops(SHAPE, 0, 80) + prefill_flops(SHAPE, 80, 40)
    assert accounts.total.wasted_flops == pytest.approx(flops)
    assert accounts.total.recompute_s > 0.0


def test_what_the_cache_gives_back_is_not_computed_again() -> None:
    accounts = Accounting(SHAPE, UNKNOWN_COST)
    one = request("a", prompt=100, computed=100)
    evict(accounts, one)
    one.num_computed_tokens = 64
    schedule(accounts, one, 36)
    assert (accounts.total.recompute_tokens, accounts.total.restored_tokens) == (36, 64)


def test_evicted_again_before_it_caught_up() -> None:
    """The mark stays at the highest position: 50 of 100 again, then all 100."""
    accounts = Accounting(SHAPE, UNKNOWN_COST)
    one = request("a", prompt=100, computed=100)
    evict(accounts, one)
    schedule(accounts, one, 50)
    evict(accounts, one)
    schedule(accounts, one, 100)
    assert accounts.total.recompute_tokens == 150
    assert accounts.total.preemptions == 2


def test_tokens_that_no_request_knows_yet_are_not_lost() -> None:
    """Asynchronous scheduling counts placeholders as computed."""
    accounts = Accounting(SHAPE, UNKNOWN_COST)
    one = request("a", prompt=100, output=5, computed=106)
    evict(accounts, one)
    schedule(accounts, one, 105)
    assert accounts.total.recompute_tokens == 105


def test_a_request_leaves_its_record_and_nothing_else() -> None:
    kept = []
    accounts = Accounting(SHAPE, UNKNOWN_COST, lambda ended, tally: kept.append((ended.request_id, tally.preemptions)))
    one, other = request("a", computed=10), request("b", prompt=10, output=3)
    evict(accounts, one)
    assert accounts.tracked == 1
    accounts.release(one)
    accounts.release(other)
    assert accounts.tracked == 0
    assert kept == [("a", 1), ("b", 0)]
    assert accounts.useful_flops > prefill_flops(SHAPE, 0, 10) + prefill_flops(SHAPE, 0, 12)
    assert accounts.useful_flops == accounts.useful_flops
    assert accounts.preemption_frequency == 0.5


def test_a_shape_unknown_counts_tokens_only() -> None:
    accounts = Accounting(None, UNKNOWN_COST)
    one = request("a", prompt=100, computed=100)
    evict(accounts, one)
    schedule(accounts, one, 100)
    accounts.release(one)
    assert accounts.total.recompute_tokens == 100
    assert accounts.total.wasted_flops == accounts.recompute_fraction == 0.0
