"""A short run of `experiments.fuzz_engine`, and proof that its counts would notice a fault."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.fuzz.fuzz_engine import Count, fuzz
from kvhorizon.adapter.accounting.recomputation import Accounting

# synchronous and not, cached and not, drafting and not, by both policies, each kind of decision
SEEDS = (*range(6), 9)


def test_random_plans_and_faults_harm_no_request() -> None:
    count = Count()
    for seed in SEEDS:
        fuzz(seed, count)
    assert (count.lost, count.block_errors, count.accounting_errors) == (0, 0, 0)
    assert count.preemptions > 500
    assert count.evicted_by_plan > 100
    assert count.recomputed > 100_000
    assert count.plugin_errors > 0  # planted ones
    assert count.ladder["native"] > 0


@pytest.mark.parametrize("fault", ["mark too low", "mark forgotten"])
def test_a_fault_in_the_accounting_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Accounting.preempting

    def faulty(self: Accounting, request: object) -> None:
        whole(self, request)  # type: ignore[arg-type]
        known = self._evicted[request.request_id]  # type: ignore[attr-defined]
        known.mark = known.mark - 1 if fault == "mark too low" else 0

    monkeypatch.setattr(Accounting, "preempting", faulty)
    count = Count()
    fuzz(0, count)
    assert count.accounting_errors > 0
