"""Speculative decoding on vLLM's own scheduler, synchronous or not: what a step will take is known to the block."""

from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.engine._plugin_driver import check_whole, drive, workload
from experiments.engine._plugin_engine import Setup

DRAFTS, BLOCKS = 3, 160


def ends(request: Any) -> bool:
    """With asynchronous scheduling vLLM leaves out whose last token is in flight; of it one more is foretold."""
    return bool(request.num_output_tokens + request.num_output_placeholders >= request.max_tokens)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("drafts", [0, DRAFTS])
def test_a_step_takes_what_was_foretold(drafts: int, asynchronous: bool) -> None:
    engine = drive(Setup(blocks=BLOCKS, asynchronous=asynchronous, drafts=drafts))
    plugin, foretold, drafted = engine.scheduler.kvhorizon, {}, 0
    before, surprises, compared = plugin.before_schedule, [], 0

    def expecting() -> None:
        before()
        demand, request = plugin.control.batch.demand(), plugin.rows.request
        names = [request[slot].request_id for slot in demand.slots.tolist()]
        taken = zip(demand.tokens.tolist(), demand.blocks.tolist(), strict=True)
        foretold.update(zip(names, taken, strict=True))

    def see(output: Any) -> None:
        nonlocal drafted, compared
        cached = output.scheduled_cached_reqs
        blocks = {
            name: len(new[0]) if new else 0 for name, new in zip(cached.req_ids, cached.new_block_ids, strict=True)
        }
        for name in foretold.keys() - (output.preempted_req_ids or set()):
            taken = output.num_scheduled_tokens.get(name, 0), blocks.get(name, 0)
            compared += 1
            if taken != foretold[name] and not (taken == (0, 0) and ends(engine.scheduler.requests[name])):
                surprises.append((len(engine.steps), name, foretold[name], taken))
        foretold.clear()
        drafted += sum(map(len, output.scheduled_spec_decode_tokens.values()))

    plugin.before_schedule = expecting
    requests = workload(80, seed=5, output=(20, 200))
    arriving = list(reversed(requests))
    while arriving or engine.busy:
        if arriving:
            engine.scheduler.add_request(arriving.pop())
        engine.step(see)
    check_whole(engine.scheduler, requests, BLOCKS)
    assert surprises == []
    assert compared > 2000
    assert plugin.guard.total == 0
    assert plugin.accounting.total.preemptions > 0
    assert drafted > 1000 if drafts else drafted == 0
