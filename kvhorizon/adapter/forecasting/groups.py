"""A trained model in the live engine: the group of each request, predicted when it arrives, between two steps.

The features are those that training read from the recording (`models.forecast.learned.features`), and no others: what
the recording did not hold is left unknown here as well. Whatever goes wrong, the group is −1, and the request is
forecast by the history.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Container
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kvhorizon.adapter.forecasting.hints import number_of_name, read_session, read_tenant
from kvhorizon.adapter.forecasting.keys import MOST_GROUPS, sampling_of
from kvhorizon.errors import InputError
from kvhorizon.models.forecast.learned.features import FEATURES, Arrival, FeatureReader, Inputs
from kvhorizon.models.forecast.learned.learned import LearnedModel, load_model
from kvhorizon.state import IntArray

logger = logging.getLogger(__name__)

MOST_NODES = 1 << 14  # of all trees together: so many a prediction may visit, in some 30 µs
MOST_SEEDS = 4096  # newest lengths of a model that histories begin with, about what one of them remembers
UNKNOWN = -1


class _Known(NamedTuple):
    """A request that has arrived and is not over."""

    number: int
    tenant: int
    group: int


class Groups:
    """Of one engine and model. Called by the step's thread only; never raises."""

    def __init__(self, model: LearnedModel, name: str) -> None:
        self.name = name
        self.seeds: IntArray = model.seeds[-MOST_SEEDS:]  # (s, 2) group, output tokens
        self.errors = 0
        self._model: LearnedModel | None = model
        self._inputs = model.inputs
        began_s = 0.0 if model.inputs.hour else None  # arrivals are seconds since 1970
        self._reader = FeatureReader(model.inputs.prefix_tokens, began_s, model.known)
        self._known: dict[str, _Known] = {}
        self._number = 0
        model.groups(np.zeros((1, len(FEATURES))))  # compiles, or loads from the cache

    @property
    def live(self) -> int:
        """Requests that have a group."""
        return len(self._known)

    def arrived(self, request: Any, earliest_s: float, latest_s: float) -> None:
        """Predict, once per request; its arrival is believed between these times of day."""
        if self._model is None or request.request_id in self._known:
            return
        try:
            arrival_s = min(max(request.arrival_time, earliest_s), latest_s)
            arrival = self._arrival(request, arrival_s)
            row = self._reader.arrive(self._number, arrival)
            group = int(self._model.groups(np.array([row]))[0])
            self._known[request.request_id] = _Known(self._number, arrival.tenant, group)
            self._number += 1
        except Exception:
            self._abandon()

    def of(self, name: str) -> int:
        """The group of a request that has arrived; UNKNOWN where there is none."""
        known = self._known.get(name)
        return UNKNOWN if known is None else known.group

    def left(self, request: Any) -> None:
        """The request is over: its length is a feature of later ones."""
        known = self._known.pop(request.request_id, None)
        if known is not None and request.num_output_tokens > 0:
            self._reader.finish(known.number, known.tenant, request.num_output_tokens)

    def keep(self, names: Container[str]) -> None:
        """Forget all others, whose end was missed."""
        for name in [name for name in self._known if name not in names]:
            del self._known[name]

    def _arrival(self, request: Any, arrival_s: float) -> Arrival:
        inputs, parameters = self._inputs, request.sampling_params
        said = (parameters.extra_args if parameters is not None else None) or {}
        tenant, session = _said(said)
        prefix = []
        if inputs.prefix_tokens:
            full = request.num_prompt_tokens // inputs.prefix_tokens
            prefix = [hash(block) for block in self._reader.looked_at(request.block_hashes[:full])]
        return Arrival(
            arrival_s,
            request.num_prompt_tokens,
            number_of_name(tenant),
            number_of_name(f"{tenant}\n{session}") if inputs.session and session else UNKNOWN,
            prefix,
            sampling_of(request) if inputs.sampling else UNKNOWN,
        )

    def _abandon(self) -> None:
        """Do without the model from now on."""
        self.errors += 1
        self._model = None
        self._known.clear()
        logger.exception("kvhorizon's trained model failed; the history forecasts alone from now on")


def _said(extra_args: dict[str, object]) -> tuple[str, str]:
    """Tenant and session; what is of no use is none."""
    try:
        return read_tenant(extra_args), read_session(extra_args)
    except InputError:
        return "", ""


def read_groups(path: Path) -> LearnedModel:
    """A model that an engine can afford to ask. Raises InputError."""
    model = load_model(path)
    if len(model.trees.feature) > MOST_NODES:
        raise InputError("model trees", len(model.trees.feature), f"must have at most {MOST_NODES} nodes in all")
    if len(model.centres) > MOST_GROUPS:
        raise InputError("model centres", len(model.centres), f"must be at most {MOST_GROUPS} groups")
    return model


def groups_of(path: Path | None, prefix_tokens: int) -> Groups | None:
    """The groups of the model that the settings name; None, with one line, where it cannot be used.

    `prefix_tokens` is what a block hash of the engine stands for, 0 where it has none.
    """
    if path is None:
        return None
    try:
        model = read_groups(path)
        _fit(model.inputs, prefix_tokens)
        groups = Groups(model, f"{zlib.crc32(path.read_bytes()):08x}")
    except Exception as error:
        logger.warning("kvhorizon forecasts with the history alone: %s", error)
        return None
    logger.info("kvhorizon forecasts with %s: %d groups of requests", path, len(model.centres))
    return groups


def _fit(inputs: Inputs, prefix_tokens: int) -> None:
    """Raises InputError where the engine lacks what the model was trained with."""
    if inputs.prefix_tokens and not prefix_tokens:
        raise InputError("model inputs", inputs._asdict(), "needs prefix caching, whose hashes it was trained with")
    if inputs.prefix_tokens not in (0, prefix_tokens):
        rule = f"must be of blocks of {prefix_tokens} tokens, as the engine's are"
        raise InputError("model inputs: prefix_tokens", inputs.prefix_tokens, rule)
