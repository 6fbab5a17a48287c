"""What the scheduler plugin knows of the prefix cache, against vLLM's own search, step by step on vLLM's scheduler."""

import random

import pytest

from experiments.engine._plugin_driver import check_whole, drive, workload
from experiments.engine._plugin_engine import BLOCK, Setup


def found_by_vllm(manager, request):
    """Leading blocks cached, and those of them that some request holds."""
    blocks, tokens = manager.get_computed_blocks(request)[:2]
    first = blocks.blocks[0] if tokens else ()
    return tokens // BLOCK, sum(block.ref_cnt > 0 for block in first)


def turns(count, seed):
    """Requests in families: each begins with one of five chains, cut at any length, and so shares a part of others."""
    rng = random.Random(seed)
    requests = workload(count, seed, prompt=(5, 200), output=(5, 80), caching=True)
    chains = [[rng.randint(3, 1000) for _ in range(400)] for _ in range(5)]
    for request in requests:
        cut = rng.randint(0, 400)
        request.prompt_token_ids[:0] = rng.choice(chains)[:cut]
        request.num_prompt_tokens = len(request.prompt_token_ids)
        request._all_token_ids[:] = request.prompt_token_ids
        request.block_hashes.clear()
        request.update_block_hashes()
    return requests


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_known_is_what_vllm_finds(asynchronous: bool, seed: int) -> None:
    """Nothing newly cached or taken into use goes unnoticed; what was overwritten meanwhile is seen when looked at.

    Two equal chains computed side by side are the exception: of these the one that vLLM finds may be unused.
    """
    setup = Setup(blocks=160, caching=True, asynchronous=asynchronous)
    engine = drive(setup)
    requests = turns(120, seed)
    rows, prefixes = engine.scheduler.kvhorizon.rows, engine.scheduler.kvhorizon.control.prefixes
    manager, compared, shared = engine.scheduler.kv_cache_manager, 0, 0

    def compare(_output) -> None:
        nonlocal compared, shared
        if not rows.num_waiting:
            return
        engine.scheduler.kvhorizon._enter(True)
        prefixes.refresh(1000)
        for slot in rows.waiting().tolist():
            found, held = found_by_vllm(manager, rows.request[slot])
            known = (rows.cells.shared[slot] + rows.cells.idle[slot]) // BLOCK
            assert known >= found, "a block became cached, unnoticed"
            prefixes.confirm([slot])
            assert (rows.cells.shared[slot] + rows.cells.idle[slot]) // BLOCK == found
            assert rows.cells.shared[slot] // BLOCK <= held
            compared += 1
            shared += rows.cells.shared[slot] > 0

    arriving = list(requests)
    while arriving or engine.busy:
        while arriving and len(arriving) > len(requests) - 1 - len(engine.steps) // 2:
            engine.scheduler.add_request(arriving.pop(0))
        engine.step(compare)
    assert compared > 1000
    assert shared > 100
    check_whole(engine.scheduler, requests, setup.blocks)


def test_requests_on_one_prompt_take_memory_for_it_once() -> None:
    """A pool of 64 blocks, a prompt of 480 tokens for all: 30 blocks once, and two to four of their own each.

    Whole prompts would be two at a time.
    """
    setup = Setup(blocks=65, seats=32, batched=2048, caching=True)
    engine = drive(setup)
    requests = workload(60, 1, prompt=(4, 20), output=(5, 30), caching=True, shared=480)
    most = 0

    def count(_output) -> None:
        nonlocal most
        most = max(most, len(engine.scheduler.running))

    for request in requests:
        engine.scheduler.add_request(request)
    while engine.busy:
        engine.step(count)
    assert most >= 8
    check_whole(engine.scheduler, requests, setup.blocks)


def test_what_running_requests_take_first_is_not_found() -> None:
    """However many blocks are expected to be taken: what is found is what vLLM finds once it has handed them out."""
    for taken in range(0, 60, 7):
        engine = drive(Setup(blocks=60, caching=True))
        cache = engine.scheduler.kvhorizon.control.prefixes.cache
        manager = engine.scheduler.kv_cache_manager
        request = workload(1, 3, prompt=(400, 400), output=(5, 8), caching=True)[0]
        engine.scheduler.add_request(request)
        while engine.busy:
            engine.step()
        all_of_it = cache.found(request).cached
        cache.expect(taken)
        found = cache.found(request).cached
        cache.expect(0)
        assert cache.found(request).cached == all_of_it == 25
        manager.block_pool.get_new_blocks(min(taken, manager.block_pool.get_num_free_blocks()))
        assert found == cache.found(request).cached
    assert found < all_of_it
