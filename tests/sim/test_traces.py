"""Trace readers: each format by content, and one clear line for each thing that can be wrong."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from data import shared_data
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.errors import InputError
from kvhorizon.sim.workload import readers as traces
from kvhorizon.sim.workload.readers import read_lengths, read_trace, write_trace
from kvhorizon.sim.workload.trace import limit, make_trace

OWN = "arrival_s,prompt_tokens,output_tokens,client\n5.0,10,3,b\n4.0,20,4,a\n4.5,30,5,b\n"
AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n2023-11-16 18:15:51.0,7,0\n"
)
BURST = (
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n45,GPT-4,1087,230,1317,API log\n"
)
MOONCAKE = (
    '{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
    '{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46]}\n'
)


def written(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "anything"])
def test_our_own_columns_sorted_from_zero(tmp_path: Path, name: str) -> None:
    trace = read_trace(written(tmp_path, OWN, name))
    assert trace.arrival_s.tolist() == [0.0, 0.5, 1.0]
    assert trace.prompt_tokens.tolist() == [20, 30, 10]
    assert trace.output_tokens.tolist() == [4, 5, 3]
    assert trace.key.tolist() == [1, 0, 0]  # b was seen first


def test_classes_of_service_are_read_cut_and_written(tmp_path: Path) -> None:
    text = 'arrival_s,prompt_tokens,output_tokens,slo_class\n5.0,10,3,"a ""b"", c"\n4.0,20,4,\n4.5,30,5,batch\n'
    trace = read_trace(written(tmp_path, text))
    assert trace.slo_class == ("", "batch", 'a "b", c')
    assert limit(trace, 2).slo_class == ("", "batch")
    write_trace(trace, tmp_path / "again.csv")
    assert read_trace(tmp_path / "again.csv").slo_class == trace.slo_class


def test_azure_leaves_out_what_failed(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, AZURE))
    np.testing.assert_allclose(trace.arrival_s, [0.0, 4.314579], atol=1e-6)
    assert trace.prompt_tokens.tolist() == [374, 396]


def test_burstgpt(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, BURST))
    assert trace.arrival_s.tolist() == [0.0, 40.0]
    assert trace.output_tokens.tolist() == [18, 230]


def test_mooncake_in_milliseconds_with_prefixes(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, MOONCAKE, "m.jsonl"))
    assert trace.arrival_s.tolist() == pytest.approx([0.0, 3.053])
    assert trace.prefix_hashes is not None
    assert [ids.tolist() for ids in trace.prefix_hashes] == [[46, 47], [46]]
    assert trace.prefix_tokens == 512


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "must not be empty"),
        ("  \n", "must not be empty"),
        ("arrival_s,prompt_tokens\n0,1\n", "must include output_tokens"),
        ("a,b\n1,2\n", "must include arrival_s"),
        (OWN.replace("20", "-20"), "row 3: prompt_tokens='-20', must be a whole number"),
        (OWN.replace("20", "2.5"), "row 3: prompt_tokens='2.5', must be a whole number"),
        (OWN.replace("20", "99999999999"), "row 3: prompt_tokens='99999999999'"),
        (OWN.replace("20", ""), "row 3: prompt_tokens=''"),
        (OWN.replace("4.0", "soon"), "row 3: arrival_s='soon', must be a finite number"),
        (OWN.replace("4.0", "inf"), "row 3: arrival_s='inf', must be a finite number"),
        (OWN.replace(",3,b", ",0,b"), "row 2: output_tokens='0'"),
        ("arrival_s,prompt_tokens,output_tokens\n", "must have at least one request"),
        ("arrival_s,prompt_tokens,output_tokens\n0,5\n", "row 2: output_tokens: must be a whole number"),
        (AZURE.replace("2023-11-16 18:15:50.9951690", "yesterday"), "row 3: TIMESTAMP='yesterday'"),
        ('{"timestamp": 1, "input_length": 5}\n', "must include output_length"),
        ('{"timestamp": 1, \n', "row 1="),
        (MOONCAKE.replace("[46]", "7"), "row 2: hash_ids=7, must be a list"),
        (MOONCAKE.replace("[46]", "[" * 100_000), "row 2="),
        (OWN.replace("20", "9" * 200_000), "must be CSV"),
    ],
)
def test_what_makes_no_sense_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        read_trace(written(tmp_path, text))
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be an existing file"):
        read_trace(tmp_path / "nothing.csv")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(InputError, match="must be text"):
        read_trace(tmp_path / "binary")
    (tmp_path / "broken.gz").write_bytes(gzip.compress(OWN.encode())[:20])
    with pytest.raises(InputError, match="must be"):
        read_trace(tmp_path / "broken.gz")


def test_a_small_file_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "MOST_BYTES", 10_000)
    assert len(read_trace(written(tmp_path, OWN, "t.csv.gz"))) == 3
    with pytest.raises(InputError, match="at most"):
        read_trace(written(tmp_path, OWN + " " * 10_000, "bomb.csv.gz"))


def test_lengths_without_arrivals(tmp_path: Path) -> None:
    path = written(tmp_path, "arrival_s,prompt_tokens,output_tokens\n,74,918\n,290,905\n")
    prompt, output = read_lengths(path)
    assert (prompt.tolist(), output.tolist()) == ([74, 290], [918, 905])
    with pytest.raises(InputError, match="row 2: arrival_s=''"):
        read_trace(path)


rows = st.lists(
    st.tuples(st.floats(0, 1e6), st.integers(1, 10**6), st.integers(1, 10**6), st.integers(0, 5)),
    min_size=1,
    max_size=30,
)


@settings(max_examples=50, deadline=None)
@given(rows=rows)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple]) -> None:
    arrival, prompt, output, key = (
        np.array(column) for column in zip(*sorted(rows, key=lambda row: row[0]), strict=True)
    )
    trace = make_trace("t", arrival - arrival[0], prompt, output, key)
    path = tmp_path_factory.mktemp("trace") / "t.csv.gz"
    write_trace(trace, path)
    again = read_trace(path)
    assert again.sha256 == trace.sha256


def test_the_first_few(tmp_path: Path) -> None:
    assert len(limit(read_trace(written(tmp_path, OWN)), 2)) == 2


def test_the_measured_traces_are_readable() -> None:
    trace = read_trace(shared_data() / "traces" / "azure23_conv_h1.csv.gz")
    assert len(trace) == 9739
    assert trace.output_tokens.mean() == pytest.approx(221.3, abs=0.1)
