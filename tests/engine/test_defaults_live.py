"""Closed loops on a real engine with prefix caching: clients do as `_defaults_loads` says, figures as the clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.live.defaults._defaults_clients import Loop, run
from experiments.live.defaults._defaults_loads import LORA, STRUCTURED, Load, make_load
from experiments.live.defaults._defaults_measure import measured
from experiments.live.defaults._defaults_models import MODELS
from experiments.live.defaults._defaults_rounds import CONTENDERS, served
from experiments.live.serving._live_server import LiveServer

CLIENTS = 5
LETTERS = range(3, 259)  # tokens of the tokenizer that are single bytes; the others are pairs that begin with a sign


@pytest.fixture(scope="module")
def load() -> Load:
    """Some sessions of the mixed load, of every kind."""
    whole = make_load("mixed", 400, 0)
    special = [one for one in whole.sessions if one.kind in (LORA, STRUCTURED)]
    plain = [one for one in whole.sessions if one not in special]
    return Load(whole.name, CLIENTS, tuple(special[:6] + plain[:14]))


@pytest.fixture(scope="module")
def went(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Loop, dict[str, object]]]:
    model = MODELS["tiny"]
    folder = model.write()
    one = served(model, folder, load, CONTENDERS["rules"])
    with LiveServer(one, folder, Path(tmp_path_factory.mktemp("server"))) as server:
        loop = run(server.url, load, server.expect)
        yield loop, measured(loop, {}, server.report(loop.asked), server.cpu_s())


def test_every_request_is_answered_whole_whatever_its_kind(went: tuple[Loop, dict[str, object]], load: Load) -> None:
    seen = went[0].seen
    assert 0.5 * load.requests < len(seen) == went[0].asked <= load.requests
    assert max(one.sent_s - one.ask.think_s for one in seen) <= went[0].full_s
    assert {one.ask.kind for one in seen} == {"plain", LORA, STRUCTURED}
    assert all(one.whole for one in seen)


def test_clients_never_have_more_than_one_request_each_in_flight(went: tuple[Loop, dict[str, object]]) -> None:
    events = [(one.sent_s, 1) for one in went[0].seen] + [(one.answer_s[-1], -1) for one in went[0].seen]
    in_flight = most = 0
    for _, change in sorted(events):
        in_flight += change
        most = max(most, in_flight)
    assert 2 <= most <= CLIENTS


def test_a_later_turn_begins_with_what_was_said_before_it(went: tuple[Loop, dict[str, object]]) -> None:
    by_turn = {(one.ask.session, one.ask.turn): one for one in went[0].seen}
    later = [one for one in went[0].seen if one.ask.turn]
    assert later
    for one in later:
        before = by_turn[one.ask.session, one.ask.turn - 1]
        assert before.tokens
        known = before.ask.prompt + before.tokens
        assert one.ask.prompt[: len(known)] == known
        assert one.sent_s >= before.answer_s[-1] + one.ask.think_s - 1e-3


def test_prefixes_are_found_in_the_cache(went: tuple[Loop, dict[str, object]]) -> None:
    """What the engine computed of the prompts: at least each one's own tokens, far from all."""
    loop, row = went
    assert row["preemptions"] == row["errors"] == 0
    assert row["prompt_tokens"] == pytest.approx(sum(len(one.ask.prompt) for one in loop.seen) / len(loop.seen))
    assert isinstance(row["prefill_tokens"], float)
    assert isinstance(row["prompt_tokens"], float)
    assert 20 < row["prefill_tokens"] < 0.7 * row["prompt_tokens"]


def test_structured_answers_keep_to_their_grammar(went: tuple[Loop, dict[str, object]]) -> None:
    answers = [one.tokens for one in went[0].seen if one.ask.kind == STRUCTURED]
    others = [one.tokens for one in went[0].seen if one.ask.kind != STRUCTURED]
    assert answers
    strays = [sum(token not in LETTERS for tokens in some for token in tokens[:-1] or []) for some in (answers, others)]
    assert strays[0] == 0
    assert strays[1] > 0
