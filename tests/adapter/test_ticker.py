"""A tick hands over the state as it is, when something has happened, and not while a decision costs time already."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import request, scheduler

from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.running_batch import Batch
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.engine_facts import UNKNOWN_COST
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.planning.ticker import PATIENCE_S, TICK_S, Ticker
from kvhorizon.solver.expiry import IDLE_TICK_S
from kvhorizon.state import EngineFacts, ForecastKind

FACTS = EngineFacts(400, 16, 8, 256, 4096, UNKNOWN_COST)


class Offered:
    """A session that keeps what it is offered."""

    def __init__(self) -> None:
        self.solver = SimpleNamespace(counts=Counter())
        self.got: list[Any] = []
        self.took_s = 0.02

    def offer(self, snapshot: Any) -> None:
        self.got.append(snapshot)


@pytest.fixture
def batch() -> Batch:
    """Two running requests, three waiting; of the waiting one was evicted, one has a hint."""
    fake = scheduler(total=400, free=60)
    fake.scheduler_config.async_scheduling = False
    rows = Rows(8, Forecaster().tables, capacity=2)
    for number, (prompt, output) in enumerate([(20, 5), (33, 7)]):
        one = request(f"run{number}", prompt, output, prompt + output)
        fake.running.append(one)
        slot = rows.add(one, 1.0 + number, 100 + number, 0)
        rows.take(slot, 1.5)
        rows.columns.out_of_order[slot] = number
    for number, (prompt, output) in enumerate([(50, 0), (60, 9), (70, 0)]):
        one = request(f"wait{number}", prompt, output, num_preemptions=number)
        fake.waiting.append(one)
        rows.add(one, 10.0 + number, 200 + number, 0, *((1, 300.0) if number == 2 else (0, 0.0)))
    return Batch(Engine(fake), rows)


def test_the_snapshot_is_the_state(batch: Batch) -> None:
    session: Any = Offered()
    Ticker(FACTS, cores=16).tick(session, batch, 12.0, 0.02, busy=False)
    before = batch.rows.columns.generated.copy()
    batch.rows.columns.generated[:] = 77  # what was offered is a copy
    snapshot = session.got[0]()
    batch.rows.columns.generated[:] = before
    requests = snapshot.requests
    assert (snapshot.num_running, snapshot.free_blocks, snapshot.now_s, snapshot.revision) == (2, 60, 12.0, 1)
    assert requests.handle.tolist() == [1, 2, 3, 4, 5]
    assert requests.arrival_s.tolist() == [1.0, 2.0, 10.0, 11.0, 12.0]
    assert requests.prompt_tokens.tolist() == [20, 33, 50, 60, 70]
    assert requests.generated_tokens.tolist() == [6, 8, 0, 9, 0]  # with the tokens of the step under way
    assert requests.computed_tokens.tolist() == [25, 40, 0, 0, 0]
    assert requests.blocks_held.tolist() == [2, 3, 0, 0, 0]
    assert requests.output_limit_tokens.tolist() == [100, 101, 200, 201, 202]
    assert requests.preemptions.tolist() == [0, 0, 0, 1, 2]
    assert requests.out_of_order.tolist() == [0, 1, 0, 0, 0]
    assert requests.forecast_scale.tolist() == batch.rows.extra.scale[:5].tolist()
    assert requests.forecast_scale[4] != requests.forecast_scale[3]
    assert requests.forecast_curve.tolist() == batch.rows.extra.curve[:5].tolist()
    assert set(requests.forecast_kind.tolist()) == {ForecastKind.CURVE}


def test_a_tick_comes_in_time_and_after_news(batch: Batch) -> None:
    session: Any = Offered()
    ticker = Ticker(FACTS, cores=16)
    ticks = []
    for step in range(30):
        now_s = 10.0 + 0.02 * step
        if step == 12:
            ticker.news = True
        ticker.tick(session, batch, now_s, 0.02, busy=False)
        ticks.append(len(session.got))
    assert ticks[0] == ticks[12] == 1
    assert ticks[20] == ticks[-1] == 2
    ticker.tick(session, batch, 10.0 + 0.02 * 15 + IDLE_TICK_S + TICK_S, 0.02, busy=False)
    assert len(session.got) == 3


@pytest.mark.parametrize(("cores", "took_s", "pause_s"), [(16, 0.02, TICK_S), (2, 0.02, 0.5), (2, 5.0, IDLE_TICK_S)])
def test_plans_take_a_small_share_of_few_cores(batch: Batch, cores: int, took_s: float, pause_s: float) -> None:
    """A plan of 20 ms is 2 % of two cores twice a second; but forecasts move on, however long a plan takes."""
    session: Any = Offered()
    session.took_s = took_s
    ticker = Ticker(FACTS, cores)
    asked_s: list[float] = []
    for step in range(1, 3001):
        ticker.news = True
        ticker.tick(session, batch, 0.001 * step, 0.02, busy=False)
        if len(session.got) > len(asked_s):
            asked_s.append(0.001 * step)
    assert np.diff(asked_s) == pytest.approx(pause_s, rel=0.1)


def test_a_busy_step_is_spared_but_not_for_long(batch: Batch) -> None:
    session: Any = Offered()
    ticker = Ticker(FACTS, cores=16)
    ticker.tick(session, batch, 10.0, 0.02, busy=False)
    ticker.news = True
    ticker.tick(session, batch, 10.0 + TICK_S, 0.02, busy=True)
    assert len(session.got) == 1
    ticker.tick(session, batch, 10.001 + TICK_S + PATIENCE_S, 0.02, busy=True)
    assert len(session.got) == 2


def test_no_request_plans_for_an_empty_queue(batch: Batch) -> None:
    for number in range(3):
        batch.rows.release(f"wait{number}")
    session: Any = Offered()
    Ticker(FACTS, cores=16).tick(session, batch, 12.0, 0.02, busy=False)
    assert session.got == [None]
