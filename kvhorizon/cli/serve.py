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
from kvhorizon.solver.greedy import parse_knob


def serve(
    listen: Annotated[str | None, typer.Option(help="host:port or unix:/path (default localhost:50051).")] = None,
    budget: Annotated[str | None, typer.Option(help="Per plan: 5ms, or work units such as 100 (default 50ms).")] = None,
    metrics_port: Annotated[int | None, typer.Option(help="Serve Prometheus metrics there; 0: any free port.")] = None,
    knob: Annotated[str | None, typer.Option(help="means, balanced or strict (default balanced).")] = None,
    config_file: Annotated[Path | None, typer.Option("--config", help="Settings as TOML.")] = None,
) -> None:
    """Plan for engines over gRPC until SIGTERM or SIGINT."""
    settings = config.load(config_file)
    run_service(
        settings.listen if listen is None else listen,
        parse_budget(settings.budget if budget is None else budget),
        settings.metrics_port if metrics_port is None else metrics_port,
        make_planner=functools.partial(planner_for, parse_knob(settings.knob if knob is None else knob)),
    )
    sys.stdout.flush()
    os._exit(0)  # a planner that ignores its budget inside native code must not keep the process
