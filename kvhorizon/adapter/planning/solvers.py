"""The solver that an engine asks: a shared service, one child for all engines of a host, or a child of its own."""

from __future__ import annotations

import functools
import logging
from typing import Any

from kvhorizon.adapter.planning.host import AnnouncedChild, HostSolver, meeting_place
from kvhorizon.adapter.planning.session import SolverLike
from kvhorizon.adapter.planning.shared import SharedSolver
from kvhorizon.adapter.settings import PluginSettings
from kvhorizon.errors import in_a_line
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.resilient import ResilientSolver
from kvhorizon.wire.tls import tls_of

logger = logging.getLogger(__name__)

PLAN_DEADLINE_S = 5.0


def make_solver(settings: PluginSettings, config: Any) -> SolverLike:
    """A shared service where an address is given, else a child process: of this engine, or of all data-parallel engines
    of this host where they have a private folder to meet in. None of them is started yet. Raises InputError for wrong
    settings."""
    tls = tls_of(settings.tls_cert, settings.tls_key, settings.tls_ca)
    if settings.solver:
        return SharedSolver(settings.solver, tls, PLAN_DEADLINE_S)
    options = child_options(settings)
    if int(getattr(config.parallel_config, "data_parallel_size", 1)) > 1:
        try:
            return HostSolver(meeting_place(options), functools.partial(AnnouncedChild, options), PLAN_DEADLINE_S)
        except Exception as error:  # another user's folder, a full disk
            logger.warning("kvhorizon starts a solver for this engine alone: %s", in_a_line(error))
    return ResilientSolver(functools.partial(SolverChild, options), PLAN_DEADLINE_S)


def child_options(settings: PluginSettings) -> list[str]:
    """Arguments of the service that a child is."""
    return ["--budget-s", settings.budget, "--knob", settings.knob]
