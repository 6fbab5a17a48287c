"""What survives an eviction is counted as the engine does it, and the victim rule hears of it."""

import dataclasses

import numpy as np
import pytest
from engines import facts, random_trace

from kvhorizon.models.performance.kept_share import Kept
from kvhorizon.models.performance.step_time import recompute_seconds, undoing
from kvhorizon.sim import replay as replaying
from kvhorizon.sim.engine.arrays import RECOMPUTED, RESTORED
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.setup import Setup

TRACE = random_trace(5, 200, 1200, 30.0)
TIGHT = facts(120, 16, 64, 512)
GREEDY = parse_policy("kvhorizon:greedy")


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch) -> list:
    """The engines of all replays."""
    made = []
    begin = replaying.start

    def noted(*args):
        engine, forecast = begin(*args)
        made.append(engine)
        return engine, forecast

    monkeypatch.setattr(replaying, "start", noted)
    return made


def test_without_a_cache_all_is_computed_again(engines: list) -> None:
    outcome = replaying.replay(Setup(TRACE, TIGHT), GREEDY)
    assert outcome.preemptions.sum() > 20
    assert engines[0].counters[RESTORED] == 0
    assert engines[0].counters[RECOMPUTED] == outcome.recompute_tokens.sum() > 0


def test_host_memory_gives_back_whole_blocks(engines: list) -> None:
    """At most the last block of each resume, and the one token whose output is wanted, are computed again."""
    setup = Setup(TRACE, TIGHT, reload_s_per_token=1e-6)
    outcome = replaying.replay(setup, GREEDY)
    counters = engines[0].counters
    assert counters[RESTORED] > 0
    assert counters[RECOMPUTED] == outcome.recompute_tokens.sum() <= 17 * outcome.preemptions.sum()
    kept = Kept(True)
    kept.see(int(counters[RESTORED]), int(counters[RECOMPUTED]))
    assert kept.share > 0.85


def test_a_prefix_cache_gives_back_what_nothing_has_overwritten(engines: list) -> None:
    outcome = replaying.replay(dataclasses.replace(Setup(TRACE, TIGHT), prefix_caching=True), GREEDY)
    counters = engines[0].counters
    assert outcome.preemptions.sum() > 20
    assert counters[RESTORED] > 0
    assert counters[RECOMPUTED] == outcome.recompute_tokens.sum()


def test_the_price_changes_which_the_rule_evicts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all comes back cheaply, others go than where nothing does."""
    setup = Setup(TRACE, TIGHT, reload_s_per_token=1e-6)
    net = replaying.replay(setup, GREEDY)
    monkeypatch.setattr(replaying, "undoing", lambda cost, *_: cost)
    full = replaying.replay(setup, GREEDY)
    assert net.preemptions.tolist() != full.preemptions.tolist()
    assert np.isfinite(net.finish_s).all()


def test_the_price_by_hand() -> None:
    """A thousand tokens: reloaded in 1 ms, computed again, or half of each."""
    whole_s = recompute_seconds(TIGHT.cost, 0, 1000)
    assert recompute_seconds(undoing(TIGHT.cost, 1.0, 1e-6), 0, 1000) == pytest.approx(1e-3)
    assert recompute_seconds(undoing(TIGHT.cost, 0.0, 1e-6), 0, 1000) == whole_s
    assert recompute_seconds(undoing(TIGHT.cost, 0.5, 1e-6), 0, 1000) == pytest.approx(0.5 * (whole_s + 1e-3))
