"""Rows written ahead of a new grid are those that a fresh builder computes, and no plan has to write them all."""

import dataclasses

import numpy as np
import pytest
from problems import random_snapshot

from kvhorizon.solver.program.build import Builder
from kvhorizon.solver.program.model import NEVER
from kvhorizon.solver.program.search.budget import Budget, Pace, Spending
from kvhorizon.solver.program.search.construct import by_key, cost_of, greedy_choices
from kvhorizon.solver.program.search.planner import Planner, PlannerSettings
from kvhorizon.solver.program.settings import Settings
from kvhorizon.solver.program.time_grid import HORIZON_DRIFT, HORIZON_SOON, factor
from kvhorizon.state import Snapshot

RUNNING, WAITING = 16, 300
SETTINGS = Settings(buckets=8, points=4, candidates=WAITING)


def stretched(snapshot: Snapshot, by: float) -> Snapshot:
    """The same engine where those who wait, but for a few at the end, are expected to put out `by` times as much."""
    scale = snapshot.requests.forecast_scale.copy()
    scale[RUNNING:-8] *= by
    requests = dataclasses.replace(snapshot.requests, forecast_scale=scale)
    return dataclasses.replace(snapshot, requests=requests)


def counted(builder: Builder, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each call has written from now on."""
    written: list[int] = []
    write = builder.frame.write

    def seen(arena, slot, rows, forecast_inputs):  # type: ignore[no-untyped-def]
        written.append(len(rows))
        write(arena, slot, rows, forecast_inputs)

    monkeypatch.setattr(builder.frame, "write", seen)
    return written


@pytest.mark.parametrize("by", [1.3, 0.75])
def test_a_drift_is_prepared_for_between_plans(by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    before = random_snapshot(5, RUNNING, WAITING)
    after, builder = stretched(before, by), Builder(SETTINGS)
    grid = builder.build(before).bucket_steps
    wanted = Builder(SETTINGS).build(after).bucket_steps
    assert HORIZON_SOON < factor(wanted[-1], grid[-1]) < HORIZON_DRIFT
    np.testing.assert_array_equal(builder.build(after).bucket_steps, grid)  # not yet
    builder.frame.work_ahead(Spending(Budget(work=1_000_000), lambda: 0.0))
    written = counted(builder, monkeypatch)
    problem, fresh = builder.build(after), Builder(SETTINGS).build(after)
    assert sum(written) <= SETTINGS.max_evictions  # all of the queue was there
    np.testing.assert_array_equal(problem.bucket_steps, fresh.bucket_steps)
    same = {int(handle): n for n, handle in enumerate(fresh.handle)}
    there = np.flatnonzero(problem.rows >= 0)
    twin = np.array([same[int(problem.handle[n])] for n in there])
    for name in ("cost", "cost_never", "blocks", "sequences", "prefill_tokens", "held_blocks"):
        ours, theirs = getattr(problem.tables, name)[there], getattr(fresh.tables, name)[twin]
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
    np.testing.assert_array_equal(problem.tables.capacity_blocks, fresh.tables.capacity_blocks)


def test_a_leap_is_followed_at_once() -> None:
    """A horizon beyond the greatest drift is not waited for, prepared or not."""
    before = random_snapshot(5, RUNNING, WAITING)
    after, builder = stretched(before, 4.0), Builder(SETTINGS)
    builder.build(before)
    np.testing.assert_array_equal(builder.build(after).bucket_steps, Builder(SETTINGS).build(after).bucket_steps)


def test_what_was_prepared_outlives_the_snapshot_it_was_read_from() -> None:
    """A session reads the next state into the same columns; rows still to be written are of the queue as planned."""
    before = random_snapshot(5, RUNNING, WAITING)
    after, builder = stretched(before, 1.3), Builder(SETTINGS)
    builder.build(before)
    builder.build(after)
    kept = {field.name: getattr(after.requests, field.name).copy() for field in dataclasses.fields(after.requests)}
    for field in ("prompt_tokens", "generated_tokens", "output_limit_tokens"):
        getattr(after.requests, field)[:] = 7
    builder.frame.work_ahead(Spending(Budget(work=1_000_000), lambda: 0.0))
    for field, column in kept.items():
        getattr(after.requests, field)[:] = column
    blocks = builder.build(after).tables.blocks
    fresh = Builder(SETTINGS).build(after).tables.blocks
    np.testing.assert_array_equal(np.sort(blocks, axis=0), np.sort(fresh, axis=0))


@pytest.mark.parametrize("by", [1.3, 0.75])
def test_a_plan_in_a_new_grid_begins_with_what_the_last_one_wanted(by: float) -> None:
    """No work allowed: the plan is where it began. Everyone keeps the admission point, and no greedy is that good."""
    before = random_snapshot(5, RUNNING, WAITING, occupancy=0.9)
    after, planner = stretched(before, by), Planner(PlannerSettings(program=SETTINGS), lambda: 0.0)
    planner.solve(before, Budget(work=200))
    last = planner.solve(after, Budget(work=200))  # still in the old grid
    wanted = dict(zip(last.problem.handle.tolist(), last.improved.choice.tolist(), strict=True))
    old_grid = last.problem.bucket_steps
    planner._builder.frame.work_ahead(Spending(Budget(work=1_000_000), lambda: 0.0))
    solved = planner.solve(after, Budget(work=0))
    assert not np.array_equal(solved.problem.bucket_steps, old_grid)
    waiting = by_key(solved.problem)
    chosen, handles = solved.improved.choice[waiting], solved.problem.handle[waiting]
    kept = [wanted[handle] == choice for handle, choice in zip(handles.tolist(), chosen.tolist(), strict=True)]
    assert np.mean(kept) > 0.97  # a few do not fit any more
    assert (chosen != NEVER).any()
    greedy = min(cost_of(solved.problem, choice) for choice in greedy_choices(solved.problem, waiting))
    assert solved.improved.objective < greedy


def test_prices_hold_in_a_new_grid() -> None:
    """One round proves nearly what many rounds prove, so the prices of the old grid were right for the new one."""
    before = random_snapshot(5, RUNNING, WAITING, occupancy=0.9)
    after = stretched(before, 1.3)
    bounds = []
    for work in (1, 200):
        planner = Planner(PlannerSettings(program=SETTINGS), lambda: 0.0)
        planner.solve(before, Budget(work=200))
        planner.solve(after, Budget(work=200))
        planner._builder.frame.work_ahead(Spending(Budget(work=1_000_000), lambda: 0.0))
        bounds.append(planner.solve(after, Budget(work=work)).improved.bound)
    assert bounds[0] > 0.97 * bounds[1]


def test_one_slow_piece_does_not_end_the_work_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first touch of fresh memory may take longer than all the time there is; the pace is not believed for ever."""
    before = random_snapshot(5, RUNNING, WAITING)
    builder, pace = Builder(SETTINGS), Pace()
    builder.build(before)
    builder.build(stretched(before, 1.3))
    pace.measured("ahead", 1.0)
    written = counted(builder, monkeypatch)
    for _ in range(12):
        builder.frame.work_ahead(Spending(Budget(seconds=0.0025), lambda: 0.0, pace))
    assert sum(written) == WAITING
