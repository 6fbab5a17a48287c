"""The order of waiting requests in a plan, and what the step keeps beside it."""

import dataclasses

import numpy as np
import pytest
from problems import random_snapshot

from kvhorizon.models.forecast.resolve import resolve_curves
from kvhorizon.models.forecast.survival import EXACT, Curves
from kvhorizon.solver.heuristic.admission import choose_admissions
from kvhorizon.solver.heuristic.columns import Columns, Room
from kvhorizon.solver.heuristic.params import GREEDY, PLANNED, Knob, varied
from kvhorizon.solver.heuristic.scratch import new_scratch
from kvhorizon.solver.program.costs import predictions_of
from kvhorizon.solver.program.settings import Settings, settings_of
from kvhorizon.state import Snapshot

BLOCK = 16


def even(snapshot: Snapshot) -> Snapshot:
    """The same engine with requests of equal weight."""
    requests = dataclasses.replace(snapshot.requests, weight=np.ones(len(snapshot.requests)))
    return dataclasses.replace(snapshot, requests=requests)


@pytest.mark.parametrize("knob", [Knob.BALANCED, Knob.STRICT])
def test_beside_a_plan_the_budget_of_reordering_stays(knob: Knob) -> None:
    beside, alone = PLANNED[knob], GREEDY[knob]
    assert beside.budgeted
    assert beside.quota == alone.quota


def test_without_regard_to_size_it_is_arrival_order() -> None:
    snapshot = even(random_snapshot(3, 8, 40))
    key = predictions_of(snapshot, resolve_curves(snapshot), Settings(size_power=0.0)).key[8:]
    np.testing.assert_array_equal(np.argsort(key, kind="stable"), np.argsort(snapshot.requests.arrival_s[8:]))


def test_equals_go_by_arrival() -> None:
    """Two requests of the same size, the younger first in the queue: the older one's key is less."""
    snapshot = even(random_snapshot(0, 0, 2))
    same = {
        name: np.repeat(getattr(snapshot.requests, name)[:1], 2)
        for name in ("prompt_tokens", "generated_tokens", "forecast_kind", "forecast_scale", "forecast_log_sigma")
    }
    requests = dataclasses.replace(snapshot.requests, arrival_s=np.array([99.0, 98.0]), **same)
    twins = dataclasses.replace(snapshot, requests=requests)
    young, old = predictions_of(twins, resolve_curves(twins), settings_of(Knob.MEANS)).key
    assert old < young


@pytest.mark.parametrize(("planned", "admitted"), [(False, 0), (True, 1)])
def test_a_short_planned_request_may_fill_what_a_long_one_may_not(planned: bool, admitted: int) -> None:
    """100 blocks, 93 of them held by 31 running requests that grow on; two wait that need one block each.

    Six blocks are left after an admission: more than the least reserve of two, less than the 31 blocks that the running
    ones take within 16 steps, of which 7 are asked for at most. That is enough for the short one (8 tokens to come) if
    it is planned, never for the long one (800).
    """
    runs = 31
    lengths = np.concatenate([np.full(runs, 500.0), [8.0, 800.0]])
    held = np.concatenate([np.full(runs, 3), [0, 0]]).astype(np.int32)
    generated = np.concatenate([np.ones(runs), [0, 0]]).astype(np.int32)
    prompt = np.concatenate([np.full(runs, 3 * BLOCK - 1), [BLOCK - 1, BLOCK - 1]]).astype(np.int32)
    columns = Columns(
        arrival_s=np.arange(runs + 2.0),
        prompt=prompt,
        generated=generated,
        computed=prompt * generated,
        blocks=held,
        limit=np.full(runs + 2, 4000, np.int32),
        preemptions=np.zeros(runs + 2, np.int32),
        out_of_order=np.zeros(runs + 2, np.uint8),
        remaining=lengths - generated,
        weight=np.ones(runs + 2),
        shared=np.zeros(runs + 2, np.int32),
        idle=np.zeros(runs + 2, np.int32),
        turn=np.full(runs + 2, -1.0),
    )
    curves = Curves(np.ones((1, 512)), np.ones((1, 512)), np.full(runs + 2, EXACT, np.int32), lengths)
    scratch = new_scratch(runs + 2, 4)
    scratch.waiting[:2] = [runs, runs + 1]
    scratch.rank[runs:] = [2, 1] if planned else [0, 0]
    room = Room(7, 0, 100, BLOCK, 4, 1000, 100.0, np.inf, 93, 0.02, 0.0)
    rule = varied(PLANNED[Knob.MEANS], cap_share=0.07, size_scaled=False, z=2.0, sure_outputs=1.0, growth_steps=0.0)
    count = choose_admissions(columns, curves, rule, np.arange(runs, dtype=np.int32), runs, room, scratch, 2)
    assert scratch.result.chosen[:count].tolist() == [runs] * admitted
