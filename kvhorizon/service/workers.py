"""One service in several processes on one port: the kernel shares connections out among those that listen.

Each worker takes a share of the sessions; an engine that comes to a full one is refused, connects anew, and so finds
one with room. A worker that ends is started again, and its engines send their state anew. The workers end with this
process, however it ends.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

from kvhorizon.errors import InputError
from kvhorizon.wire.backoff import Backoff
from kvhorizon.wire.channel import unix_path
from kvhorizon.wire.child import MODULE, end

logger = logging.getLogger(__name__)
SESSIONS_EACH = 8
_POLL_S = 0.2
_STEADY_S = 60.0  # a worker that ran so long is started again at once
_END_S = 10.0


class Worker:
    """One process, started again when it ends."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._command = [sys.executable, "-P", "-m", MODULE, *arguments, "--exit-on-stdin-eof", "--share-port"]
        self._backoff = Backoff()
        self._start_at_s = 0.0
        self._started_s = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; its first line is for whoever waits for it."""
        self._started_s = time.monotonic()
        self.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def wait_until_serving(self) -> None:
        """Raises InputError where it ends before it serves."""
        assert self.process is not None
        assert self.process.stdout is not None
        if b"listening" not in self.process.stdout.readline():
            raise InputError("workers", self.process.wait(), "a worker ended before it served; its line is above")

    def look_after(self) -> None:
        """Start it again if it has ended, after a pause that doubles while it ends soon."""
        assert self.process is not None
        now_s = time.monotonic()
        if self.process.poll() is None:
            return
        if self._start_at_s == 0.0:
            if now_s - self._started_s > _STEADY_S:
                self._backoff.succeeded()
            pause_s = self._backoff.failed()
            self._start_at_s = now_s + pause_s
            logger.warning("worker %d ended; again in %.1f s", self.process.pid, pause_s)
        elif now_s >= self._start_at_s:
            self._start_at_s = 0.0
            self.start()

    def stop(self) -> None:
        """Finish the plans under way, then end."""
        if self.process is not None:
            self.process.terminate()

    def join(self) -> None:
        """Wait until it has ended, by force if need be."""
        if self.process is not None:
            end(self.process, _END_S)


def check_shared(listen: str) -> None:
    """That several processes can listen there, and no other does. Raises InputError."""
    if unix_path(listen) is not None or listen.endswith(":0"):
        raise InputError("listen", listen, "must be host:port with a port of its own for several workers")
    host, _, port = listen.rpartition(":")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError:
        raise InputError("listen", listen, "cannot be bound: in use, or not an address of this machine") from None


def run_workers(listen: str, arguments: Sequence[Sequence[str]]) -> None:
    """Serve on `listen` until SIGTERM or SIGINT with a process for each of the `arguments`. Raises InputError.

    Call it from the main thread. Prints the address once all workers serve.
    """
    check_shared(listen)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    workers = [Worker(["--listen", listen, *own]) for own in arguments]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.wait_until_serving()
        print(f"kvhorizon solver listening on {listen}", flush=True)
        while not stopping.wait(_POLL_S):
            for worker in workers:
                worker.look_after()
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join()
