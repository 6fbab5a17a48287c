"""The scheduler plugin's HTTP answers, on a port and on the socket of its own user; and what goes wrong with either."""

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from kvhorizon.adapter.telemetry.listen import Listener, as_json, listen_locally, listen_tcp
from kvhorizon.adapter.telemetry.relay import STALE_S, Relay
from kvhorizon.wire.local import ask, local_address, local_addresses

INSTANCE = f"test-{os.getpid()}"
TEXT = b'# HELP a_total Some\n# TYPE a_total counter\na_total{engine="0"} 3.0\n'


def broken(_query: object) -> None:
    raise RuntimeError("planted")


ROUTES = {
    "/metrics": lambda _: ("text/plain", TEXT),
    "/explain": lambda query: as_json(dict(query)) if "request" in query else None,
    "/broken": broken,
}


@pytest.fixture(params=["tcp", "local"])
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "tcp":
        listener = listen_tcp("127.0.0.1", 0, ROUTES)
        yield f"http://127.0.0.1:{listener.port}"
    else:
        listener = listen_locally(INSTANCE, 0, ROUTES)
        yield local_address(INSTANCE, 0)
    listener.stop()


def test_answers(address: str) -> None:
    assert ask(address, "/metrics") == TEXT
    assert ask(address, "/explain?request=a%20b") == b'{"request": "a b"}'
    assert ask(address, "/explain") is None
    assert ask(address, "/nothing") is None
    with pytest.raises(OSError, match="answered 500"):
        ask(address, "/broken")
    assert ask(address, "/metrics") == TEXT  # one error is no end


def test_garbage_does_not_stop_it(address: str) -> None:
    if address.startswith("\0"):
        raw = socket.socket(socket.AF_UNIX)
        raw.connect(address)
    else:
        raw = socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))
    with raw:
        raw.sendall(b"\x00\xff garbage\r\n\r\n" * 100)
    assert ask(address, "/metrics") == TEXT


def test_no_request_there() -> None:
    for address in (local_address(INSTANCE, 7), "http://127.0.0.1:1", "http://127.0.0.1:99999", "127.0.0.1:x"):
        with pytest.raises(OSError, match=r"refused|[Pp]ort|answer"):
            ask(address, "/metrics")


def test_sockets_are_found_and_leave_nothing_behind() -> None:
    listener = listen_locally(INSTANCE, 3, ROUTES)
    assert local_address(INSTANCE, 3) in local_addresses()
    with pytest.raises(OSError, match="in use"):
        listen_locally(INSTANCE, 3, ROUTES)
    listener.stop()
    assert local_address(INSTANCE, 3) not in local_addresses()


def samples(relay: Relay) -> dict[str, float]:
    return {sample.labels["engine"]: sample.value for family in relay.collect() for sample in family.samples}


def test_the_relay_shows_what_engines_last_said() -> None:
    now_s = [0.0]
    relay = Relay(INSTANCE, [4, 5], clock=lambda: now_s[0])
    assert samples(relay) == {}
    listeners: list[Listener] = []
    for engine in (4, 5):
        text = TEXT.replace(b'engine="0"', f'engine="{engine}"'.encode())
        listeners.append(listen_locally(INSTANCE, engine, {"/metrics": lambda _, text=text: ("text/plain", text)}))
    relay.fetch()
    assert samples(relay) == {"4": 3.0, "5": 3.0}
    assert len(list(relay.collect())) == 1
    listeners[0].stop()
    now_s[0] = STALE_S
    relay.fetch()
    now_s[0] += 1.0
    assert samples(relay) == {"5": 3.0}
    listeners[1].stop()


def test_an_engine_that_hangs_delays_no_scrape() -> None:
    """It accepts and says nothing; what was known before is shown meanwhile."""
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(local_address(INSTANCE, 6))
        hanging.listen()
        relay = Relay(INSTANCE, [6])
        fetching = threading.Thread(target=relay.fetch)
        fetching.start()
        assert list(relay.collect()) == []
        fetching.join(5.0)
        assert not fetching.is_alive()
