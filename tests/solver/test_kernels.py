"""Compiled parts against plain numpy, and against the second telling of what feasible means."""

import numpy as np
import pytest
from problems import random_problem, random_snapshot

from kvhorizon.models.forecast.resolve import resolve_curves
from kvhorizon.models.forecast.survival import survive
from kvhorizon.solver.checks.lp_relaxation import rows_of
from kvhorizon.solver.checks.verify import objective, violations
from kvhorizon.solver.program.model import NEVER
from kvhorizon.solver.program.occupancy import Row, Traits, admission_buckets, bucket_edges, grid_of, hold_from
from kvhorizon.solver.program.prices import no_prices
from kvhorizon.solver.program.row_cache import Arena
from kvhorizon.solver.program.search.construct import cost_of, feasible, insert_cheapest, insert_planned
from kvhorizon.solver.program.search.dual import Ascent, reduced_costs, two_least
from kvhorizon.solver.program.settings import Settings

EDGES, BUCKET = bucket_edges(300.0, Settings()), admission_buckets(Settings())
GRID = grid_of(EDGES, BUCKET)


def held_twin(curves, n, context, generated, limit, a, gained=1.0, window=np.inf):
    """Mean, variance, sequences (K,) by the definition in `horizon`."""
    edges, mean, variance, sequences = GRID.edges, [], [], []
    for k in range(len(edges) - 1):
        if k < GRID.bucket[a]:
            mean, variance, sequences = [*mean, 0.0], [*variance, 0.0], [*sequences, 0.0]
            continue
        h = gained * (np.array([edges[k], 0.5 * (edges[k] + edges[k + 1]), edges[k + 1]]) - edges[GRID.bucket[a]])
        alive = np.array([1.0 if x == 0.0 else survive(curves, n, generated, x, limit) for x in h])
        blocks = np.ceil(np.minimum(context + h, window) / 16)
        mean.append((alive * blocks).max())
        variance.append((alive * (1 - alive) * blocks**2).max())
        sequences.append(alive[0])
    return np.array([mean, variance, sequences])


@pytest.mark.parametrize(("seed", "gained", "window"), [(0, 1.0, 0), (1, 2.6, 0), (2, 1.0, 700), (3, 0.7, 350)])
def test_holdings_are_those_of_the_definition(seed: int, gained: float, window: int) -> None:
    """To 1e-4 blocks² and better: chances below 1e-5 count as none."""
    grid = grid_of(EDGES, BUCKET, gained, window)
    snapshot = random_snapshot(seed, 12, 12)
    curves, requests = resolve_curves(snapshot), snapshot.requests
    context = requests.prompt_tokens + requests.generated_tokens
    traits = Traits(context, requests.generated_tokens, requests.output_limit_tokens)
    for n in range(24):
        for a in range(len(GRID.bucket)):
            got = np.zeros((3, len(GRID.edges) - 1))
            hold_from(curves, traits, n, grid, a, 16.0, Row(*got))
            wanted = held_twin(curves, n, context[n], requests.generated_tokens[n], 8192, a, gained, window or np.inf)
            np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-5 * (context[n] / 16 + 300) ** 2)


@pytest.mark.parametrize("seed", range(20))
def test_reduced_costs_and_the_two_least(seed: int) -> None:
    problem = random_problem(seed, 6, 10)
    size, points, buckets = problem.shape
    prices = np.random.default_rng(seed).random(2 * buckets + points + 1)
    prices[::3] = 0.0
    out = np.empty((points + 1, size))
    reduced_costs(problem.tables, problem.turned, prices, out)
    wanted = np.column_stack([problem.tables.cost + rows_of(problem.tables).uses @ prices, problem.tables.cost_never])
    np.testing.assert_allclose(out.T, wanted, rtol=1e-12)
    best, least, second = np.empty(size, np.int64), np.empty(size), np.empty(size)
    two_least(out, best, least, second)
    np.testing.assert_array_equal(np.column_stack([least, second]), np.sort(out.T, axis=1)[:, :2])
    np.testing.assert_array_equal(out[best, np.arange(size)], least)


@pytest.mark.parametrize("seed", range(20))
def test_the_ascent_proves_what_its_prices_say(seed: int) -> None:
    """The value that it keeps is Σ least − prices·limits, summed anew; residuals kept by difference do not drift."""
    problem = random_problem(seed, 6, 30)
    ascent = Ascent(problem, no_prices(problem))
    ascent.run(150, float(problem.tables.cost_never[6:].sum()))
    bound = ascent.bound()
    value = bound.least.sum() - bound.prices.rows @ rows_of(problem.tables).limit
    assert bound.value == pytest.approx(value, rel=1e-9)
    picked, used = ascent.parts.picked, ascent.parts.used
    there = np.flatnonzero(picked < problem.shape[1])
    np.testing.assert_allclose(used, rows_of(problem.tables).uses[there, picked[there]].sum(axis=0), atol=1e-6)


@pytest.mark.parametrize("seed", range(40))
def test_cost_and_feasibility_as_verify_has_them(seed: int) -> None:
    problem = random_problem(seed, 4, 12)
    rng = np.random.default_rng(seed)
    choices = [rng.integers(NEVER, problem.shape[1], 16) for _ in range(20)]
    values = np.vstack([problem.tables.cost.T, problem.tables.cost_never])
    choices += [insert_cheapest(problem.tables, values, np.arange(16))]
    seen = set()
    for choice in choices:
        kept = not violations(problem, choice)
        seen.add(kept)
        assert feasible(problem.tables, choice, 1e-6) == kept
        assert cost_of(problem, choice) == pytest.approx(objective(problem, choice))
    assert True in seen


def test_what_was_planned_comes_back_where_it_fits() -> None:
    """A feasible choice planned again is itself."""
    problem = random_problem(3, 4, 12)
    values = np.vstack([problem.tables.cost.T, problem.tables.cost_never])
    choice = insert_cheapest(problem.tables, values, np.arange(16))
    order = np.flatnonzero(choice != NEVER)
    again = insert_planned(problem.tables, choice, order, order[:0])
    np.testing.assert_array_equal(again[order], choice[order])


def test_requests_keep_their_slots() -> None:
    """Over random queues: distinct slots, kept while a request stays, rewritten only if new or changed."""
    rng, arena, before = np.random.default_rng(0), Arena(3, GRID), {}
    alive = np.arange(1, 60, dtype=np.uint64)
    for tick in range(60):
        handle = rng.permutation(alive)
        traits = np.column_stack([handle % 7, handle % 5 + (handle == alive[0]) * tick]).astype(np.float64)
        slot, stale = arena.place(handle, traits)
        now = dict(zip(handle.tolist(), slot.tolist(), strict=True))
        assert len(set(now.values())) == len(now)
        assert min(now.values()) >= 3
        assert arena.size == max(now.values()) + 1
        assert all(before[h] == s for h, s in now.items() if h in before)
        new = {h for h in now if h not in before}
        changed = {int(alive[0])} if tick else set()
        assert set(handle[stale].tolist()) == new | changed
        before = now
        gone = rng.random(len(alive)) < 0.1
        gone[0] = False
        alive = np.concatenate([alive[~gone], alive.max() + 1 + np.arange(rng.integers(0, 12), dtype=np.uint64)])
