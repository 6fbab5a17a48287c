"""Sessions on vLLM's real scheduler: later turns are recognised, and histories about to be used again are kept."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm")

from experiments.live.defaults._defaults_loads import make_load
from experiments.virtual._virtual_drive import CONTENDERS, MODELS, Drive

LOAD = make_load("sessions", 200, 100)


@cache
def driven(contender: str, model: str, load: Any = None) -> Drive:
    drive = Drive(load or LOAD, CONTENDERS[contender], MODELS[model])
    drive.run()
    return drive


def rules(model: str) -> Any:
    plugin = driven("rules", model).plugin
    assert not plugin.guard.failures + plugin.account_guard.failures
    return plugin.control.sessions


def test_all_later_turns_are_recognised() -> None:
    later = sum(len(session.turns) - 1 for session in LOAD.sessions)
    assert rules("heavy").returned >= 0.95 * later


def test_nothing_is_kept_of_requests_that_are_over() -> None:
    sessions = rules("heavy")
    assert not sessions._later
    assert len(sessions._chains) == len(sessions._key_of) == sessions.idle.size[0]


def test_where_prefills_are_dear_fewer_tokens_are_computed_again() -> None:
    plain, ours = driven("plain", "heavy"), driven("rules", "heavy")
    assert ours.totals.prefill_tokens < 0.95 * plain.totals.prefill_tokens
    assert max(one.last_s for one in ours.seen) < max(one.last_s for one in plain.seen)


def test_where_they_are_cheap_none_is_held() -> None:
    sessions = rules("tiny")
    ending_s = max(one.last_s for one in driven("rules", "tiny").seen)
    assert sessions.returned > 0
    assert sessions.returning_tokens(3600.0 + ending_s, MODELS["tiny"].linear_s_per_token) == 0.0
    plain, ours = driven("plain", "tiny"), driven("rules", "tiny")
    assert np.mean([one.last_s - one.sent_s for one in ours.seen]) < 1.05 * np.mean(
        [one.last_s - one.sent_s for one in plain.seen]
    )


def test_aborted_requests_are_no_sessions() -> None:
    """A client that gave up is not expected back."""
    drive = Drive(replace(LOAD, sessions=LOAD.sessions[:1]), CONTENDERS["rules"], MODELS["heavy"])
    while not drive.scheduler.running:
        drive._next()
        drive._step()
    from vllm.v1.request import RequestStatus

    names = [request.request_id for request in drive.scheduler.running]
    drive.scheduler.finish_requests(names, RequestStatus.FINISHED_ABORTED)
    assert drive.plugin.control.sessions.idle.size[0] == 0
    drive.scheduler.shutdown()
