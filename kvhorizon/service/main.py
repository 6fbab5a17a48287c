"""Run the solver service as a process: `python -m kvhorizon.service.main --listen localhost:50051`."""

import argparse
import dataclasses
import functools
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kvhorizon.errors import InputError, in_a_line
from kvhorizon.service.calls import PlannerLike
from kvhorizon.service.server import MAX_SESSIONS, Server, serve
from kvhorizon.service.warm_up import warm_up
from kvhorizon.service.workers import SESSIONS_EACH
from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.solver.program.search.budget import Budget
from kvhorizon.solver.program.search.planner import Planner, PlannerSettings
from kvhorizon.solver.program.settings import Settings, settings_of
from kvhorizon.wire.channel import unix_path
from kvhorizon.wire.tls import Tls, tls_of

logger = logging.getLogger(__name__)

DEFAULT_BUDGET_S = 0.05
REFINE_S = 0.005  # after each plan
CANDIDATES = Settings().candidates
_WARM_UPS = (  # every part of the planner, and plans without prices; compiling would use up any number of seconds
    Budget(work=100),
    Budget(work=0),
)
_PARENT_CHECK_S = 0.5


def planner_for(knob: Knob, candidates: int = CANDIDATES) -> PlannerLike:
    """The real planner, one per session, with so many waiting requests in its program."""
    program = dataclasses.replace(settings_of(knob), candidates=candidates)
    return Planner(PlannerSettings(program, knob), time.perf_counter)


def run_service(
    listen: str,
    budget: Budget,
    metrics_port: int | None = None,
    exit_on_stdin_eof: bool = False,
    make_planner: Callable[[], PlannerLike] = functools.partial(planner_for, Knob.BALANCED),
    tls: Tls | None = None,
    share_port: bool = False,
) -> None:
    """Serve on `listen` until SIGTERM or SIGINT, then finish the plans under way. Call it from the main thread.

    Prints the bound address once the planner is warm and health checks succeed. With `exit_on_stdin_eof` the service
    belongs to its parent: when standard input ends or the parent dies, it removes its socket and exits at once.
    With `share_port` it is one of several workers. Raises InputError where an address cannot be bound.
    """
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    if exit_on_stdin_eof:
        threading.Thread(target=_follow_parent, args=(listen, os.getppid()), daemon=True).start()
    refine_s = 0.0 if budget.seconds is None else min(REFINE_S, budget.seconds)  # work units alone repeat exactly
    sessions = SESSIONS_EACH if share_port else MAX_SESSIONS
    with serve(listen, make_planner, budget, metrics_port, sessions, tls, refine_s, share_port) as server:
        for effort in _WARM_UPS:
            warm_up(make_planner(), effort)
        server.serving()
        _announce(server)
        stopping.wait()


def _announce(server: Server) -> None:
    print(f"kvhorizon solver listening on {server.address}", flush=True)
    if server.metrics_port is not None:
        print(f"metrics on port {server.metrics_port}", flush=True)


def _follow_parent(listen: str, parent: int) -> None:
    """Exit with the parent. The pipe tells at once; the parent's number tells where a fork of it holds the pipe."""
    while os.getppid() == parent:
        readable, _, _ = select.select([0], [], [], _PARENT_CHECK_S)
        if readable and not os.read(0, 4096):
            break
    path = unix_path(listen)
    if path is not None:
        _remove(path)
    os._exit(0)  # no request is left to finish anything for


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    try:
        path.parent.rmdir()
    except OSError:  # other files are in it
        logger.info("left %s in place", path.parent)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    """The command line; exits with status 2 and one line where it is wrong."""
    parser = argparse.ArgumentParser(prog="kvhorizon-solver", description="The kvhorizon solver service")
    parser.add_argument("--listen", default="localhost:50051", help="host:port or unix:/path (default: %(default)s)")
    effort = parser.add_mutually_exclusive_group()
    effort.add_argument("--budget-s", type=float, help=f"seconds per plan (default: {DEFAULT_BUDGET_S})")
    effort.add_argument("--work", type=int, help="work units per plan, for results that repeat")
    parser.add_argument(
        "--knob", default=Knob.BALANCED, help="means, balanced, strict or max-wait:SECONDS (default: %(default)s)"
    )
    parser.add_argument("--candidates", type=int, default=CANDIDATES, help="waiting requests in the program at most")
    parser.add_argument("--metrics-port", type=int, help="serve Prometheus metrics there (0: any free port)")
    parser.add_argument("--exit-on-stdin-eof", action="store_true", help="exit when standard input ends")
    parser.add_argument("--share-port", action="store_true", help="other workers may listen on the same port")
    for name in ("cert", "key", "ca"):
        parser.add_argument(f"--tls-{name}", type=Path, help="mutual TLS, PEM")
    parser.add_argument("--nice", type=int, default=0, help="lower the priority by this much")
    return parser.parse_args(argv)


def budget_of(arguments: argparse.Namespace) -> Budget:
    """The planner's budget from the command line; raises InputError where it is out of range."""
    if arguments.work is not None:
        return Budget(work=arguments.work)
    return Budget(seconds=DEFAULT_BUDGET_S if arguments.budget_s is None else arguments.budget_s)


def main(argv: list[str], make_planner: Callable[[], PlannerLike] | None = None) -> int:
    """Exit status 0 after a stop by signal, 2 for bad arguments, 1 for a fault of ours."""
    arguments = parse_arguments(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    os.nice(arguments.nice)
    try:
        run_service(
            arguments.listen,
            budget_of(arguments),
            arguments.metrics_port,
            arguments.exit_on_stdin_eof,
            make_planner or functools.partial(planner_for, Knob(arguments.knob), arguments.candidates),
            tls_of(arguments.tls_cert, arguments.tls_key, arguments.tls_ca),
            arguments.share_port,
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    except Exception as error:  # the log that this goes to may be an engine's
        logger.debug("where it failed", exc_info=True)
        print(f"kvhorizon's solver ends: {in_a_line(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(status)  # a planner that ignores its budget inside native code must not keep the process
