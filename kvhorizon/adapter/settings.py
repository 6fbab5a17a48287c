"""The scheduler plugin's settings, from the environment and `--additional-config '{"kvhorizon": {...}}'`.

The environment goes first: it does not enter vLLM's compile cache, and so suits addresses and paths.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from kvhorizon.errors import InputError
from kvhorizon.models.slo.classes import NONE, Classes, read_classes
from kvhorizon.solver.heuristic.params import Knob

PREFIX = "KVHORIZON_"


class PluginSettings(BaseModel):
    """Environment variables are `KVHORIZON_` and the name in capitals: KVHORIZON_MODE, KVHORIZON_SOLVER, …"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: str = Field("control", pattern="^(observe|advise|control|off)$", description="what the plugin may do")
    canary: float = Field(1.0, ge=0.0, le=1.0, description="share of time windows under control; the rest observe")
    canary_window_s: float = Field(60.0, gt=0.0)
    guardrail: bool = Field(True, description="step back where control does worse than vLLM alone (decision 018)")
    kill_switch: Path | None = Field(None, description="a file: while it exists, vLLM is left alone")
    knob: Annotated[Knob, PlainValidator(Knob)] = Field(
        Knob.BALANCED, description="of the rules: means, balanced, strict or max-wait:SECONDS"
    )
    classes: Annotated[Classes, PlainValidator(read_classes)] = Field(
        NONE, description="of service, with weights and targets: JSON text, or a .json or .toml file"
    )
    solver: str | None = Field(None, description="host:port or unix:/path of a shared service; none: a child process")
    local_only: bool = Field(False, description="no solver at all: the rules beside the engine decide")
    budget: str = Field("0.01", description="seconds per plan of the child, whose work an engine on few cores feels")
    state: Path | None = Field(None, description="a folder in which what was learned survives restarts")
    model: Path | None = Field(None, description="a file of `kvhorizon train`; none: the history alone forecasts")
    evict: bool | None = Field(
        None, description="carry out evictions that a plan asks for; unset: where evicted KV is kept in host memory"
    )
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_ca: Path | None = None
    gpu: str | None = Field(None, description="preset whose speed recompute is priced at; none: as detected")
    http_port: int = Field(0, ge=0, le=65535, description="metrics and explanations; 0: no port")
    http_host: str = Field("127.0.0.1", min_length=1)
    record: Path | None = Field(None, description="folder for a recording of all requests; none: no recording")
    record_limit_mb: int = Field(1024, ge=1, description="of the folder; the oldest files go first")
    record_tenants: str = Field("hashed", pattern="^(hashed|given)$")
    record_prefixes: bool = Field(False, description="hashes of the prompts' blocks, too, where the engine has them")


def load(additional: object, environment: Mapping[str, str] = os.environ) -> PluginSettings:
    """Settings of `vllm_config.additional_config`, the environment's over them. Raises InputError with the rule."""
    values: dict[str, Any] = {}
    if isinstance(additional, Mapping):
        own = additional.get("kvhorizon", {})
        if not isinstance(own, Mapping):
            raise InputError("additional_config.kvhorizon", own, "must be an object")
        values.update(own)
    for name in PluginSettings.model_fields:
        if PREFIX + name.upper() in environment:
            values[name] = environment[PREFIX + name.upper()]
    try:
        return PluginSettings(**values)
    except ValidationError as error:
        first = error.errors()[0]
        told = first.get("ctx", {}).get("error")
        if isinstance(told, InputError):
            raise told from None
        raise InputError(".".join(str(part) for part in first["loc"]), first["input"], first["msg"]) from None
