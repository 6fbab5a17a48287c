"""Recordings: what is written is read back, what-if reads it as a trace, and the disk's faults cost rows only."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.errors import InputError
from kvhorizon.recording.read import is_recording, read_recording
from kvhorizon.recording.schema import FORMAT_KEY, SAMPLING_MOST, Row
from kvhorizon.recording.write import PREFIX, Folder, write_rows
from kvhorizon.sim.workload.readers import read_trace
from kvhorizon.sim.workload.trace import make_trace, window

FACTS = {"block_size": 16, "model": "tiny"}
ROWS = [
    Row(5.0, 100, 20, "b", max_tokens=64, tenant="x", preemptions=2, ttft_s=0.5, finish="length"),
    Row(4.0, 30, 7, "a", tenant="y", prefix_hashes=(9, 11)),
    Row(6.0, 50, 0, "c", finish="abort"),
]

some = st.floats(0, 1e6) | st.none()
rows = st.builds(
    Row,
    arrival_s=st.floats(0, 1e11),
    prompt_tokens=st.integers(0, 10**7),
    output_tokens=st.integers(0, 10**7),
    request_id=st.text(max_size=20),
    max_tokens=st.integers(1, 10**7) | st.none(),
    priority=st.integers(-5, 5),
    tenant=st.text(max_size=10),
    preemptions=st.integers(0, 100),
    recompute_tokens=st.integers(0, 10**9),
    restored_tokens=st.integers(0, 10**9),
    wasted_flops=st.floats(0, 1e20),
    recompute_s=st.floats(0, 1e3),
    ttft_s=some,
    tpot_s=some,
    e2e_s=some,
    finish=st.sampled_from(["", "stop", "length"]),
    mode=st.sampled_from(["", "observe"]),
    prefix_hashes=st.lists(st.integers(0, 2**63 - 1), max_size=4).map(tuple),
    session=st.text(max_size=10),
    sampling=st.integers(0, SAMPLING_MOST) | st.none(),
    slo_class=st.text(max_size=10),
)


@settings(max_examples=50, deadline=None)
@given(written=st.lists(rows, min_size=1, max_size=20))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, written: list[Row]) -> None:
    path = tmp_path_factory.mktemp("recording") / "one.parquet"
    write_rows(path, written, FACTS)
    found = read_recording(path)
    assert sorted(found.rows(), key=repr) == sorted(written, key=repr)
    assert (np.diff(found.seconds["arrival_s"]) >= 0.0).all()
    assert found.facts == FACTS


def test_a_folder_of_files_is_one_trace(tmp_path: Path) -> None:
    """Requests without output are left out, tenants are numbered as they first come, block hashes are prefixes."""
    folder = Folder(tmp_path, "e", 10**9)
    for row in ROWS:
        folder.write([row], FACTS)
    trace = read_trace(tmp_path)
    assert trace.arrival_s.tolist() == [0.0, 1.0]
    assert trace.prompt_tokens.tolist() == [30, 100]
    assert trace.key.tolist() == [0, 1]
    assert trace.prefix_hashes is not None
    assert [chain.tolist() for chain in trace.prefix_hashes] == [[9, 11], []]
    assert trace.prefix_tokens == 16
    assert trace.priority is None


def test_a_recording_replays_as_the_trace_it_was_made_of(tmp_path: Path) -> None:
    arrival, prompt, output = np.array([0.0, 0.25, 3.5]), np.array([9, 8, 7]), np.array([1, 2, 3])
    made = [Row(*fields) for fields in zip(arrival.tolist(), prompt.tolist(), output.tolist(), strict=True)]
    write_rows(tmp_path / "t.parquet", made, {})
    assert read_trace(tmp_path / "t.parquet").sha256 == make_trace("t", arrival, prompt, output).sha256


def test_files_are_private_and_whole(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new", "e", 10**9)
    folder.write(ROWS, FACTS)
    (file,) = (tmp_path / "new").iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert is_recording(file)


def test_the_folder_stays_within_its_limit(tmp_path: Path) -> None:
    """The oldest go, whoever wrote them; other files stay."""
    (tmp_path / "other.txt").write_text("mine")
    first = Folder(tmp_path, "a", 10**9)
    first.write(ROWS, FACTS)
    size = sum(file.stat().st_size for file in tmp_path.glob(f"{PREFIX}*"))
    folder = Folder(tmp_path, "b", 3 * size)
    for _ in range(10):
        folder.write(ROWS, FACTS)
    names = sorted(file.name for file in tmp_path.glob(f"{PREFIX}*"))
    assert len(names) in (3, 4)
    assert names[-1] == f"{PREFIX}b-000009.parquet"
    assert (tmp_path / "other.txt").exists()


def test_a_file_that_cannot_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space"):
        Folder(tmp_path, "e", 10**9).write(ROWS, FACTS)
    assert list(tmp_path.iterdir()) == []


def older(table: Any) -> Any:
    """As format 1 had it."""
    return table.drop_columns(["session", "sampling", "slo_class"]).replace_schema_metadata({FORMAT_KEY: b"1"})


def test_recordings_of_format_1_are_read_beside_newer_ones(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", ROWS[:1], FACTS)
    pq.write_table(older(pq.read_table(tmp_path / "a.parquet")), tmp_path / "a.parquet")
    write_rows(tmp_path / "b.parquet", [ROWS[1]._replace(sampling=3, session="s")], FACTS)
    found = read_recording(tmp_path)
    assert found.sampling.tolist() == [3, -1]
    assert found.texts["session"] == ["s", ""]
    assert found.rows() == [ROWS[1]._replace(sampling=3, session="s"), ROWS[0]]


def test_recordings_of_format_2_name_no_class_and_newer_ones_do(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.parquet", ROWS[:1], FACTS)
    table = pq.read_table(tmp_path / "a.parquet").drop_columns(["slo_class"])
    pq.write_table(table.replace_schema_metadata({FORMAT_KEY: b"2"}), tmp_path / "a.parquet")
    assert read_trace(tmp_path / "a.parquet").slo_class is None
    write_rows(tmp_path / "b.parquet", [ROWS[1]._replace(slo_class="batch")], FACTS)
    assert read_trace(tmp_path).slo_class == ("batch", "")


def test_a_trace_has_the_time_of_day_the_sessions_and_the_sampling(tmp_path: Path) -> None:
    """Times since some other beginning have no time of day."""
    write_rows(tmp_path / "plain.parquet", ROWS, FACTS)
    plain = read_trace(tmp_path / "plain.parquet")
    assert plain.began_s is plain.session is plain.sampling is None
    dated = [row._replace(arrival_s=1.7e9 + row.arrival_s, session=row.tenant, sampling=6) for row in ROWS]
    write_rows(tmp_path / "dated.parquet", [dated[0]._replace(session="", sampling=None), *dated[1:]], FACTS)
    trace = read_trace(tmp_path / "dated.parquet")
    assert trace.began_s == 1.7e9 + 4.0
    assert trace.session is not None
    assert trace.session.tolist() == [0, -1]
    assert trace.sampling is not None
    assert trace.sampling.tolist() == [6, -1]
    assert window(trace, 1, 1).began_s == 1.7e9 + 5.0


def damaged(folder: Path, kind: str) -> Path:
    path = folder / "r.parquet"
    write_rows(path, ROWS, FACTS)
    if kind == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif kind == "name":
        path.write_bytes(path.read_bytes().replace(b"preemptions", b"pre\xcfmptions"))
    elif kind == "empty":
        write_rows(path, [], FACTS)
    elif kind == "foreign":
        pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    elif kind == "newer":
        pq.write_table(pq.read_table(path).replace_schema_metadata({FORMAT_KEY: b"99"}), path)
    elif kind == "column":
        pq.write_table(pq.read_table(path).drop_columns(["tenant"]), path)
    elif kind == "negative":
        write_rows(path, [ROWS[0]._replace(prompt_tokens=-3)], FACTS)
    elif kind == "sampling":
        write_rows(path, [ROWS[0]._replace(sampling=8)], FACTS)
    elif kind == "older":
        pq.write_table(older(pq.read_table(path).drop_columns(["mode"])), path)
    elif kind == "nan":
        write_rows(path, [ROWS[0]._replace(arrival_s=float("nan"))], FACTS)
    elif kind == "facts":
        write_rows(path, ROWS, [1])  # type: ignore[arg-type]
    elif kind == "nothing":
        path.unlink()
        return folder
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("cut", "must be readable Parquet"),
        ("name", "must be readable Parquet (UnicodeDecodeError: 'utf-8' codec can't decode byte 0xcf"),
        ("empty", "at least one request"),
        ("foreign", "format 3"),
        ("newer", "it says 99"),
        ("column", "tenant"),
        ("older", "lacks mode"),
        ("negative", "row 1: prompt_tokens=-3"),
        ("sampling", "row 1: sampling=8"),
        ("nan", "row 1: arrival_s=nan"),
        ("facts", "as a JSON object"),
        ("nothing", "must hold .parquet files"),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, kind: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        read_recording(damaged(tmp_path, kind))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_no_prompt_text_has_a_place() -> None:
    """Every column is a number, a name, or a hash."""
    assert {"prompt", "text", "messages", "token_ids"}.isdisjoint(Row._fields)
    assert json.dumps(Row._fields).count("prompt") == 1  # prompt_tokens
