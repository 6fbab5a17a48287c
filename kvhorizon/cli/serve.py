"""`kvhorizon serve`: the solver service."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from kvhorizon import config
from kvhorizon.cli.budget import parse_budget
from kvhorizon.service.main import planner_for, run_service
from kvhorizon.solver.greedy import Knob
from kvhorizon.wire.tls import tls_of


def serve(
    listen: Annotated[str | None, typer.Option(help="host:port or unix:/path (default localhost:50051).")] = None,
    budget: Annotated[str | None, typer.Option(help="Per plan: 5ms, or work units such as 100 (default 50ms).")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve Prometheus metrics there; 0: any free port.")] = None,
    knob: Annotated[str | None, typer.Option(help="means, balanced (default), strict or max-wait:SECONDS.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Mutual TLS: PEM certificate of the service.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its PEM key.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM authority that clients' certificates must be of.")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="Settings as TOML.")] = None,
) -> None:
    """Plan for engines over gRPC until SIGTERM or SIGINT."""
    settings = config.load(config_file)
    tls = tls_of(tls_cert or settings.tls_cert, tls_key or settings.tls_key, tls_ca or settings.tls_ca)
    run_service(
        settings.listen if listen is None else listen,
        parse_budget(settings.budget if budget is None else budget),
        settings.metrics_port if metrics_port is None else metrics_port,
        make_planner=functools.partial(planner_for, Knob(settings.knob if knob is None else knob)),
        tls=tls,
    )
    sys.stdout.flush()
    os._exit(0)  # a planner that ignores its budget inside native code must not keep the process
