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
from kvhorizon.config import ServiceConfig
from kvhorizon.service.main import planner_for, run_service
from kvhorizon.service.workers import run_workers
from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.wire.tls import tls_of


def serve(
    listen: Annotated[str | None, typer.Option(help="host:port or unix:/path (default localhost:50051).")] = None,
    budget: Annotated[str | None, typer.Option(help="Per plan: 5ms, or work units such as 100 (default 50ms).")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve Prometheus metrics there; 0: any free port.")] = None,
    knob: Annotated[str | None, typer.Option(help="means, balanced (default), strict or max-wait:SECONDS.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes on one port, eight engines each (default 1).")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Mutual TLS: PEM certificate of the service.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its PEM key.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM authority that clients' certificates must be of.")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="Settings as TOML.")] = None,
) -> None:
    """Plan for engines over gRPC until SIGTERM or SIGINT."""
    chosen: dict[str, object] = {
        "listen": listen,
        "budget": budget,
        "metrics_port": metrics_port,
        "knob": knob,
        "workers": workers,
    }
    chosen.update(tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca)
    settings = config.load(config_file, options={name: value for name, value in chosen.items() if value is not None})
    if settings.workers > 1:
        run_workers(settings.listen, [worker_arguments(settings, number) for number in range(settings.workers)])
    else:
        run_service(
            settings.listen,
            parse_budget(settings.budget),
            settings.metrics_port,
            make_planner=functools.partial(planner_for, Knob(settings.knob)),
            tls=tls_of(settings.tls_cert, settings.tls_key, settings.tls_ca),
        )
    sys.stdout.flush()
    os._exit(0)  # a planner that ignores its budget inside native code must not keep the process


def worker_arguments(settings: ServiceConfig, number: int) -> list[str]:
    """What a worker is started with; checked here, so that one line says what is wrong. Raises InputError.

    Metrics of the first are on the port given, of the next on the next.
    """
    budget = parse_budget(settings.budget)
    effort = ["--work", str(budget.work)] if budget.seconds is None else ["--budget-s", str(budget.seconds)]
    port = settings.metrics_port
    metrics = [] if port is None else ["--metrics-port", str(port + number if port else 0)]
    tls_of(settings.tls_cert, settings.tls_key, settings.tls_ca)
    files = {"cert": settings.tls_cert, "key": settings.tls_key, "ca": settings.tls_ca}
    secrets = [word for name, path in files.items() if path is not None for word in (f"--tls-{name}", str(path))]
    return [*effort, "--knob", Knob(settings.knob), *metrics, *secrets]
