"""What an engine was seen to do enters the program: its speed of growth, what comes back, what is shared."""

from dataclasses import replace

import numpy as np
import pytest
from problems import random_snapshot

from kvhorizon.models.forecast.resolve import resolve_curves
from kvhorizon.models.performance.step_time import undoing
from kvhorizon.solver.heuristic.admission import victim_row
from kvhorizon.solver.heuristic.of_a_snapshot import columns_of
from kvhorizon.solver.heuristic.params import GREEDY, Knob
from kvhorizon.solver.program.build import build, shared_blocks
from kvhorizon.solver.program.costs import eviction_losses, overflow_price, predictions_of
from kvhorizon.solver.program.settings import Settings
from kvhorizon.state import Habits, Snapshot

SETTINGS = Settings()


def having(snapshot: Snapshot, **habits: float) -> Snapshot:
    return replace(snapshot, habits=Habits(**habits))


def losses(snapshot: Snapshot) -> np.ndarray:
    return eviction_losses(snapshot, predictions_of(snapshot, resolve_curves(snapshot), SETTINGS), SETTINGS)


def test_twice_the_tokens_per_step_is_half_the_horizon() -> None:
    """Buckets are as many tokens wide then, and what is held in them is the same."""
    settings = Settings(first_bucket_steps=16.0)
    snapshot = random_snapshot(3, 20, 20)
    slow = build(snapshot, settings)
    fast = build(having(snapshot, tokens_per_step=2.0), replace(settings, first_bucket_steps=8.0))
    np.testing.assert_allclose(fast.bucket_steps, slow.bucket_steps / 2.0, rtol=1e-6)
    np.testing.assert_allclose(fast.tables.blocks, slow.tables.blocks, rtol=1e-4)
    at_end = np.isfinite(slow.tables.cost[:, -1]) & (slow.rows >= snapshot.num_running)
    assert (fast.tables.cost[at_end, -1] < slow.tables.cost[at_end, -1]).all()  # later points come sooner


def test_what_comes_back_makes_an_eviction_cheap() -> None:
    snapshot = random_snapshot(5, 30, 10)
    dear, cheap = losses(snapshot), losses(having(snapshot, kept_share=1.0))
    assert (cheap < dear).all()
    spread = cheap / (1.0 + snapshot.requests.preemptions[:30])
    assert spread.max() / spread.min() < 2.0 + 1e-9  # only half a step is left, up to twice that near the end
    half = losses(having(snapshot, kept_share=0.5))
    np.testing.assert_allclose(half, 0.5 * (dear + cheap))
    reloaded = losses(having(snapshot, kept_share=1.0, reload_s_per_token=1e-5))
    assert (reloaded > cheap).all()
    rows = np.arange(30)
    assert overflow_price(having(snapshot, kept_share=1.0), rows) < overflow_price(snapshot, rows)


def by_victim_score(snapshot: Snapshot) -> np.ndarray:
    """Running requests (R,) as the step's rule would evict them, the first to go first."""
    columns, curves, habits = columns_of(snapshot), resolve_curves(snapshot), snapshot.habits
    cost = undoing(snapshot.facts.cost, habits.kept_share, habits.reload_s_per_token)
    scores = [
        victim_row(columns, curves, GREEDY[Knob.MEANS], cost, n, snapshot.now_s, 0.0)
        for n in range(snapshot.num_running)
    ]
    return np.argsort(scores)[::-1]


def test_the_steps_rule_prices_victims_alike() -> None:
    """Free to come back: the greatest future memory goes first; priced by size, smaller ones may."""
    snapshot = random_snapshot(7, 40, 10)
    dear, free = by_victim_score(snapshot), by_victim_score(having(snapshot, kept_share=1.0))
    assert sorted(dear.tolist()) == sorted(free.tolist()) == list(range(40))
    context = snapshot.requests.prompt_tokens + snapshot.requests.generated_tokens
    assert context[free[:10]].mean() > context[dear[:10]].mean()


def test_a_shared_prefix_counts_once() -> None:
    """Ten blocks that each of 20 requests holds, 190 of them counted too often, are room for others.

    The snapshot does not say which blocks are shared, as that of an engine that knows nothing of it.
    """
    alone = random_snapshot(11, 20, 20, occupancy=0.9)
    unsaid = replace(alone.requests, shared_tokens=np.zeros(40, np.int64))
    alone = replace(alone, requests=unsaid)
    assert shared_blocks(alone) == 0
    together = replace(alone, free_blocks=alone.free_blocks + 190)
    assert shared_blocks(together) == 190
    before, after = (build(one, SETTINGS).tables.capacity_blocks for one in (alone, together))
    assert after[0] - before[0] == pytest.approx(190.0)
    gained = after - before
    assert (np.diff(gained) <= 1e-9).all()
    assert gained[-1] < gained[0]  # as those who share end


def test_shared_blocks_that_are_said_to_be_cost_others_nothing() -> None:
    """A prefix of 320 tokens that 20 running requests hold together, and each of those that wait would find."""
    alone = random_snapshot(11, 20, 20, occupancy=0.9, caching=False)
    size, requests = alone.facts.block_size, alone.requests
    known = requests.prompt_tokens + requests.generated_tokens
    prefix = np.minimum(320, (known - 1) // size * size)
    runs = np.arange(40) < 20
    once = int(prefix[runs].max()) // size
    held = int((prefix[runs] // size).sum()) - once
    said = replace(
        alone,
        free_blocks=alone.free_blocks + held,
        requests=replace(requests, shared_tokens=prefix, cached_tokens=np.where(runs, 0, prefix)),
    )
    expected = replace(SETTINGS, z=0.0)
    before, after = (build(one, expected) for one in (alone, said))
    assert shared_blocks(said) == 0
    waiting = after.rows >= 20
    cheaper = before.tables.held_blocks[waiting] - after.tables.held_blocks[waiting]
    assert cheaper.tolist() == (prefix[after.rows[waiting]] // size).tolist()
    assert after.tables.capacity_blocks[0] - before.tables.capacity_blocks[0] == pytest.approx(
        held, rel=0.02
    )  # blocks are rounded up
    assert (after.tables.blocks[waiting] <= before.tables.blocks[waiting] + 1e-9).all()


def test_a_window_bounds_what_a_request_holds() -> None:
    snapshot = random_snapshot(13, 10, 30)
    bounded = replace(snapshot, facts=replace(snapshot.facts, window_tokens=320))
    problem = build(bounded, SETTINGS)
    waiting = problem.rows >= 10
    assert problem.tables.held_blocks[waiting].max() <= 20
    assert problem.tables.capacity_blocks[-1] >= build(snapshot, SETTINGS).tables.capacity_blocks[-1]
