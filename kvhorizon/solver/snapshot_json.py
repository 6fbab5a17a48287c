"""Snapshots from and to JSON that a person can write.

One object per request, `running` in engine order, `waiting` in queue order. What is not known may be left out:

    {"facts": {"total_blocks": 1000, "block_size": 16, "max_num_seqs": 64, "max_num_batched_tokens": 2048,
               "max_model_len": 8192, "cost": {"fixed_s": 0.001, "weights_s": 0.01, "linear_s_per_token": 6e-5}},
     "now_s": 12.5, "free_blocks": 120, "step_s": 0.02,
     "running": [{"handle": 1, "arrival_s": 3.0, "prompt_tokens": 500, "generated_tokens": 80}],
     "waiting": [{"handle": 2, "arrival_s": 12.0, "prompt_tokens": 90,
                  "forecast": {"median_tokens": 200, "log_sigma": 0.5}}]}
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kvhorizon.errors import InputError
from kvhorizon.models.forecast.survival import GRID_POINTS
from kvhorizon.state import EngineFacts, ForecastKind, Habits, Requests, Snapshot, StepCost

Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
Real = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CostJson(_Strict):
    """`StepCost`."""

    fixed_s: Real
    weights_s: Real
    expert_weights_s: Real = 0.0
    experts_per_token: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    linear_s_per_token: Real = 0.0
    smooth: Annotated[float, Field(ge=1.0, allow_inf_nan=False)] = 2.0
    attention_s_per_pair: Real = 0.0
    kv_read_s_per_token: Real = 0.0
    sequence_s: Real = 0.0
    flops_per_token: Real = 0.0
    flops_per_pair: Real = 0.0


class FactsJson(_Strict):
    """`EngineFacts`."""

    total_blocks: Positive
    block_size: Positive
    max_num_seqs: Positive
    max_num_batched_tokens: Positive
    max_model_len: Positive
    cost: CostJson
    engine_id: str = "engine"
    engine_epoch: Annotated[int, Field(ge=0, lt=2**64)] = 0
    window_tokens: Count = 0


class HabitsJson(_Strict):
    """`Habits`."""

    tokens_per_step: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    kept_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    reload_s_per_token: Real = 0.0


class ForecastJson(_Strict):
    """A log-normal total output by median and spread (0: exact), or a row of `curves` and its unit of length."""

    median_tokens: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    log_sigma: Real = 0.0
    curve: Count | None = None
    scale_tokens: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0


class RequestJson(_Strict):
    """One request; a running one without `computed_tokens` or `blocks_held` has finished its prefill."""

    handle: Annotated[int, Field(ge=0, lt=2**64)]
    arrival_s: Real
    prompt_tokens: Count
    generated_tokens: Count = 0
    computed_tokens: Count | None = None
    blocks_held: Count | None = None
    output_limit_tokens: Count | None = None  # default: what the model's length leaves
    preemptions: Count = 0
    cached_tokens: Count = 0
    shared_tokens: Count = 0
    weight: Real = 1.0
    out_of_order: bool = False
    forecast: ForecastJson | None = None


class SnapshotJson(_Strict):
    """`Snapshot`."""

    facts: FactsJson
    revision: Annotated[int, Field(ge=0, lt=2**64)] = 0
    now_s: Real
    free_blocks: Count
    step_s: Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
    running: list[RequestJson] = []
    waiting: list[RequestJson] = []
    curves: list[Annotated[list[Annotated[float, Field(ge=0.0, le=1.0)]], Field(min_length=GRID_POINTS)]] = []
    habits: HabitsJson = HabitsJson()


def snapshot_from_json(text: str) -> Snapshot:
    """The snapshot in `text`. Raises InputError naming the field, its value and the rule."""
    try:
        read = SnapshotJson.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        if not first["loc"]:
            raise InputError("snapshot", None, first["msg"]) from None  # the value would be the whole text
        value = first["input"] if isinstance(first["input"], str | int | float | bool) else None
        raise InputError(".".join(str(part) for part in first["loc"]), value, first["msg"]) from None
    _check(read)
    facts = read.facts.model_dump() | {"cost": StepCost(**read.facts.cost.model_dump())}
    return Snapshot(
        facts=EngineFacts(**facts),
        revision=read.revision,
        now_s=read.now_s,
        free_blocks=read.free_blocks,
        step_s=read.step_s,
        num_running=len(read.running),
        requests=_columns(read),
        curves=np.array(read.curves, np.float64).reshape(len(read.curves), GRID_POINTS if read.curves else 0),
        habits=Habits(**read.habits.model_dump()),
    )


def _check(read: SnapshotJson) -> None:
    """Rules over more than one field."""
    if read.free_blocks > read.facts.total_blocks:
        raise InputError("free_blocks", read.free_blocks, f"must be <= total_blocks={read.facts.total_blocks}")
    for row, curve in enumerate(read.curves):
        if len(curve) != GRID_POINTS or np.any(np.diff(curve) > 0.0):
            raise InputError(f"curves.{row}", None, f"must be {GRID_POINTS} numbers that never rise")
    seen: set[int] = set()
    for where, requests in (("running", read.running), ("waiting", read.waiting)):
        for place, request in enumerate(requests):
            at = f"{where}.{place}"
            if request.handle in seen:
                raise InputError(f"{at}.handle", request.handle, "must be unique")
            seen.add(request.handle)
            if (request.blocks_held or 0) > read.facts.total_blocks:
                raise InputError(f"{at}.blocks_held", request.blocks_held, "must be <= total_blocks")
            _check_forecast(f"{at}.forecast", request.forecast, len(read.curves))


def _check_forecast(field: str, forecast: ForecastJson | None, curves: int) -> None:
    if forecast is None:
        return
    if (forecast.median_tokens is None) == (forecast.curve is None):
        raise InputError(field, None, "must have either median_tokens or curve")
    if forecast.curve is not None and forecast.curve >= curves:
        raise InputError(f"{field}.curve", forecast.curve, f"must be a row of the {curves} curves")


def _columns(read: SnapshotJson) -> Requests:
    """The requests (N,) as columns, defaults filled in."""
    requests = [*read.running, *read.waiting]
    size, length = read.facts.block_size, read.facts.max_model_len
    prompt = np.array([r.prompt_tokens for r in requests], np.int64)
    generated = np.array([r.generated_tokens for r in requests], np.int64)
    runs = np.arange(len(requests)) < len(read.running)
    computed = np.where(runs, np.maximum(prompt + generated - 1, 0), 0)
    computed = _given([r.computed_tokens for r in requests], computed)
    limit = np.maximum(length - prompt, generated + 1)
    forecasts = [r.forecast or ForecastJson() for r in requests]
    curve = np.array([-1 if f.curve is None else f.curve for f in forecasts], np.int64)
    median = np.array([f.median_tokens or 0.0 for f in forecasts], np.float64)
    kind = np.where(curve >= 0, ForecastKind.CURVE, np.where(median > 0.0, ForecastKind.POINT, ForecastKind.NONE))
    return Requests(
        handle=np.array([r.handle for r in requests], np.uint64),
        arrival_s=np.array([r.arrival_s for r in requests], np.float64),
        prompt_tokens=prompt,
        generated_tokens=generated,
        computed_tokens=computed,
        blocks_held=_given([r.blocks_held for r in requests], -(-computed // size)),
        output_limit_tokens=_given([r.output_limit_tokens for r in requests], limit),
        preemptions=np.array([r.preemptions for r in requests], np.int64),
        cached_tokens=np.array([r.cached_tokens for r in requests], np.int64),
        shared_tokens=np.array([r.shared_tokens for r in requests], np.int64),
        weight=np.array([r.weight for r in requests], np.float64),
        out_of_order=np.array([r.out_of_order for r in requests], np.uint8),
        forecast_kind=kind.astype(np.uint8),
        forecast_scale=np.where(curve >= 0, [f.scale_tokens for f in forecasts], median),
        forecast_log_sigma=np.where(median > 0.0, [f.log_sigma for f in forecasts], 0.0),
        forecast_curve=np.maximum(curve, 0),
    )


def _given(
    values: list[int | None], otherwise: np.ndarray[Any, np.dtype[np.int64]]
) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.array([d if v is None else v for v, d in zip(values, otherwise.tolist(), strict=True)], np.int64)


def snapshot_to_json(snapshot: Snapshot) -> str:
    """The text that `snapshot_from_json` reads back to the same snapshot, `curves_version` apart."""
    requests = [_request(snapshot.requests, n) for n in range(len(snapshot.requests))]
    facts = {name: getattr(snapshot.facts, name) for name in FactsJson.model_fields}
    document = {
        "facts": facts | {"cost": snapshot.facts.cost._asdict()},
        "revision": snapshot.revision,
        "now_s": snapshot.now_s,
        "free_blocks": snapshot.free_blocks,
        "step_s": snapshot.step_s,
        "running": requests[: snapshot.num_running],
        "waiting": requests[snapshot.num_running :],
        "curves": snapshot.curves.tolist() if snapshot.curves.size else [],
        "habits": snapshot.habits._asdict(),
    }
    return json.dumps(document, indent=1)


def _request(requests: Requests, n: int) -> dict[str, Any]:
    columns = {"handle", *RequestJson.model_fields} - {"forecast"}
    row: dict[str, Any] = {
        name: getattr(requests, name)[n].item() for name in RequestJson.model_fields if name in columns
    }
    scale = float(requests.forecast_scale[n])
    if requests.forecast_kind[n] == ForecastKind.POINT:
        row["forecast"] = {"median_tokens": scale, "log_sigma": float(requests.forecast_log_sigma[n])}
    elif requests.forecast_kind[n] == ForecastKind.CURVE:
        row["forecast"] = {"curve": int(requests.forecast_curve[n]), "scale_tokens": scale}
    return row
