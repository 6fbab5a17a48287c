"""Settings of the service, from a TOML file and the environment; read only by the edges."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvhorizon.errors import InputError

PREFIX = "KVHORIZON_"


class ServiceConfig(BaseModel):
    """`kvhorizon serve`. Environment variables KVHORIZON_LISTEN … override the file; options override both."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: str = Field("localhost:50051", description="host:port or unix:/path")
    budget: str = Field("50ms", description="per plan: milliseconds (5ms) or work units (100)")
    knob: str = Field("balanced", description="of the rules: means, balanced, strict or max-wait:SECONDS")
    metrics_port: int | None = Field(None, ge=0, le=65535, description="Prometheus metrics; 0: any free port")
    workers: int = Field(1, ge=1, le=64, description="processes on one port, eight engines each")
    tls_cert: Path | None = Field(None, description="PEM certificate of this end; with it clients need one, too")
    tls_key: Path | None = Field(None, description="PEM key of that certificate")
    tls_ca: Path | None = Field(None, description="PEM certificate of the authority that clients' certificates are of")


def load(
    path: Path | None, environment: Mapping[str, str] = os.environ, options: Mapping[str, Any] = MappingProxyType({})
) -> ServiceConfig:
    """The file's settings, over them the environment's, over these `options`. Raises InputError naming the rule."""
    values = {} if path is None else _read(path)
    for name in ServiceConfig.model_fields:
        if PREFIX + name.upper() in environment:
            values[name] = environment[PREFIX + name.upper()]
    values.update(options)
    for key in values:
        if key not in ServiceConfig.model_fields:
            near = difflib.get_close_matches(key, ServiceConfig.model_fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError("config key", key, f"must be one of {', '.join(ServiceConfig.model_fields)}{hint}")
    try:
        return ServiceConfig(**values)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(".".join(str(part) for part in first["loc"]), first["input"], first["msg"]) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError("config", str(path), f"must be a readable file ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError("config", str(path), f"must be TOML ({error})") from None
