"""Classes of service: what a second of delay of their requests weighs, and the times that they are promised.

    {"interactive": {"weight": 4, "ttft_s": 1.0}, "batch": {"weight": 0.25}}

A request names its class; one that names none, or a class that is not there, belongs to `default`, of weight 1 unless
it is given another. Only ratios of weights matter. A waiting request weighs the more, the nearer the first token is
that it was promised (`models.slo.urgency`); of later tokens only attainment is measured.

    {"tenants": {"acme": {"share": 0.5}}}        beside them: tenants' shares of the KV in use, see
    `models.slo.tenant_shares`
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kvhorizon.errors import InputError

DEFAULT = "default"
FIELD = "classes"
TENANTS = "tenants"
MOST_CLASSES = 32  # each is a label of metrics, and a row of reports
MOST_TENANTS = 100
MOST_CHARACTERS = 64
MOST_BYTES = 1 << 20
MOST_WEIGHT = 1000.0

T = TypeVar("T")
Seconds = Annotated[float, Field(gt=0.0, le=1e6)]
Name = Annotated[str, Field(min_length=1, max_length=MOST_CHARACTERS)]


class SloClass(BaseModel):
    """One class. Absent targets are None: nothing was promised."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    weight: Annotated[float, Field(ge=1.0 / MOST_WEIGHT, le=MOST_WEIGHT)] = 1.0  # of a second of delay
    ttft_s: Seconds | None = None  # to the first token
    tpot_s: Seconds | None = None  # mean between later tokens

    @property
    def promises(self) -> bool:
        """Whether there is a target."""
        return self.ttft_s is not None or self.tpot_s is not None

    def met(self, ttft_s: NDArray[np.float64], tpot_s: NDArray[np.float64]) -> NDArray[np.bool_]:
        """(n,) whether requests met every target; nan is no first token, or no later ones to wait between."""
        in_time = np.isfinite(ttft_s)
        if self.ttft_s is not None:
            in_time &= ttft_s <= self.ttft_s
        if self.tpot_s is not None:
            in_time &= np.isnan(tpot_s) | (tpot_s <= self.tpot_s)
        return in_time


class Tenant(BaseModel):
    """What was agreed with one tenant."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    share: Annotated[float, Field(gt=0.0, le=1.0)]  # of the KV in use, while others want some


PLAIN = SloClass()
_MANY: TypeAdapter[dict[str, SloClass]] = TypeAdapter(
    Annotated[dict[Name, SloClass], Field(max_length=MOST_CLASSES)], config=ConfigDict(strict=True)
)
_TENANTS: TypeAdapter[dict[str, Tenant]] = TypeAdapter(
    Annotated[dict[Name, Tenant], Field(max_length=MOST_TENANTS)], config=ConfigDict(strict=True)
)


class Classes:
    """All of one engine, by name; `default` is always among them, and the last unless it is given a place."""

    def __init__(
        self, given: Mapping[str, SloClass] = MappingProxyType({}), tenants: Mapping[str, float] = MappingProxyType({})
    ) -> None:
        self.tenants: dict[str, float] = {**tenants}  # shares by name
        self.of: dict[str, SloClass] = {**given}
        self.of.setdefault(DEFAULT, PLAIN)
        self.given = bool(given)

    @property
    def urges(self) -> bool:
        """Whether some class promises a first token."""
        return any(one.ttft_s is not None for one in self.of.values())

    def known(self, name: str) -> str:
        """The class that a request belongs to which names this one."""
        return name if name in self.of else DEFAULT

    def weight(self, name: str) -> float:
        """Of a request that names this class."""
        return self.of[self.known(name)].weight

    def text(self) -> str:
        """As JSON, which `read_classes` takes back; empty where none was given."""
        said: dict[str, Any] = {}
        if self.given:
            said |= {name: one.model_dump(exclude_defaults=True) for name, one in self.of.items()}
        if self.tenants:
            said[TENANTS] = {name: {"share": share} for name, share in self.tenants.items()}
        return json.dumps(said) if said else ""


NONE = Classes()


def read_classes(value: object) -> Classes:
    """Classes from a mapping, JSON text, or the path of a .json or .toml file. Raises InputError."""
    if isinstance(value, Classes):
        return value
    if isinstance(value, str | Path):
        value = _parsed(str(value))
    if not isinstance(value, Mapping):
        raise InputError(FIELD, value, "must be an object with a class for each name")
    told = dict(value)
    tenants = _checked(_TENANTS, told.pop(TENANTS, {}), f"{FIELD}.{TENANTS}")
    shares = {name: one.share for name, one in tenants.items()}
    if sum(shares.values()) > 1.0 + 1e-9:
        raise InputError(f"{FIELD}.{TENANTS}", sum(shares.values()), "shares must add up to at most 1")
    return Classes(_checked(_MANY, told, FIELD), shares)


def _checked(kind: TypeAdapter[dict[str, T]], value: object, field: str) -> dict[str, T]:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = [part for part in first["loc"] if part != "[key]"]
        told = first["input"] if first["type"] != "missing" else None
        raise InputError(".".join([field, *map(str, where)]), told, first["msg"]) from None


def _parsed(text: str) -> Any:
    """JSON text, or the content of a file."""
    if not text.strip():
        return {}
    if text.lstrip().startswith("{"):
        return _loaded(text, "JSON", json.loads)
    path = Path(text)
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise InputError(FIELD, text, f"must be JSON or a readable file ({error.strerror})") from None
    if len(content) > MOST_BYTES:
        raise InputError(FIELD, text, f"must be at most {MOST_BYTES} bytes")
    kind, load = ("TOML", tomllib.loads) if path.suffix == ".toml" else ("JSON", json.loads)
    return _loaded(content.decode(errors="replace"), kind, load)


def _loaded(text: str, kind: str, load: Any) -> Any:
    try:
        return load(text)
    except (ValueError, RecursionError) as error:
        raise InputError(FIELD, text[:40], f"must be {kind} ({str(error)[:80]})") from None


def weights_of(names: Sequence[str], classes: Classes) -> NDArray[np.float64]:
    """(N,) weights of the classes of these names."""
    return np.array([classes.weight(name) for name in names], np.float64)
