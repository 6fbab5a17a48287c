"""What-if from Python says what the command says."""

import json
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import kvhorizon
from kvhorizon.errors import InputError

ARGUMENTS = {"gpu": "l4-24gb", "kv_blocks": 700, "load": 1.2, "limit": 120}


@pytest.fixture(scope="module")
def results():
    return kvhorizon.what_if("synthetic:chat", policies=["fcfs", "watermark:0.02"], **ARGUMENTS)


def test_it_says_what_the_command_says(results, tmp_path: Path) -> None:
    options = ["--gpu", "l4-24gb", "--kv-blocks", "700", "--load", "1.2", "--limit", "120", "--out", str(tmp_path)]
    policies = ["--policy", "fcfs", "--policy", "watermark:0.02"]
    command = [sys.executable, "-m", "kvhorizon", "what-if", "synthetic:chat", *options, *policies]
    subprocess.run(command, check=True, capture_output=True)
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["policies"] == results.data["policies"]


def test_frames_and_figures(results, tmp_path: Path) -> None:
    frame = results.to_pandas()
    assert list(frame.index) == ["fcfs", "watermark:0.02"]
    assert frame.loc["fcfs", "e2e_s.p99"] == results.data["policies"][0]["e2e_s"]["p99"]
    assert len(results.plot("e2e").data) == 2
    with pytest.raises(InputError, match="what"):
        results.plot("nothing")
    results.save(tmp_path / "new")
    assert "watermark:0.02" in (tmp_path / "new" / "report.html").read_text()
    assert results._repr_html_().count("<tr>") == 3


def test_prefix_caching_is_as_vllm_has_it() -> None:
    """A Python warning where the trace cannot say what is shared; none where it can, or where it was asked for."""
    few = {"policies": ["fcfs"], "gpu": "h100-80gb", "kv_blocks": 700, "limit": 30}
    with pytest.warns(UserWarning, match="prefix caching is off here") as found:
        told = kvhorizon.what_if("synthetic:chat", **few).data
    assert told["warnings"] == [str(found[0].message)]
    assert found[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        on = kvhorizon.what_if("synthetic:shared-prompt", **few).data
        off = kvhorizon.what_if("synthetic:shared-prompt", prefix_caching=False, **few).data
    assert (on["engine"]["prefix_caching"], off["engine"]["prefix_caching"]) == (True, False)
    assert on["policies"][0]["cached_share"] > 0.5 > off["policies"][0]["cached_share"]


def test_the_package_alone_loads_no_simulator() -> None:
    told = "import sys, kvhorizon; print(any(name.startswith('kvhorizon.') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True).stdout.strip() == "False"
