"""A request's class reaches its row, the wire and the metrics."""

import json
from types import SimpleNamespace

import pytest
from fakes import request, scheduler

from kvhorizon.adapter.control.step_policy import Rule
from kvhorizon.adapter.control.weights import Weights, weights_for
from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.running_batch import Batch
from kvhorizon.adapter.engine.snapshot import snapshot_of, take_moment
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.engine_facts import UNKNOWN_COST
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.forecasting.intake import Intake
from kvhorizon.adapter.planning.session import PlanSession
from kvhorizon.adapter.planning.ticker import Ticker
from kvhorizon.adapter.settings import load
from kvhorizon.errors import InputError
from kvhorizon.models.slo.classes import read_classes
from kvhorizon.solver.heuristic.params import GREEDY, Knob
from kvhorizon.state import EngineFacts, Habits

CLASSES = {"interactive": {"weight": 4}, "batch": {"weight": 0.25}}


def asking(name: str, **extra: object) -> object:
    parameters = SimpleNamespace(extra_args=extra or None, temperature=1.0, stop=[], min_tokens=0)
    return request(name, sampling_params=parameters)


def intake() -> tuple[Engine, Rows, Intake]:
    engine, forecaster = Engine(scheduler(total=400, free=400)), Forecaster()
    rows = Rows(8, forecaster.tables, capacity=4)
    return engine, rows, Intake(engine, rows, forecaster)


def test_rows_and_snapshots_carry_the_weight_of_the_class() -> None:
    engine, rows, found = intake()
    found.classes = read_classes(CLASSES)
    asked = ({"slo_class": "interactive"}, {"slo_class": "batch"}, {"slo_class": "bulk"}, {}, {"slo_class": 7})
    for number, extra in enumerate(asked):
        found.add(asking(f"r{number}", **extra), 0.0, 0.0)
    slots = found.enter()
    assert rows.columns.weight[slots].tolist() == [4.0, 0.25, 1.0, 1.0, 1.0]
    assert found.named == {"interactive": 1, "batch": 1, "(unknown)": 2, "default": 1}
    facts = EngineFacts(400, 16, 8, 256, 4096, UNKNOWN_COST)
    snapshot = snapshot_of(take_moment(rows, Batch(engine, rows).demand(), 400, 0, 1.0, 0.02, Habits()), facts)
    assert snapshot.requests.weight.tolist() == [4.0, 0.25, 1.0, 1.0, 1.0]


def test_without_classes_nothing_is_read_and_all_weigh_one() -> None:
    _, rows, found = intake()
    found.add(asking("r", slo_class="interactive"), 0.0, 0.0)
    assert rows.columns.weight[found.enter()].tolist() == [1.0]
    assert not found.named


def test_a_slot_does_not_keep_the_weight_of_the_request_before() -> None:
    _, rows, found = intake()
    found.classes = read_classes(CLASSES)
    found.add(asking("a", slo_class="interactive"), 0.0, 0.0)
    slot = found.enter()[0]
    rows.release("a")
    found.add(asking("b"), 0.0, 0.0)
    assert found.enter() == [slot]
    assert rows.columns.weight[slot] == 1.0


def test_the_heavier_goes_first_and_is_given_up_last() -> None:
    engine, rows, found = intake()
    found.classes = read_classes(CLASSES)
    for number, name in enumerate(("batch", "default", "interactive")):
        found.add(asking(name, slo_class=name), float(number), 0.0)
    slots = found.enter()
    rule, batch = Rule(GREEDY[Knob.MEANS], UNKNOWN_COST), Batch(engine, rows)
    order = rule.choose(rows, engine, batch.demand(), rows.waiting(), 5.0).slots
    assert order == slots[::-1]
    for slot in slots:
        one = rows.request[slot]
        one.num_output_tokens, one.num_computed_tokens = 5, 14
        engine.scheduler.running.append(one)
        rows.take(slot, 5.0)
    batch.changed()
    assert list(rule.victims(rows, batch.demand(), 6.0)) == [0, 1, 2]


def test_the_nearer_a_promised_first_token_the_heavier_until_it_is_broken() -> None:
    """One of each runs; the interactive were promised a first token within two seconds."""
    engine, rows, found = intake()
    classes = read_classes({"interactive": {"weight": 2, "ttft_s": 2.0}, "batch": {"tpot_s": 1.0}})
    found.classes, found.weights = classes, weights_for(classes, rows)
    ticker, session = Ticker(EngineFacts(400, 16, 8, 256, 4096, UNKNOWN_COST), cores=16), PlanSession(None)
    ticker.weights = found.weights
    for name, slo_class, at_s in (("run", "interactive", 0.0), ("i", "interactive", 1.0), ("b", "batch", 1.0)):
        found.add(asking(name, slo_class=slo_class), at_s, 0.0)
    slots = found.enter()
    running = rows.request[slots[0]]
    running.num_output_tokens, running.num_computed_tokens = 5, 14
    engine.scheduler.running.append(running)
    rows.take(slots[0], 0.0)
    seen = []
    for now_s in (1.0, 2.0, 2.9, 3.1):
        ticker.tick(session, Batch(engine, rows), now_s, 0.02, False)
        seen.append(rows.columns.weight[slots].tolist())
    assert [weights[0] for weights in seen] == [2.0] * 4
    assert [weights[2] for weights in seen] == [1.0] * 4
    assert [weights[1] for weights in seen] == pytest.approx([2.0, 65.0, 2.0 * (1 + 63 * 0.95), 2.0])


def test_nothing_is_renewed_where_weights_do_not_change() -> None:
    rows = intake()[1]
    assert weights_for(read_classes({"a": {"weight": 4, "tpot_s": 1.0}}), rows) is None
    assert weights_for(read_classes({"a": {"ttft_s": 1.0}}), rows) is not None


def test_settings_take_classes_as_text_or_object_and_say_what_is_wrong() -> None:
    text = {"KVHORIZON_CLASSES": json.dumps(CLASSES)}
    assert load(None, text).classes.of == load({"kvhorizon": {"classes": CLASSES}}, {}).classes.of
    with pytest.raises(InputError, match=r"^classes\.interactive\.weight=-1, Input should be greater"):
        load({"kvhorizon": {"classes": {"interactive": {"weight": -1}}}}, {})


def test_a_tenant_beyond_its_share_weighs_less_from_tick_to_tick() -> None:
    """A request of each tenant runs, with 20 blocks each; others wait. A quarter was agreed with one of the two."""
    engine, rows, found = intake()
    classes = read_classes({**CLASSES, "tenants": {"a": {"share": 0.25}}})
    found.classes, found.weights = classes, Weights(classes, rows)
    ticker, session = Ticker(EngineFacts(400, 16, 8, 256, 4096, UNKNOWN_COST), cores=16), PlanSession(None)
    ticker.weights = found.weights
    asked = {"a0": ("a", "interactive"), "b0": ("b", "batch"), "a1": ("a", "interactive"), "b1": ("b", "batch")}
    for name, (tenant, slo_class) in asked.items():
        found.add(asking(name, tenant=tenant, slo_class=slo_class), 0.0, 0.0)
    slots = found.enter()
    assert rows.columns.weight[slots].tolist() == [4.0, 0.25, 4.0, 0.25]
    for slot in slots[:2]:
        one = rows.request[slot]
        one.num_output_tokens, one.num_computed_tokens = 311, 320
        engine.scheduler.running.append(one)
        rows.take(slot, 0.0)
    batch = Batch(engine, rows)
    ticker.news = True
    ticker.tick(session, batch, 1.0, 0.02, False)
    assert found.weights.factors == {"a": 0.5}
    assert rows.columns.weight[slots].tolist() == [2.0, 0.25, 2.0, 0.25]
    found.add(asking("a2", tenant="a"), 1.0, 1.0)  # the fifth: the rows grow
    fifth = found.enter()
    assert rows.columns.weight[fifth].tolist() == [0.5]
    assert rows.columns.weight[slots].tolist() == [2.0, 0.25, 2.0, 0.25]
    ticker.news = True
    ticker.tick(session, batch, 1.05, 0.02, False)  # too soon to look again
    engine.scheduler.running.pop()
    batch.changed()
    ticker.news = True
    ticker.tick(session, batch, 1.06, 0.02, False)
    assert found.weights.factors == {"a": 0.5}
    ticker.tick(session, batch, 1.2, 0.02, False)
    assert found.weights.factors == {"a": 0.25}
