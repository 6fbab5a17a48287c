"""Every kind of request on vLLM's real scheduler: admitted as its limits allow, and in no other's way."""

import random

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.engine._plugin_driver import Drive, check_whole, drive
from experiments.engine._plugin_engine import Setup
from experiments.engine._plugin_kinds import PLAIN, Kind, Maker
from kvhorizon.adapter.kinds.kinds import PATIENCE_S

BOTH = pytest.mark.parametrize("asynchronous", [False, True])


def tokens(rng: random.Random, least: int = 10, most: int = 200) -> list[int]:
    return [rng.randint(3, 1000) for _ in range(rng.randint(least, most))]


def running(engine: Drive) -> list[str]:
    return [request.request_id for request in engine.scheduler.running]


def check_unharmed(engine: Drive) -> None:
    plugin = engine.scheduler.kvhorizon
    assert plugin.guard.total == plugin.account_guard.total == 0


@BOTH
def test_all_kinds_at_once_are_served(asynchronous: bool) -> None:
    """Grammars come a few steps late, one in eight fails; the adapters that run are never more than two."""
    rng, maker = random.Random(3), Maker(caching=True)
    setup = Setup(asynchronous=asynchronous, caching=True, adapters=2, images=128)
    engine, requests, failed = drive(setup), [], set()
    for n in range(120):
        image = (f"i{rng.randrange(20)}", rng.choice([0, 4]), 64)
        kind = [PLAIN, Kind(lora=1 + n % 5), Kind(structured=True), Kind(images=(image,)), Kind(embeddings=True)][n % 5]
        requests.append(maker.request(f"r{n}", [5] * 32 + tokens(rng, 60), rng.randint(5, 80), kind))
    arriving = list(reversed(requests))
    for step in range(5_000):
        if arriving and step % 2 == 0:
            engine.scheduler.add_request(arriving.pop())
        for name in [name for name in maker.grammars if rng.random() < 0.2]:
            if name in engine.scheduler.requests:
                bad = rng.random() < 0.12
                failed |= {name} if bad else set()
                maker.compiled(name, ValueError("planted") if bad else None)
        if not arriving and not engine.busy:
            break
        engine.step()
        loras = {one.lora_request.lora_int_id for one in engine.scheduler.running if one.lora_request}
        assert len(loras) <= 2
    check_whole(engine.scheduler, requests, setup.blocks)
    check_unharmed(engine)
    assert {one.request_id for one in requests if one.status.name == "FINISHED_ERROR"} == failed != set()
    assert all(one.num_output_tokens == one.max_tokens for one in requests if one.request_id not in failed)
    assert engine.scheduler.kvhorizon.ladder["native"] < len(engine.steps) / 10


@BOTH
def test_the_limit_of_adapters_keeps_no_request_else_out(asynchronous: bool) -> None:
    """One adapter at a time: the second has to wait, what came after it does not."""
    maker, engine = Maker(), drive(Setup(adapters=1, asynchronous=asynchronous))
    for name, output, kind in (("one", 30, Kind(lora=1)), ("two", 30, Kind(lora=2)), ("base", 30, PLAIN)):
        engine.scheduler.add_request(maker.request(name, [7] * 40, output, kind))
    engine.scheduler.add_request(maker.request("again", [7] * 40, 5, Kind(lora=1)))
    engine.step()
    plugin = engine.scheduler.kvhorizon
    assert sorted(running(engine)) == ["again", "base", "one"]
    chosen = {plugin.rows.request[slot].request_id for slot in plugin.control.choice.slots}
    assert chosen == {"again", "base", "one"}  # no memory is kept for the other
    while "one" in running(engine):
        engine.step()
    for _ in range(3):
        engine.step()
    assert "two" in running(engine)


def test_an_adapter_always_in_use_makes_way_in_the_end() -> None:
    """Requests of one adapter come for ever; plain vLLM never admits the other."""

    def first_step_of_other(plugin: bool) -> int | None:
        maker, engine = Maker(), drive(Setup(adapters=1, plugin=plugin, step_s=0.1))
        for n in range(900):
            if n % 10 == 0:
                engine.scheduler.add_request(maker.request(f"r{n}", [7] * 40, 30, Kind(lora=1)))
            if n == 15:
                engine.scheduler.add_request(maker.request("other", [7] * 40, 30, Kind(lora=2)))
            engine.step()
            if "other" in running(engine):
                return n
        return None

    assert first_step_of_other(plugin=False) is None
    admitted = first_step_of_other(plugin=True)
    assert admitted is not None
    assert PATIENCE_S / 0.1 < admitted < PATIENCE_S / 0.1 + 100


@BOTH
def test_structured_output_joins_as_soon_as_its_grammar_is_ready(asynchronous: bool) -> None:
    """Until then it takes no memory and no turn of those behind it; then it stands where its age puts it."""
    maker, engine = Maker(), drive(Setup(asynchronous=asynchronous, settings={"local_only": True, "knob": "strict"}))
    engine.scheduler.add_request(maker.request("schema", [7] * 40, 30, Kind(structured=True)))
    for n in range(3):
        engine.scheduler.add_request(maker.request(f"text{n}", [7] * 40, 60))
        engine.step()
    assert running(engine) == ["text0", "text1", "text2"]
    maker.compiled("schema")
    engine.step()
    assert "schema" in running(engine)
    check_unharmed(engine)


def test_of_several_grammars_that_come_the_oldest_goes_first() -> None:
    maker, engine = Maker(), drive(Setup(blocks=40, settings={"local_only": True, "knob": "strict"}))
    engine.scheduler.add_request(maker.request("text", [7] * 16, 200))
    engine.step()
    for name in ("first", "second"):
        engine.scheduler.add_request(maker.request(name, [7] * 400, 30, Kind(structured=True)))
        engine.step()
    maker.compiled("second")
    maker.compiled("first")
    engine.step()
    assert running(engine) == ["text", "first"]  # there is room for one


def test_a_grammar_that_failed_ends_its_request_while_memory_is_full() -> None:
    maker, engine = Maker(), drive(Setup(blocks=20))
    engine.scheduler.add_request(maker.request("text", [7] * 250, 40))
    engine.step()
    bad = maker.request("bad", [7] * 200, 30, Kind(structured=True))
    engine.scheduler.add_request(bad)
    engine.scheduler.add_request(maker.request("large", [7] * 200, 30))
    engine.step()
    maker.compiled("bad", ValueError("planted"))
    engine.step()
    engine.step()
    assert bad.status.name == "FINISHED_ERROR"
    assert running(engine) == ["text"]
    assert not engine.scheduler.kvhorizon.control.refused
    check_unharmed(engine)


def test_an_image_that_does_not_fit_keeps_no_text_out() -> None:
    """Both images begin their prompts, and a step encodes one of them; vLLM alone ends its look at the second."""

    def after_one_step(plugin: bool) -> list[str]:
        maker, engine = Maker(), drive(Setup(images=100, plugin=plugin))
        for name, images in (("a", (("x", 0, 80),)), ("b", (("y", 0, 80),)), ("text", ())):
            engine.scheduler.add_request(maker.request(name, [7] * 90, 30, Kind(images=images)))
        engine.step()
        names = running(engine)
        for _ in range(3):
            engine.step()
        assert sorted(running(engine)) == ["a", "b", "text"]
        return names

    assert after_one_step(plugin=False) == ["a"]
    assert sorted(after_one_step(plugin=True)) == ["a", "text"]


@pytest.mark.parametrize("kind", ["text", "embeddings"])
def test_several_outputs_of_one_prompt_and_embeddings(kind: str) -> None:
    """As the front end sends `n=4`: four requests of one prompt, whose blocks are held once."""
    maker, setup = Maker(caching=True), Setup(caching=True, blocks=60)
    engine, requests = drive(setup), []
    for n in range(24):
        prompt, which = [3 + n // 4] * 160, Kind(embeddings=kind == "embeddings")
        requests.append(maker.request(f"{n % 4}_r{n // 4}", prompt, 40, which))
    engine.run(requests)
    check_whole(engine.scheduler, requests, setup.blocks)
    check_unharmed(engine)
    assert engine.scheduler.kvhorizon.intake.urgent is False


@BOTH
def test_streams_are_counted_in_memory(asynchronous: bool) -> None:
    """A stream is about to take 20 of 45 free blocks; text of 25 is let in only where there is none."""

    def joined(stream: bool) -> list[str]:
        maker, engine = Maker(), drive(Setup(blocks=50, asynchronous=asynchronous))
        engine.scheduler.add_request(maker.request("runs", [7] * 64, 60))
        engine.step()
        if stream:
            engine.scheduler.add_request(maker.request("stream", [7] * 320, 30, Kind(streams=True)))
        engine.scheduler.add_request(maker.request("text", [7] * 400, 30))
        engine.step()
        chosen = [engine.scheduler.kvhorizon.rows.request[n] for n in engine.scheduler.kvhorizon.control.choice.slots]
        assert [one.request_id for one in chosen] == ([] if stream else ["text"])
        names = running(engine)
        for _ in range(20):
            engine.step()
        assert all(one.num_preemptions == 0 for one in engine.scheduler.requests.values())
        check_unharmed(engine)
        return names

    assert joined(stream=False) == ["runs", "text"]
    assert joined(stream=True) == ["runs", "stream"]


@BOTH
def test_kinds_by_priority(asynchronous: bool) -> None:
    """The most urgent class goes first, whatever its kind; what waits for its grammar or an adapter does not count."""
    maker, setup = Maker(), Setup(policy="priority", adapters=1, asynchronous=asynchronous)
    engine, rng, requests = drive(setup), random.Random(5), []
    for n in range(60):
        kind = Kind(lora=n % 3, structured=n % 4 == 1, priority=rng.randrange(3))
        requests.append(maker.request(f"r{n}", tokens(rng), rng.randint(5, 60), kind))
    for request in requests:
        engine.scheduler.add_request(request)
    for _ in range(4_000):
        for name in [name for name in maker.grammars if rng.random() < 0.1]:
            maker.compiled(name)
        if not engine.busy:
            break
        engine.step()
        assert len({one.lora_request.lora_int_id for one in engine.scheduler.running if one.lora_request}) <= 1
    check_whole(engine.scheduler, requests, setup.blocks)
    check_unharmed(engine)
