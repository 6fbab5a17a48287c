"""Tokens per step are learned from what runs: one by one, by speculation, through a pipeline."""

from types import SimpleNamespace

import numpy as np
import pytest
from fakes import Status, request, scheduler

from kvhorizon.adapter.accounting.recomputation import Tally
from kvhorizon.adapter.control.preemption_cost import Losing
from kvhorizon.adapter.engine.decode_pace import LEAST_STEPS, Pace
from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.forecasting.learner import running_now
from kvhorizon.adapter.telemetry.pressure import SHOWN_STEPS, promised_blocks
from kvhorizon.models.performance.kept_share import BELIEF_TOKENS, MEMORY_TOKENS
from kvhorizon.state import StepCost


def run(pace: Pace, rate: float, looks: int = 40, steps: int = 100, seed: int = 0) -> None:
    """16 requests, of which some end and others come; drafts are accepted at random."""
    rng = np.random.default_rng(seed)
    handles, generated = np.arange(16), np.zeros(16, np.int64)
    begun = pace._steps
    for look in range(1, looks + 1):
        pace.look(handles.astype(np.uint64), generated, begun + look * steps)
        generated = generated + rng.poisson(rate * steps, 16)
        over = rng.random(16) < 0.1
        handles, generated = np.where(over, handles + 16, handles), np.where(over, 0, generated)


@pytest.mark.parametrize("rate", [2.7, 0.5])
def test_the_rate_is_found(rate: float) -> None:
    pace = Pace()
    run(pace, rate)
    assert pace.told == pytest.approx(rate, rel=0.06)
    run(pace, 2.0 * rate)
    assert pace.told == pytest.approx(2.0 * rate, rel=0.06)


def test_a_token_per_step_is_told_as_one() -> None:
    pace = Pace()
    handles = np.arange(4).astype(np.uint64)
    for look in range(10):
        pace.look(handles, np.array([1, 5, 50, 500]) + 20 * look, 20 * look)
    assert pace.told == 1.0


def test_who_was_evicted_or_prefills_does_not_count() -> None:
    """Of three requests one stood still for most of the time, and one had given nothing before."""
    pace, handles = Pace(), np.arange(3).astype(np.uint64)
    pace.look(handles, np.array([10, 10, 0]), 100)
    pace.look(handles, np.array([40, 12, 5]), 110)
    assert pace.told == 3.0


def test_too_few_steps_are_waited_out_and_a_new_count_begins_anew() -> None:
    pace, handles = Pace(), np.arange(1).astype(np.uint64)
    pace.look(handles, np.array([10]), 100)
    pace.look(handles, np.array([30]), 100 + LEAST_STEPS - 1)
    assert pace.told == 1.0
    pace.look(handles, np.array([12]), 3)
    pace.look(handles, np.array([32]), 13)
    assert pace.told == 2.0


def test_the_tables_carry_it_from_what_the_engine_runs() -> None:
    forecaster, engine = Forecaster(), Engine(scheduler())
    rows = Rows(8, forecaster.tables)
    one = request("a", 10, 1, status=Status.RUNNING)
    rows.take(rows.add(one, 0.0, 10_000, 3), 0.0)
    engine.scheduler.running.append(one)
    for look in range(3):
        one.num_output_tokens = 1 + 25 * look
        forecaster.watch(running_now(engine, rows, 10 * look))
    assert forecaster.tables.tokens_per_step == 2.5


def test_the_pressure_grows_with_it_and_counts_a_shared_prefix_once() -> None:
    def pressure(tokens_per_step: float, used: int) -> dict[int, float]:
        engine = Engine(scheduler(total=1000, free=1000 - used))
        rows = Rows(8, Forecaster().tables._replace(tokens_per_step=tokens_per_step))
        for name in ("a", "b"):
            one = request(name, 160, 1, computed=160, status=Status.RUNNING)
            rows.take(rows.add(one, 0.0, 10_000, 3), 0.0)
            engine.scheduler.running.append(one)
        return promised_blocks(engine, rows)

    plain, fast = pressure(1.0, 20), pressure(4.0, 20)
    assert plain[256] == pytest.approx(fast[64], rel=0.02)  # the same tokens later
    shared = pressure(1.0, 14)  # 20 blocks by their own counts, 6 of them held twice
    assert list(shared) == list(SHOWN_STEPS)
    alive = (plain[64] - shared[64]) / 6.0
    assert 0.0 < alive <= 1.0
    assert (plain[1024] - shared[1024]) / 6.0 < alive


def test_where_all_layers_have_a_window_growth_ends_there() -> None:
    class SlidingWindowSpec(SimpleNamespace):
        pass

    class FullAttentionSpec(SimpleNamespace):
        pass

    window, full = SlidingWindowSpec(sliding_window=512), FullAttentionSpec()

    def engine(*specs: SimpleNamespace) -> Engine:
        groups = [SimpleNamespace(kv_cache_spec=spec) for spec in specs]
        return Engine(scheduler(kv_cache_config=SimpleNamespace(kv_cache_groups=groups)))

    assert engine(full, window).window_tokens == 0
    assert engine(full, window).groups == 1
    assert engine(window).window_tokens == 512 + 16
    assert engine(window, window).groups == 2


def test_survival_in_the_cache_is_learned_and_unlearned() -> None:
    losing = Losing(StepCost(0.005, 0.008, linear_s_per_token=4e-5), 0.0, False)
    assert losing.habits(1.0).kept_share == 0.0
    losing.see(Tally(restored_tokens=int(BELIEF_TOKENS)), 4e-5)
    assert losing.kept == pytest.approx(0.5)
    total = Tally(restored_tokens=int(BELIEF_TOKENS))
    for _ in range(30):  # from now on nothing survives
        total.recompute_tokens += int(MEMORY_TOKENS) // 10
        losing.see(total, 4e-5)
    assert losing.kept < 0.002
    assert losing.cost().linear_s_per_token == pytest.approx(4e-5, rel=0.01)
