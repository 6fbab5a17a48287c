from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ForecastKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FORECAST_KIND_NONE: _ClassVar[ForecastKind]
    FORECAST_KIND_POINT: _ClassVar[ForecastKind]
    FORECAST_KIND_CURVE: _ClassVar[ForecastKind]

class Source(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SOURCE_UNSPECIFIED: _ClassVar[Source]
    SOURCE_PROGRAM: _ClassVar[Source]
    SOURCE_GREEDY: _ClassVar[Source]
    SOURCE_LOCAL: _ClassVar[Source]
    SOURCE_NATIVE: _ClassVar[Source]

class Decision(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DECISION_UNSPECIFIED: _ClassVar[Decision]
    DECISION_KEEP: _ClassVar[Decision]
    DECISION_EVICT: _ClassVar[Decision]
    DECISION_ADMIT_NOW: _ClassVar[Decision]
    DECISION_ADMIT_LATER: _ClassVar[Decision]
    DECISION_WAIT: _ClassVar[Decision]
FORECAST_KIND_NONE: ForecastKind
FORECAST_KIND_POINT: ForecastKind
FORECAST_KIND_CURVE: ForecastKind
SOURCE_UNSPECIFIED: Source
SOURCE_PROGRAM: Source
SOURCE_GREEDY: Source
SOURCE_LOCAL: Source
SOURCE_NATIVE: Source
DECISION_UNSPECIFIED: Decision
DECISION_KEEP: Decision
DECISION_EVICT: Decision
DECISION_ADMIT_NOW: Decision
DECISION_ADMIT_LATER: Decision
DECISION_WAIT: Decision

class StepCost(_message.Message):
    __slots__ = ("fixed_s", "weights_s", "expert_weights_s", "experts_per_token", "linear_s_per_token", "smooth", "attention_s_per_pair", "kv_read_s_per_token", "sequence_s", "flops_per_token", "flops_per_pair")
    FIXED_S_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_S_FIELD_NUMBER: _ClassVar[int]
    EXPERT_WEIGHTS_S_FIELD_NUMBER: _ClassVar[int]
    EXPERTS_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LINEAR_S_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SMOOTH_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_S_PER_PAIR_FIELD_NUMBER: _ClassVar[int]
    KV_READ_S_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_S_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    FLOPS_PER_PAIR_FIELD_NUMBER: _ClassVar[int]
    fixed_s: float
    weights_s: float
    expert_weights_s: float
    experts_per_token: float
    linear_s_per_token: float
    smooth: float
    attention_s_per_pair: float
    kv_read_s_per_token: float
    sequence_s: float
    flops_per_token: float
    flops_per_pair: float
    def __init__(self, fixed_s: _Optional[float] = ..., weights_s: _Optional[float] = ..., expert_weights_s: _Optional[float] = ..., experts_per_token: _Optional[float] = ..., linear_s_per_token: _Optional[float] = ..., smooth: _Optional[float] = ..., attention_s_per_pair: _Optional[float] = ..., kv_read_s_per_token: _Optional[float] = ..., sequence_s: _Optional[float] = ..., flops_per_token: _Optional[float] = ..., flops_per_pair: _Optional[float] = ...) -> None: ...

class EngineFacts(_message.Message):
    __slots__ = ("total_blocks", "block_size", "max_num_seqs", "max_num_batched_tokens", "max_model_len", "cost", "engine_id", "engine_epoch", "contract_version", "window_tokens")
    TOTAL_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_SEQS_FIELD_NUMBER: _ClassVar[int]
    MAX_NUM_BATCHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MAX_MODEL_LEN_FIELD_NUMBER: _ClassVar[int]
    COST_FIELD_NUMBER: _ClassVar[int]
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    ENGINE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    CONTRACT_VERSION_FIELD_NUMBER: _ClassVar[int]
    WINDOW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    total_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    cost: StepCost
    engine_id: str
    engine_epoch: int
    contract_version: int
    window_tokens: int
    def __init__(self, total_blocks: _Optional[int] = ..., block_size: _Optional[int] = ..., max_num_seqs: _Optional[int] = ..., max_num_batched_tokens: _Optional[int] = ..., max_model_len: _Optional[int] = ..., cost: _Optional[_Union[StepCost, _Mapping]] = ..., engine_id: _Optional[str] = ..., engine_epoch: _Optional[int] = ..., contract_version: _Optional[int] = ..., window_tokens: _Optional[int] = ...) -> None: ...

class Habits(_message.Message):
    __slots__ = ("tokens_per_step", "kept_share", "reload_s_per_token")
    TOKENS_PER_STEP_FIELD_NUMBER: _ClassVar[int]
    KEPT_SHARE_FIELD_NUMBER: _ClassVar[int]
    RELOAD_S_PER_TOKEN_FIELD_NUMBER: _ClassVar[int]
    tokens_per_step: float
    kept_share: float
    reload_s_per_token: float
    def __init__(self, tokens_per_step: _Optional[float] = ..., kept_share: _Optional[float] = ..., reload_s_per_token: _Optional[float] = ...) -> None: ...

class Requests(_message.Message):
    __slots__ = ("handle", "arrival_s", "prompt_tokens", "generated_tokens", "computed_tokens", "blocks_held", "output_limit_tokens", "preemptions", "cached_tokens", "weight", "out_of_order", "forecast_kind", "forecast_scale", "forecast_log_sigma", "forecast_curve", "shared_tokens")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    ARRIVAL_S_FIELD_NUMBER: _ClassVar[int]
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_HELD_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_LIMIT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREEMPTIONS_FIELD_NUMBER: _ClassVar[int]
    CACHED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    OUT_OF_ORDER_FIELD_NUMBER: _ClassVar[int]
    FORECAST_KIND_FIELD_NUMBER: _ClassVar[int]
    FORECAST_SCALE_FIELD_NUMBER: _ClassVar[int]
    FORECAST_LOG_SIGMA_FIELD_NUMBER: _ClassVar[int]
    FORECAST_CURVE_FIELD_NUMBER: _ClassVar[int]
    SHARED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    arrival_s: _containers.RepeatedScalarFieldContainer[float]
    prompt_tokens: _containers.RepeatedScalarFieldContainer[int]
    generated_tokens: _containers.RepeatedScalarFieldContainer[int]
    computed_tokens: _containers.RepeatedScalarFieldContainer[int]
    blocks_held: _containers.RepeatedScalarFieldContainer[int]
    output_limit_tokens: _containers.RepeatedScalarFieldContainer[int]
    preemptions: _containers.RepeatedScalarFieldContainer[int]
    cached_tokens: _containers.RepeatedScalarFieldContainer[int]
    weight: _containers.RepeatedScalarFieldContainer[float]
    out_of_order: _containers.RepeatedScalarFieldContainer[bool]
    forecast_kind: _containers.RepeatedScalarFieldContainer[ForecastKind]
    forecast_scale: _containers.RepeatedScalarFieldContainer[float]
    forecast_log_sigma: _containers.RepeatedScalarFieldContainer[float]
    forecast_curve: _containers.RepeatedScalarFieldContainer[int]
    shared_tokens: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handle: _Optional[_Iterable[int]] = ..., arrival_s: _Optional[_Iterable[float]] = ..., prompt_tokens: _Optional[_Iterable[int]] = ..., generated_tokens: _Optional[_Iterable[int]] = ..., computed_tokens: _Optional[_Iterable[int]] = ..., blocks_held: _Optional[_Iterable[int]] = ..., output_limit_tokens: _Optional[_Iterable[int]] = ..., preemptions: _Optional[_Iterable[int]] = ..., cached_tokens: _Optional[_Iterable[int]] = ..., weight: _Optional[_Iterable[float]] = ..., out_of_order: _Optional[_Iterable[bool]] = ..., forecast_kind: _Optional[_Iterable[_Union[ForecastKind, str]]] = ..., forecast_scale: _Optional[_Iterable[float]] = ..., forecast_log_sigma: _Optional[_Iterable[float]] = ..., forecast_curve: _Optional[_Iterable[int]] = ..., shared_tokens: _Optional[_Iterable[int]] = ...) -> None: ...

class Curves(_message.Message):
    __slots__ = ("curves", "points", "survival")
    CURVES_FIELD_NUMBER: _ClassVar[int]
    POINTS_FIELD_NUMBER: _ClassVar[int]
    SURVIVAL_FIELD_NUMBER: _ClassVar[int]
    curves: int
    points: int
    survival: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, curves: _Optional[int] = ..., points: _Optional[int] = ..., survival: _Optional[_Iterable[float]] = ...) -> None: ...

class Snapshot(_message.Message):
    __slots__ = ("facts", "revision", "now_s", "free_blocks", "step_s", "num_running", "requests", "curves", "curves_version", "habits")
    FACTS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    NOW_S_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    CURVES_FIELD_NUMBER: _ClassVar[int]
    CURVES_VERSION_FIELD_NUMBER: _ClassVar[int]
    HABITS_FIELD_NUMBER: _ClassVar[int]
    facts: EngineFacts
    revision: int
    now_s: float
    free_blocks: int
    step_s: float
    num_running: int
    requests: Requests
    curves: Curves
    curves_version: int
    habits: Habits
    def __init__(self, facts: _Optional[_Union[EngineFacts, _Mapping]] = ..., revision: _Optional[int] = ..., now_s: _Optional[float] = ..., free_blocks: _Optional[int] = ..., step_s: _Optional[float] = ..., num_running: _Optional[int] = ..., requests: _Optional[_Union[Requests, _Mapping]] = ..., curves: _Optional[_Union[Curves, _Mapping]] = ..., curves_version: _Optional[int] = ..., habits: _Optional[_Union[Habits, _Mapping]] = ...) -> None: ...

class Open(_message.Message):
    __slots__ = ("snapshot",)
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("handle", "generated_tokens", "computed_tokens", "blocks_held")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    GENERATED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPUTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_HELD_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    generated_tokens: _containers.RepeatedScalarFieldContainer[int]
    computed_tokens: _containers.RepeatedScalarFieldContainer[int]
    blocks_held: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handle: _Optional[_Iterable[int]] = ..., generated_tokens: _Optional[_Iterable[int]] = ..., computed_tokens: _Optional[_Iterable[int]] = ..., blocks_held: _Optional[_Iterable[int]] = ...) -> None: ...

class Order(_message.Message):
    __slots__ = ("handle",)
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    handle: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, handle: _Optional[_Iterable[int]] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("revision", "base_revision", "now_s", "free_blocks", "step_s", "num_running", "removed", "progress", "rows", "order", "curves", "curves_version", "habits")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    BASE_REVISION_FIELD_NUMBER: _ClassVar[int]
    NOW_S_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    STEP_S_FIELD_NUMBER: _ClassVar[int]
    NUM_RUNNING_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    ORDER_FIELD_NUMBER: _ClassVar[int]
    CURVES_FIELD_NUMBER: _ClassVar[int]
    CURVES_VERSION_FIELD_NUMBER: _ClassVar[int]
    HABITS_FIELD_NUMBER: _ClassVar[int]
    revision: int
    base_revision: int
    now_s: float
    free_blocks: int
    step_s: float
    num_running: int
    removed: _containers.RepeatedScalarFieldContainer[int]
    progress: Progress
    rows: Requests
    order: Order
    curves: Curves
    curves_version: int
    habits: Habits
    def __init__(self, revision: _Optional[int] = ..., base_revision: _Optional[int] = ..., now_s: _Optional[float] = ..., free_blocks: _Optional[int] = ..., step_s: _Optional[float] = ..., num_running: _Optional[int] = ..., removed: _Optional[_Iterable[int]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., rows: _Optional[_Union[Requests, _Mapping]] = ..., order: _Optional[_Union[Order, _Mapping]] = ..., curves: _Optional[_Union[Curves, _Mapping]] = ..., curves_version: _Optional[int] = ..., habits: _Optional[_Union[Habits, _Mapping]] = ...) -> None: ...

class Update(_message.Message):
    __slots__ = ("open", "delta")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    DELTA_FIELD_NUMBER: _ClassVar[int]
    open: Open
    delta: Delta
    def __init__(self, open: _Optional[_Union[Open, _Mapping]] = ..., delta: _Optional[_Union[Delta, _Mapping]] = ...) -> None: ...

class Resync(_message.Message):
    __slots__ = ("reason", "held_revision")
    REASON_FIELD_NUMBER: _ClassVar[int]
    HELD_REVISION_FIELD_NUMBER: _ClassVar[int]
    reason: str
    held_revision: int
    def __init__(self, reason: _Optional[str] = ..., held_revision: _Optional[int] = ...) -> None: ...

class Plan(_message.Message):
    __slots__ = ("engine_epoch", "based_on_revision", "source", "admissions", "admit_at_steps", "evictions", "bucket_steps", "block_prices", "objective", "bound", "work_units", "solve_s", "resync")
    ENGINE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    BASED_ON_REVISION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ADMISSIONS_FIELD_NUMBER: _ClassVar[int]
    ADMIT_AT_STEPS_FIELD_NUMBER: _ClassVar[int]
    EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    BUCKET_STEPS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_PRICES_FIELD_NUMBER: _ClassVar[int]
    OBJECTIVE_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    WORK_UNITS_FIELD_NUMBER: _ClassVar[int]
    SOLVE_S_FIELD_NUMBER: _ClassVar[int]
    RESYNC_FIELD_NUMBER: _ClassVar[int]
    engine_epoch: int
    based_on_revision: int
    source: Source
    admissions: _containers.RepeatedScalarFieldContainer[int]
    admit_at_steps: _containers.RepeatedScalarFieldContainer[float]
    evictions: _containers.RepeatedScalarFieldContainer[int]
    bucket_steps: _containers.RepeatedScalarFieldContainer[float]
    block_prices: _containers.RepeatedScalarFieldContainer[float]
    objective: float
    bound: float
    work_units: int
    solve_s: float
    resync: Resync
    def __init__(self, engine_epoch: _Optional[int] = ..., based_on_revision: _Optional[int] = ..., source: _Optional[_Union[Source, str]] = ..., admissions: _Optional[_Iterable[int]] = ..., admit_at_steps: _Optional[_Iterable[float]] = ..., evictions: _Optional[_Iterable[int]] = ..., bucket_steps: _Optional[_Iterable[float]] = ..., block_prices: _Optional[_Iterable[float]] = ..., objective: _Optional[float] = ..., bound: _Optional[float] = ..., work_units: _Optional[int] = ..., solve_s: _Optional[float] = ..., resync: _Optional[_Union[Resync, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("snapshot", "handle", "engine_id")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    ENGINE_ID_FIELD_NUMBER: _ClassVar[int]
    snapshot: Snapshot
    handle: _containers.RepeatedScalarFieldContainer[int]
    engine_id: str
    def __init__(self, snapshot: _Optional[_Union[Snapshot, _Mapping]] = ..., handle: _Optional[_Iterable[int]] = ..., engine_id: _Optional[str] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("handle", "decision", "rank", "admit_at_steps", "blocks", "block_price", "text")
    HANDLE_FIELD_NUMBER: _ClassVar[int]
    DECISION_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ADMIT_AT_STEPS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_PRICE_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    handle: int
    decision: Decision
    rank: int
    admit_at_steps: float
    blocks: int
    block_price: float
    text: str
    def __init__(self, handle: _Optional[int] = ..., decision: _Optional[_Union[Decision, str]] = ..., rank: _Optional[int] = ..., admit_at_steps: _Optional[float] = ..., blocks: _Optional[int] = ..., block_price: _Optional[float] = ..., text: _Optional[str] = ...) -> None: ...

class ExplainReply(_message.Message):
    __slots__ = ("plan", "explanations")
    PLAN_FIELD_NUMBER: _ClassVar[int]
    EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    plan: Plan
    explanations: _containers.RepeatedCompositeFieldContainer[Explanation]
    def __init__(self, plan: _Optional[_Union[Plan, _Mapping]] = ..., explanations: _Optional[_Iterable[_Union[Explanation, _Mapping]]] = ...) -> None: ...
