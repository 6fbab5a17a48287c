"""A trained model in the plugin: live groups are those that the recording gives, and forecasts are better for it."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes import request
from test_groups import intake_of

from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.forecasting.groups import Groups
from kvhorizon.adapter.forecasting.keys import chains_of, group_keys
from kvhorizon.models.forecast.learned.features import DAY_S, FEATURES, Inputs, Recorded, features_of
from kvhorizon.models.forecast.learned.learned import GROUP_KEYS
from kvhorizon.models.forecast.learned.train import train
from kvhorizon.models.forecast.prequential import finish_times

BEGAN_S = 1.7e9


def conversations(gap_s: float, size: int = 2600) -> Recorded:
    """Turns of conversations, whose answers depend on the turn before, the tenant, the sampling and the time of day.

    Times are whole 64ths of a second, so that no sum of them is rounded.
    """
    rng = np.random.default_rng(0)
    arrival_s = np.cumsum(1 + rng.integers(0, int(128 * gap_s), size)) / 64.0
    session = np.where(rng.random(size) < 0.2, -1, rng.integers(0, 400, size))
    sampling, tenant = rng.integers(0, 8, size), np.where(session < 0, rng.integers(0, 5, size), session % 5)
    prompt, output = np.zeros(size, np.int64), np.zeros(size, np.int64)
    hashes: list[np.ndarray] = []
    before: dict[int, int] = {}
    for n, who in enumerate(session.tolist()):
        last = before.get(who, -1) if who >= 0 else -1
        prompt[n] = rng.integers(50, 900) + (0 if last < 0 else prompt[last] + output[last])
        shared = hashes[last][: prompt[n] // 16] if last >= 0 else np.zeros(0, np.int64)
        hashes.append(np.concatenate([shared, 10_000 * n + np.arange(prompt[n] // 16 - len(shared))]))
        middle = (
            (100 + 20 * tenant[n]) * (0.4 if sampling[n] & 1 else 1.0) * (1 if last < 0 else 0.2 * output[last] ** 0.5)
        )
        middle *= 2.0 if (BEGAN_S + arrival_s[n]) % DAY_S > DAY_S / 2 else 1.0
        output[n] = max(1, int(middle * np.exp(0.15 * rng.standard_normal())))
        before[who] = n
    ends = np.ceil(64.0 * finish_times(arrival_s, output)) / 64.0
    return Recorded(
        arrival_s, ends, prompt, output, tenant, session, tuple(hashes), 16, BEGAN_S, sampling.astype(np.int64)
    )


def as_request(of: Recorded, n: int) -> Any:
    """As it comes to the engine."""
    kind = int(of.sampling[n]) if of.sampling is not None else 0
    session = int(of.session[n]) if of.session is not None else -1
    said = {"tenant": f"t{of.tenant[n]}"} | ({"session": f"s{session}"} if session >= 0 else {})
    sampling = SimpleNamespace(
        temperature=0.0 if kind & 2 else 1.0, stop=["."] if kind & 4 else [], min_tokens=0, extra_args=said
    )
    blocks = [] if of.prefix_hashes is None else [int(block).to_bytes(8, "big") for block in of.prefix_hashes[n]]
    return request(
        f"r{n}",
        int(of.prompt_tokens[n]),
        max_tokens=1 << 20,
        arrival_time=BEGAN_S + float(of.arrival_s[n]),
        sampling_params=sampling,
        structured_output_request=object() if kind & 1 else None,
        block_hashes=blocks,
    )


def events(of: Recorded) -> Iterator[tuple[float, int, int]]:
    """(time, 0 finish | 1 arrival, request) in order; at one time, those that end go first."""
    times = [(float(end_s), 0, n) for n, end_s in enumerate(of.finish_s)]
    yield from sorted(times + [(float(arrival_s), 1, n) for n, arrival_s in enumerate(of.arrival_s)])


def serve(of: Recorded, groups: Groups | None, first: int = 0) -> tuple[np.ndarray, Forecaster]:
    """Leaves (N,) of the requests from the `first` on, as an intake sees them come and go; who learned from them."""
    intake, rows, forecaster = intake_of(groups)
    leaves, alive = np.zeros(len(of.arrival_s), np.int64), {}
    for now_s, kind, n in events(of):
        if n < first:
            continue
        if kind:
            alive[n] = as_request(of, n)
            intake.add(alive[n], now_s, BEGAN_S + now_s)
            (slot,) = intake.enter()
            leaves[n] = rows.extra.key[slot]
        else:
            one = alive.pop(n)
            one.num_output_tokens, one.status = int(of.output_tokens[n]), SimpleNamespace(name="FINISHED_STOPPED")
            intake.ended(rows.slot_of[one.request_id], one)
            rows.release(one.request_id)
        forecaster.learn()
    return leaves, forecaster


USED = {"prefix": "cached_tokens", "session": "previous_age_s", "hour": "day_sine", "sampling": "structured"}


@pytest.mark.parametrize("known", [("prefix",), ("session", "hour"), ("session", "sampling"), ("prefix", "sampling")])
def test_live_groups_are_those_of_the_recording(known: tuple[str, ...]) -> None:
    """Each request's, whatever the model was trained with, though the engine sees more than that."""
    pytest.importorskip("lightgbm")
    whole = conversations(60.0 if "hour" in known else 0.3)
    inputs = Inputs(16 if "prefix" in known else 0, *(name in known for name in ("session", "hour", "sampling")))
    model = train(inputs.only(whole))
    assert model.inputs == inputs
    assert {FEATURES[n] for n in model.trees.feature if n >= 0} >= {USED[name] for name in known}
    offline = model.keys(features_of(inputs.only(whole), model.known), whole.tenant)
    groups = Groups(model, "m")
    leaves, _ = serve(whole, groups)
    live = chains_of(leaves)[:, 0]
    fine = (GROUP_KEYS - offline[:, 1]) // 2
    assert (live == group_keys(fine)[:, 0]).all()
    assert len(np.unique(fine)) > 10
    assert groups.errors == 0


def test_a_fresh_plugin_with_a_model_forecasts_better_than_one_without() -> None:
    """Trained on the first 60 % of the requests; two plugins that know nothing of them serve the rest."""
    pytest.importorskip("lightgbm")
    whole = conversations(0.3, 4000)
    first = 2400
    assert whole.prefix_hashes is not None
    assert whole.sampling is not None
    columns = (column[:first] for column in whole[:6])
    model = train(Recorded(*columns, whole.prefix_hashes[:first], 16, None, whole.sampling[:first]))
    health = [serve(whole, groups, first)[1].health for groups in (None, Groups(model, "m"))]
    assert health[0].finished == health[1].finished == 1600
    assert health[1].pinball < 0.75 * health[0].pinball
