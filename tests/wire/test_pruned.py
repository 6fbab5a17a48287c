"""Of a long queue a part is planned for: who runs, who came first, and who has least to do."""

from dataclasses import replace

import numpy as np
import pytest
from queues import long_queue

from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.state import ForecastKind
from kvhorizon.wire.convert import COLUMNS
from kvhorizon.wire.pruned import pruned
from kvhorizon.wire.validate import check_snapshot


def mixed(seed, count=3_000):
    """A queue in any order of arrival, some of it forecast, some not, with unequal weights."""
    rng = np.random.default_rng(seed)
    snapshot = long_queue(1, count)
    size = len(snapshot.requests)
    kind = rng.choice([ForecastKind.NONE, ForecastKind.CURVE], size)
    requests = replace(
        snapshot.requests,
        forecast_kind=kind.astype(np.uint8),
        forecast_log_sigma=np.zeros(size),
        arrival_s=rng.uniform(0.0, 10.0, size),
        prompt_tokens=snapshot.requests.prompt_tokens + rng.integers(0, 500, size),
        forecast_scale=np.where(kind == ForecastKind.NONE, 0.0, rng.choice([10.0, 300.0], size)),
        weight=rng.choice([0.5, 1.0, 4.0], size),
    )
    return replace(snapshot, requests=requests)


def test_a_short_queue_is_sent_whole():
    snapshot = sample_snapshot()
    assert pruned(snapshot) is snapshot
    assert pruned(snapshot, len(snapshot.requests) - snapshot.num_running) is snapshot


@pytest.mark.parametrize("seed", range(5))
def test_who_is_kept(seed):
    snapshot, most = mixed(seed), 101
    few = pruned(snapshot, most)
    check_snapshot(few)
    before, after = snapshot.requests, few.requests
    at = np.flatnonzero(np.isin(before.handle, after.handle))
    for name, _, _ in COLUMNS:
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name)[at])
    running, waiting = np.arange(snapshot.num_running), np.arange(snapshot.num_running, len(before))
    assert set(running) <= set(at)
    assert len(at) == len(running) + most
    oldest = waiting[np.argsort(before.arrival_s[waiting], kind="stable")[:51]]
    assert set(oldest) <= set(at)
    expected = np.where(before.forecast_scale > 0, before.forecast_scale, before.output_limit_tokens)
    to_do = (before.prompt_tokens + np.maximum(expected, before.generated_tokens)) / before.weight
    others, left = np.setdiff1d(at, np.concatenate([running, oldest])), np.setdiff1d(waiting, at)
    assert to_do[others].max() <= to_do[left].min()


def test_weights_of_nothing_come_last():
    snapshot = mixed(5)
    requests = replace(snapshot.requests, weight=np.zeros(len(snapshot.requests)))
    assert len(pruned(replace(snapshot, requests=requests), 10).requests) == snapshot.num_running + 10
