"""Everything that reads what others wrote, as functions of bytes that refuse by InputError or give something usable."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.fuzz import _fuzz_seeds as seeds
from kvhorizon.adapter.forecasting.hints import NAME, SESSION, TENANT, read_hint, read_session, read_tenant
from kvhorizon.adapter.settings import load as load_plugin
from kvhorizon.cli.budget import parse_budget
from kvhorizon.config import load as load_service
from kvhorizon.errors import InputError
from kvhorizon.models.forecast.history.history import LengthHistory
from kvhorizon.models.forecast.history.state import load_history
from kvhorizon.models.forecast.learned.learned import load_model
from kvhorizon.models.forecast.of_a_trace import check_spec
from kvhorizon.models.performance.shape import from_config
from kvhorizon.recording.access_log import access_rows
from kvhorizon.recording.benchmark import benchmark_rows
from kvhorizon.recording.read import read_recording
from kvhorizon.recording.schema import Row
from kvhorizon.recording.scrape import scrape_rows
from kvhorizon.service.session import read_snapshot
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.workload.readers import read_trace, recorded_trace
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.solver.snapshot_json import snapshot_from_json
from kvhorizon.whatif.engine_spec import recorded_facts
from kvhorizon.whatif.goals import parse_goals
from kvhorizon.whatif.many import load as load_kept
from kvhorizon.whatif.sweep import parse_axis
from kvhorizon.wire.convert import decode_plan
from kvhorizon.wire.delta import apply_delta
from kvhorizon.wire.v1 import scheduler_pb2 as pb
from kvhorizon.wire.validate import check_plan, check_snapshot, parse

IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
FOLDER = tempfile.TemporaryDirectory(prefix="kvhorizon-fuzz-", dir=IN_MEMORY)  # gone when the process ends
BASE = seeds.small_snapshot()


class Target(NamedTuple):
    """A reader, what it is fed, and how much of it in a full run."""

    read: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    inputs: int


def _given(*texts: bytes) -> Callable[[], list[bytes]]:
    return lambda: list(texts)


def _file(data: bytes) -> Path:
    path = Path(FOLDER.name) / "input"
    path.write_bytes(data)
    return path


def _text(data: bytes) -> str:
    """As a command's argument or a file read as text gives it: anything that is no text is refused before."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("input", None, f"must be text ({error})") from None


def _usable(trace: Trace) -> None:
    assert len(trace) >= 1
    assert trace.arrival_s[0] == 0.0
    assert np.isfinite(trace.arrival_s).all()
    assert (np.diff(trace.arrival_s) >= 0.0).all()
    assert trace.prompt_tokens.min() >= 1
    assert trace.output_tokens.min() >= 1
    assert len(trace.key) == len(trace)


def _trace(data: bytes) -> None:
    _usable(read_trace(_file(data)))


def _recording(data: bytes) -> None:
    recording = read_recording(_file(data))
    assert len(recording.rows()) == len(recording)
    if recording.facts:
        recorded_facts(recording.facts)
    _usable(recorded_trace("r", recording))


def _rows(read: Callable[[str], list[Row]]) -> Callable[[bytes], None]:
    def usable(data: bytes) -> None:
        for row in read(_text(data)):
            assert row.prompt_tokens >= 1
            assert row.output_tokens >= 1
            assert 0.0 <= row.arrival_s < 1e12

    return usable


def _update(data: bytes) -> None:
    update = parse(pb.Update, data)
    if update.HasField("open"):
        read_snapshot(update.open.snapshot)
    elif update.HasField("delta"):
        check_snapshot(apply_delta(BASE, update.delta))


def _explain(data: bytes) -> None:
    request = parse(pb.ExplainRequest, data)
    if request.HasField("snapshot"):
        read_snapshot(request.snapshot)


def _hint(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = data.decode("utf-8", errors="replace")
    arguments: dict[str, Any] = {NAME: value, TENANT: value, SESSION: value}
    read_tenant({TENANT: value} if isinstance(value, str) else {})
    read_session({SESSION: value} if isinstance(value, str) else {})
    read_hint(arguments)


def _plugin(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):  # vLLM refuses it before us
        return
    load_plugin(value, {})


def _service(data: bytes) -> None:
    load_service(_file(data), {})


ARGUMENT_READERS: tuple[Callable[[str], object], ...] = (
    parse_axis,
    parse_goals,
    parse_policy,
    parse_budget,
    lambda text: None if text.startswith("learned:") else check_spec(text),
)


def _argument(data: bytes) -> None:
    """Each reader, whatever the others say."""
    text = _text(data)
    for read in ARGUMENT_READERS:
        try:
            read(text)
        except InputError as error:
            one_line(error)


def one_line(error: InputError) -> None:
    """A refusal is one clear line."""
    text = str(error)
    assert len(text) < 2000, f"a refusal of {len(text)} characters"
    assert "\n" not in text, f"a refusal of several lines: {text[:200]!r}"


TARGETS: dict[str, Target] = {
    "wire_snapshot": Target(lambda raw: read_snapshot(parse(pb.Snapshot, raw)), seeds.snapshots, 180_000),
    "wire_plan": Target(lambda raw: check_plan(decode_plan(parse(pb.Plan, raw))), seeds.plans, 150_000),
    "wire_update": Target(_update, seeds.updates, 150_000),
    "wire_explain": Target(_explain, seeds.explains, 40_000),
    "snapshot_json": Target(lambda raw: snapshot_from_json(_text(raw)), seeds.snapshot_texts, 60_000),
    "csv": Target(_trace, _given(seeds.OWN, seeds.AZURE, seeds.BURST), 130_000),
    "jsonl": Target(_trace, _given(seeds.MOONCAKE), 60_000),
    "gzip": Target(_trace, seeds.gzipped, 30_000),
    "access_log": Target(_rows(access_rows), _given(*seeds.ACCESS), 80_000),
    "benchmark": Target(_rows(benchmark_rows), _given(*seeds.BENCHMARK), 80_000),
    "scrape": Target(_rows(lambda text: scrape_rows(None, text, 1.8e9)), _given(seeds.SCRAPE), 50_000),
    "parquet": Target(_recording, seeds.recordings, 20_000),
    "service_toml": Target(_service, _given(seeds.SERVICE), 40_000),
    "plugin_settings": Target(_plugin, _given(seeds.PLUGIN), 30_000),
    "model_config": Target(lambda raw: from_config(_file(raw)), _given(*seeds.HUGGING_FACE), 40_000),
    "learned_model": Target(lambda raw: load_model(_file(raw)), seeds.models, 20_000),
    "history_state": Target(lambda raw: load_history(LengthHistory(), _file(raw)), seeds.histories, 5_000),
    "kept_answers": Target(lambda raw: load_kept(_file(raw)), seeds.kept_answers, 30_000),
    "arguments": Target(_argument, _given(*seeds.ARGUMENTS), 80_000),
    "hints": Target(_hint, _given(*seeds.HINTS), 40_000),
}
