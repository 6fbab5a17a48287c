"""A service that stops finishes what is under way, and waits for no client that has stopped reading."""

import signal
import subprocess
import sys
import threading

import pytest
from queues import long_queue
from stub_planner import Gate

from kvhorizon.service.server import serve
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.wire.channel import SERVICE
from kvhorizon.wire.client import Client
from kvhorizon.wire.convert import encode_snapshot
from kvhorizon.wire.failures import SolverUnavailable
from kvhorizon.wire.v1 import scheduler_pb2 as pb

ASKING = f"""
import sys
from pathlib import Path
from kvhorizon.wire.channel import connect
connect(sys.argv[1]).unary_unary("/{SERVICE}/Explain")(Path(sys.argv[2]).read_bytes())
"""


def test_stopping_finishes_the_plan_under_way_and_ends_sessions():
    gate = Gate()
    server = serve("127.0.0.1:0", lambda: gate, None)
    with Client(server.address) as client, client.session() as session:
        session.send(sample_snapshot(4))
        assert gate.entered.wait(5)
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        gate.opened.set()
        assert session.wait(4).based_on_revision == 4
        with pytest.raises(SolverUnavailable, match="the service is stopping"):
            session.wait(5)
        stopping.join(5)
        assert not client.ready(timeout_s=1)


def test_stopping_waits_for_no_client_that_stops_reading(tmp_path):
    """What does not fit into the socket any more is under way for ever."""
    gate, request = Gate(), tmp_path / "request"
    server = serve(f"unix:{tmp_path}/solver.sock", lambda: gate, None)
    request.write_bytes(pb.ExplainRequest(snapshot=encode_snapshot(long_queue(1))).SerializeToString())
    with subprocess.Popen([sys.executable, "-c", ASKING, server.address, request]) as client:
        assert gate.entered.wait(60)
        client.send_signal(signal.SIGSTOP)
        gate.opened.set()
        stopping = threading.Thread(target=server.stop, args=[2.0], daemon=True)  # by then the answer is on its way
        stopping.start()
        stopping.join(30)
        client.kill()
        assert not stopping.is_alive()
