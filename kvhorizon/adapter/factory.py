"""Putting a plugin together for one scheduler."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable
from typing import Any

from kvhorizon.adapter import compat
from kvhorizon.adapter.accounting.recomputation import Accounting
from kvhorizon.adapter.accounting_hooks import Telling
from kvhorizon.adapter.control.controller import Control
from kvhorizon.adapter.control.decision_log import DecisionLog
from kvhorizon.adapter.control.plan_follower import PlanFollower
from kvhorizon.adapter.control.preemption_cost import losing_of
from kvhorizon.adapter.control.step_policy import Rule
from kvhorizon.adapter.control.weights import weights_for
from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.engine_facts import engine_facts, gpu_of, model_shape, price
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.forecasting.groups import groups_of
from kvhorizon.adapter.forecasting.learner import Learner, state_folder, warm_up_forecasts
from kvhorizon.adapter.guardrail.guardrail import Guardrail
from kvhorizon.adapter.guardrail.meter import Meter
from kvhorizon.adapter.modes import Switch, parse_mode, toggle_on_signal
from kvhorizon.adapter.planning.session import PlanSession, SolverLike
from kvhorizon.adapter.planning.ticker import Ticker
from kvhorizon.adapter.plugin import Parts, Plugin
from kvhorizon.adapter.settings import PluginSettings, load
from kvhorizon.adapter.warm_up import warm_up
from kvhorizon.errors import InputError, in_a_line
from kvhorizon.models.performance.gpu import preset
from kvhorizon.solver.heuristic.params import with_prefix_cache
from kvhorizon.state import EngineFacts

logger = logging.getLogger(__name__)


def attach(scheduler: Any, version: str, device_name: str | None) -> Plugin | None:
    """A plugin for the scheduler of vLLM `version`, or None where there can be none.

    Raises InputError for wrong settings, so that whoever starts the engine sees them at once; for nothing else.
    """
    try:
        speak_as_vllm()
        verdict = compat.check(scheduler, version)
        settings = load(getattr(scheduler.vllm_config, "additional_config", None))
        if verdict.level == compat.Level.NONE:
            logger.warning("kvhorizon: %s", verdict.reason)
            return None
        plugin = build(scheduler, settings, verdict.level, device_name)
    except InputError:
        raise
    except Exception as error:
        logger.warning("kvhorizon could not start, vLLM goes on alone: %s", in_a_line(error))
        logger.debug("where it failed", exc_info=True)
        return None
    known = logging.INFO if verdict.level == compat.Level.FULL else logging.WARNING
    logger.log(known, "kvhorizon: %s, mode %s, knob %s", verdict.reason, settings.mode, settings.knob)
    toggle_on_signal(plugin.switch)
    return plugin


def speak_as_vllm() -> None:
    """Our lines go where vLLM's do, unless the user has set where they are to go."""
    theirs, ours = logging.getLogger("vllm"), logging.getLogger("kvhorizon")
    if theirs.handlers and not ours.handlers and not logging.getLogger().handlers:
        ours.handlers = list(theirs.handlers)
        ours.setLevel(theirs.level)


def build(
    scheduler: Any,
    settings: PluginSettings,
    level: compat.Level = compat.Level.FULL,
    device_name: str | None = None,
    clock: Callable[[], float] = time.monotonic,
    wall: Callable[[], float] = time.time,
) -> Plugin:
    """The parts, compiled and put together. Raises InputError for wrong settings."""
    config = scheduler.vllm_config
    engine, shape = Engine(scheduler), model_shape(config)
    gpu = preset(settings.gpu) if settings.gpu else gpu_of(device_name)
    cost = price(shape, gpu, int(config.parallel_config.tensor_parallel_size))
    facts = engine_facts(engine, cost, config)
    greedy = settings.knob.rule if settings.local_only else settings.knob.beside
    warm_up_forecasts()
    groups = groups_of(settings.model, engine.prefix_tokens)
    forecaster = Forecaster(greedy.reserve.z, engine.block_size, engine.window_tokens or math.inf, groups)
    state = state_folder(settings.state, config, groups.name if groups is not None else "")
    rows = Rows(engine.max_active, forecaster.tables)
    rule = Rule(with_prefix_cache(greedy) if engine.prefix_tokens else greedy, cost)
    warm_up(rule, engine)
    losing = losing_of(config, cost, shape, measured=gpu is None)
    may_evict = losing.offloads if settings.evict is None else settings.evict
    plans = PlanFollower(facts.engine_epoch)
    control = Control(engine, rows, rule, plans, DecisionLog(), level)
    solver = _solver(settings, config)
    parts = Parts(
        control,
        Accounting(shape, cost),
        Switch(parse_mode(settings.mode), settings.canary, settings.canary_window_s, settings.kill_switch),
        forecaster,
        Learner(forecaster, engine, rows, state, lambda: control.step),
        losing,
        PlanSession(solver, lambda plan: plans.prepare(plan, rows)),
        Ticker(facts, os.cpu_count() or 1),
    )
    plugin = Plugin(parts, may_evict, clock, wall)
    if settings.guardrail and settings.canary >= 1.0:  # else the canary has its own windows
        plugin.switch.guard(Guardrail(Meter(scheduler, plugin.accounting), facts.engine_epoch))
    plugin.intake.classes = settings.classes
    plugin.intake.weights = plugin.ticker.weights = weights_for(settings.classes, rows)
    plugin.telemetry = _telemetry(plugin, settings, config, facts)
    return plugin


def _solver(settings: PluginSettings, config: Any) -> SolverLike | None:
    """What makes plans; None where none is wanted, and, with one line, where it cannot be had. Raises InputError."""
    if settings.local_only:
        return None
    try:
        from kvhorizon.adapter.planning.solvers import make_solver

        return make_solver(settings, config)
    except InputError:
        raise
    except Exception as error:  # gRPC or protobuf of another version than ours, say
        logger.warning("kvhorizon decides by the rules beside the engine alone: %s", in_a_line(error))
        return None


def _telemetry(plugin: Plugin, settings: PluginSettings, config: Any, facts: EngineFacts) -> Telling | None:
    """What makes the plugin visible; None, with one line, where it cannot start. Raises InputError."""
    try:
        from kvhorizon.adapter.telemetry.telemetry import Telemetry

        return Telemetry(plugin, settings, config, facts)
    except InputError:
        raise
    except Exception as error:
        logger.warning("kvhorizon goes on without metrics and explanations: %s", in_a_line(error))
        logger.debug("where it failed", exc_info=True)
        return None
