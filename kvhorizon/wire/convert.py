"""Messages to state and back, without loss; what the numbers must satisfy is `wire.validate`'s business.

Decoding refuses only what cannot become columns: missing parts, or columns of different lengths.
"""

import math
from typing import Any, NamedTuple, cast

import numpy as np

from kvhorizon.errors import InputError
from kvhorizon.state import EngineFacts, FloatArray, Habits, Plan, Requests, Snapshot, Source, StepCost
from kvhorizon.wire.v1 import scheduler_pb2 as pb

_SMOOTH = StepCost._field_defaults["smooth"]


class Column(NamedTuple):
    """One column of `Requests`, named alike in state and message."""

    name: str
    dtype: type[np.generic]
    default: float | None = None  # of a column that may be absent


COLUMNS = (
    Column("handle", np.uint64),
    Column("arrival_s", np.float64),
    Column("prompt_tokens", np.int64),
    Column("generated_tokens", np.int64),
    Column("computed_tokens", np.int64),
    Column("blocks_held", np.int64),
    Column("output_limit_tokens", np.int64),
    Column("preemptions", np.int64, 0),
    Column("cached_tokens", np.int64, 0),
    Column("weight", np.float64, 1),
    Column("out_of_order", np.uint8, 0),
    Column("forecast_kind", np.uint8, 0),
    Column("forecast_scale", np.float64, 0),
    Column("forecast_log_sigma", np.float64, 0),
    Column("forecast_curve", np.int64, 0),
    Column("shared_tokens", np.int64, 0),
)
_FACTS = (
    "total_blocks",
    "block_size",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
    "engine_id",
    "engine_epoch",
    "contract_version",
    "window_tokens",
)


def column(values: Any, dtype: type[np.generic]) -> Any:
    """The repeated field `values` as an array of `dtype`, (len(values),)."""
    return np.fromiter(values, dtype=dtype, count=len(values))


def encode_facts(facts: EngineFacts) -> pb.EngineFacts:
    """Message of `facts`."""
    return pb.EngineFacts(
        cost=pb.StepCost(**facts.cost._asdict()),
        **{name: getattr(facts, name) for name in _FACTS},
    )


def decode_facts(message: pb.EngineFacts) -> EngineFacts:
    """Facts of `message`; an absent `cost.smooth` takes its default."""
    cost = StepCost(*(getattr(message.cost, name) for name in StepCost._fields))
    if not message.cost.HasField("smooth"):
        cost = cost._replace(smooth=_SMOOTH)
    return EngineFacts(cost=cost, **{name: getattr(message, name) for name in _FACTS})


def decode_habits(message: pb.Habits) -> Habits:
    """Habits of `message`; an absent `tokens_per_step` takes its default."""
    gained = message.tokens_per_step if message.HasField("tokens_per_step") else Habits().tokens_per_step
    return Habits(gained, message.kept_share, message.reload_s_per_token)


def encode_habits(habits: Habits) -> pb.Habits:
    """Message of `habits`."""
    return pb.Habits(**habits._asdict())


def encode_requests(requests: Requests, rows: Any = slice(None)) -> pb.Requests:
    """Message of the chosen `rows` (anything that indexes an array); columns of defaults stay absent."""
    message = pb.Requests()
    for name, _, default in COLUMNS:
        values = getattr(requests, name)[rows]
        if default is None or (values != default).any():
            getattr(message, name).extend(values.tolist())
    return message


def decode_requests(message: pb.Requests, field: str = "requests") -> Requests:
    """Columns (N,) of `message`; raises InputError where a column has another length than `handle`."""
    count = len(message.handle)
    columns = {}
    for name, dtype, default in COLUMNS:
        values = getattr(message, name)
        if default is not None and len(values) == 0:
            columns[name] = np.full(count, default, dtype=dtype)
            continue
        if len(values) != count:
            raise InputError(f"{field}.{name}", len(values), f"must have {count} entries, one per handle")
        columns[name] = _forecast_kinds(values, field) if name == "forecast_kind" else column(values, dtype)
    return Requests(**columns)


def _forecast_kinds(values: Any, field: str) -> Any:
    """Kinds (N,) as bytes; raises InputError for a number that no byte holds."""
    kinds = column(values, np.int64)
    if ((kinds < 0) | (kinds > 255)).any():
        raise InputError(f"{field}.forecast_kind", int(kinds[(kinds < 0) | (kinds > 255)][0]), "must be 0, 1 or 2")
    return kinds.astype(np.uint8)


def encode_curves(curves: FloatArray) -> pb.Curves:
    """Message of the tables `curves` (C, G)."""
    return pb.Curves(curves=curves.shape[0], points=curves.shape[1], survival=curves.ravel().tolist())


def decode_curves(message: pb.Curves) -> FloatArray:
    """Tables (C, G); raises InputError where the number of values is not C · G."""
    if len(message.survival) != message.curves * message.points:
        rule = f"must have curves * points = {message.curves * message.points} entries"
        raise InputError("curves.survival", len(message.survival), rule)
    table: FloatArray = column(message.survival, np.float64).reshape(message.curves, message.points)
    return table


def encode_snapshot(snapshot: Snapshot) -> pb.Snapshot:
    """Message of `snapshot`."""
    return pb.Snapshot(
        facts=encode_facts(snapshot.facts),
        revision=snapshot.revision,
        now_s=snapshot.now_s,
        free_blocks=snapshot.free_blocks,
        step_s=snapshot.step_s,
        num_running=snapshot.num_running,
        requests=encode_requests(snapshot.requests),
        curves=encode_curves(snapshot.curves),
        curves_version=snapshot.curves_version,
        habits=None if snapshot.habits == Habits() else encode_habits(snapshot.habits),  # the default stays absent
    )


def decode_snapshot(message: pb.Snapshot) -> Snapshot:
    """Snapshot of `message`; raises InputError where it has no facts or its columns do not fit together."""
    if not message.HasField("facts"):
        raise InputError("facts", None, "missing from the snapshot")
    return Snapshot(
        facts=decode_facts(message.facts),
        revision=message.revision,
        now_s=message.now_s,
        free_blocks=message.free_blocks,
        step_s=message.step_s,
        num_running=message.num_running,
        requests=decode_requests(message.requests),
        curves=decode_curves(message.curves),
        curves_version=message.curves_version,
        habits=decode_habits(message.habits),
    )


def encode_plan(plan: Plan) -> pb.Plan:
    """Message of `plan`; an objective or bound of nan stays absent."""
    return pb.Plan(
        engine_epoch=plan.engine_epoch,
        based_on_revision=plan.based_on_revision,
        source=cast("pb.Source", int(plan.source)),
        admissions=plan.admissions.tolist(),
        admit_at_steps=plan.admit_at_steps.tolist(),
        evictions=plan.evictions.tolist(),
        bucket_steps=plan.bucket_steps.tolist(),
        block_prices=plan.block_prices.tolist(),
        objective=None if math.isnan(plan.objective) else plan.objective,
        bound=None if math.isnan(plan.bound) else plan.bound,
        work_units=plan.work_units,
        solve_s=plan.solve_s,
    )


def decode_plan(message: pb.Plan) -> Plan:
    """Plan of `message`; raises InputError for an unknown source."""
    source = int(message.source)
    if source not in (known.value for known in Source):
        raise InputError("plan.source", source, "must be 1 (program) to 4 (native)")
    return Plan(
        engine_epoch=message.engine_epoch,
        based_on_revision=message.based_on_revision,
        source=Source(source),
        admissions=column(message.admissions, np.uint64),
        admit_at_steps=column(message.admit_at_steps, np.float64),
        evictions=column(message.evictions, np.uint64),
        bucket_steps=column(message.bucket_steps, np.float64),
        block_prices=column(message.block_prices, np.float64),
        objective=message.objective if message.HasField("objective") else math.nan,
        bound=message.bound if message.HasField("bound") else math.nan,
        work_units=message.work_units,
        solve_s=message.solve_s,
    )
