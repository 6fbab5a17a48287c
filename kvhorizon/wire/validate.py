"""The checks at the edge: what a snapshot or a plan from outside must satisfy, each with field, value and rule.

Everything here raises InputError and changes nothing. A snapshot that passes is safe for compiled code, which checks
no bounds.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kvhorizon.errors import InputError
from kvhorizon.state import EngineFacts, FloatArray, ForecastKind, Habits, HandleArray, Plan, Requests, Snapshot
from kvhorizon.wire.v1 import scheduler_pb2 as pb

MAX_REQUESTS = 65_536
MAX_MESSAGE_BYTES = 64 * 2**20
MAX_CURVES = 1_024
CURVE_POINTS = 512  # the grid of `models.forecast.survival`
MAX_COUNT = 2**31 - 1  # of tokens, blocks and preemptions
MAX_ENGINE_ID = 256  # characters

_COUNTS = (
    "prompt_tokens",
    "generated_tokens",
    "computed_tokens",
    "output_limit_tokens",
    "preemptions",
    "cached_tokens",
    "shared_tokens",
)
_REALS = ("arrival_s", "weight", "forecast_scale", "forecast_log_sigma")


def parse(kind: Any, raw: bytes) -> Any:
    """The message of class `kind` in `raw`; raises InputError for bytes that are none."""
    try:
        return kind.FromString(raw)
    except Exception:  # protobuf's DecodeError; which class it is depends on its backend
        raise InputError("message", None, f"not a {kind.DESCRIPTOR.full_name} ({len(raw)} bytes)") from None


def check_size(message: pb.Requests, field: str = "requests") -> None:
    """At most `MAX_REQUESTS` rows; asked before they are decoded."""
    if len(message.handle) > MAX_REQUESTS:
        raise InputError(f"{field}.handle", len(message.handle), f"must have <= {MAX_REQUESTS} entries")


def check_snapshot(snapshot: Snapshot, check_tables: bool = True) -> None:
    """Everything a planner relies on; the curve tables only if `check_tables`, as they seldom change."""
    facts = snapshot.facts
    check_facts(facts)
    _number("now_s", snapshot.now_s)
    _number("step_s", snapshot.step_s)
    check_habits(snapshot.habits)
    _within("free_blocks", snapshot.free_blocks, 0, facts.total_blocks)
    _within("num_running", snapshot.num_running, 0, len(snapshot.requests))
    if check_tables:
        check_curves(snapshot.curves)
    check_requests(snapshot.requests, facts.total_blocks, snapshot.curves.shape[0])


def check_facts(facts: EngineFacts) -> None:
    """Sizes positive, seconds and FLOPs finite and not negative."""
    for name in ("total_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len"):
        _within(f"facts.{name}", getattr(facts, name), 1, MAX_COUNT)
    for name, value in facts.cost._asdict().items():
        _number(f"facts.cost.{name}", value)
    _rule(facts.cost.smooth >= 1.0, "facts.cost.smooth", facts.cost.smooth, "must be >= 1")
    _rule(
        facts.cost.experts_per_token <= 1.0,
        "facts.cost.experts_per_token",
        facts.cost.experts_per_token,
        "must be <= 1",
    )
    _within("facts.window_tokens", facts.window_tokens, 0, MAX_COUNT)
    _rule(facts.contract_version >= 1, "facts.contract_version", facts.contract_version, "must be >= 1")
    _rule(
        len(facts.engine_id) <= MAX_ENGINE_ID,
        "facts.engine_id",
        len(facts.engine_id),
        f"must have <= {MAX_ENGINE_ID} characters",
    )


def check_habits(habits: Habits) -> None:
    """Numbers finite, tokens per step positive, the share one."""
    for name, value in habits._asdict().items():
        _number(f"habits.{name}", value)
    _rule(habits.tokens_per_step > 0.0, "habits.tokens_per_step", habits.tokens_per_step, "must be > 0")
    _rule(habits.kept_share <= 1.0, "habits.kept_share", habits.kept_share, "must be <= 1")


def check_curves(curves: FloatArray) -> None:
    """Tables (C, G) are survival curves on the agreed grid."""
    if curves.shape[0] == 0:
        return
    _within("curves.curves", curves.shape[0], 0, MAX_CURVES)
    _rule(curves.shape[1] == CURVE_POINTS, "curves.points", curves.shape[1], f"must be {CURVE_POINTS}")
    _column(
        "curves.survival", curves.ravel(), (curves >= 0.0).ravel() & (curves <= 1.0).ravel(), "must be within 0 ... 1"
    )
    falls = (np.diff(curves, axis=1) <= 0.0).ravel()
    _column("curves.survival", curves[:, 1:].ravel(), falls, "must never rise along a curve")


def check_requests(requests: Requests, total_blocks: int, num_curves: int) -> None:
    """Handles unique, counts and reals in range, each forecast usable."""
    _within("requests.handle", len(requests), 0, MAX_REQUESTS)
    check_unique("requests.handle", requests.handle)
    for name in _COUNTS:
        values = getattr(requests, name)
        _column(f"requests.{name}", values, (values >= 0) & (values <= MAX_COUNT), f"must be within 0 ... {MAX_COUNT}")
    known = requests.prompt_tokens + requests.generated_tokens
    shared = requests.shared_tokens
    _column("requests.shared_tokens", shared, shared <= known, "must be <= prompt_tokens + generated_tokens")
    held = requests.blocks_held
    _column("requests.blocks_held", held, (held >= 0) & (held <= total_blocks), f"must be within 0 ... {total_blocks}")
    for name in _REALS:
        values = getattr(requests, name)
        _column(f"requests.{name}", values, np.isfinite(values) & (values >= 0.0), "must be finite and >= 0")
    _check_forecasts(requests, num_curves)


def _check_forecasts(requests: Requests, num_curves: int) -> None:
    kind, curve, scale = requests.forecast_kind, requests.forecast_curve, requests.forecast_scale
    _column("requests.forecast_kind", kind, kind <= max(ForecastKind), "must be 0, 1 or 2")
    _column("requests.forecast_scale", scale, (kind == ForecastKind.NONE) | (scale > 0.0), "must be > 0 where forecast")
    known = (kind != ForecastKind.CURVE) | ((curve >= 0) & (curve < num_curves))
    _column("requests.forecast_curve", curve, known, f"must be a row of the {num_curves} curves")


def check_plan(plan: Plan) -> None:
    """The shape of a plan, whatever it is based on."""
    for name, other in (("admit_at_steps", "admissions"), ("block_prices", "bucket_steps")):
        count, wanted = len(getattr(plan, name)), len(getattr(plan, other))
        _rule(count == wanted, f"plan.{name}", count, f"must have {wanted} entries, one per entry of {other}")
    for name in ("admissions", "evictions"):
        check_unique(f"plan.{name}", getattr(plan, name))
    for name in ("admit_at_steps", "bucket_steps", "block_prices"):
        values = getattr(plan, name)
        _column(f"plan.{name}", values, np.isfinite(values) & (values >= 0.0), "must be finite and >= 0")


def check_plan_for(plan: Plan, snapshot: Snapshot) -> None:
    """A plan based on `snapshot` names its epoch and revision, admits waiting and evicts running requests only."""
    check_plan(plan)
    epoch, revision = snapshot.facts.engine_epoch, snapshot.revision
    _rule(plan.engine_epoch == epoch, "plan.engine_epoch", plan.engine_epoch, f"must be {epoch}")
    _rule(plan.based_on_revision == revision, "plan.based_on_revision", plan.based_on_revision, f"must be {revision}")
    running, waiting = np.split(snapshot.requests.handle, [snapshot.num_running])
    _column("plan.admissions", plan.admissions, np.isin(plan.admissions, waiting), "must be a waiting request")
    _column("plan.evictions", plan.evictions, np.isin(plan.evictions, running), "must be a running request")


def check_unique(field: str, handles: HandleArray) -> None:
    """No handle twice."""
    ordered = np.sort(handles)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    _rule(len(twice) == 0, field, int(twice[0]) if len(twice) else None, "must be unique")


def _column(field: str, values: NDArray[Any], good: NDArray[np.bool_], rule: str) -> None:
    if not good.all():
        at = int(np.argmin(good))
        raise InputError(f"{field}[{at}]", values[at].item(), rule)


def _number(field: str, value: float) -> None:
    _rule(bool(np.isfinite(value)) and value >= 0.0, field, value, "must be finite and >= 0")


def _within(field: str, value: int, low: int, high: int) -> None:
    _rule(low <= value <= high, field, value, f"must be within {low} ... {high}")


def _rule(holds: bool, field: str, value: object, rule: str) -> None:
    if not holds:
        raise InputError(field, value, rule)
