"""What-ifs answer as they did, to the last bit. To renew the answers: `python tests/test_golden_what_ifs.py`.

`golden/NAME.json` is `results.json` of a case of `golden_cases`, without `timing`. Work on the structure of the package
leaves them as they are; a change of behaviour renews them, and its commit says why.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from golden_cases import CASES

GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GOLDEN / f"{name}.json").read_text(encoding="utf-8"))
    return found


def differences(found: Any, wanted: Any, place: str = "results") -> list[str]:
    """Every value that differs, with its place. Values compare as JSON writes them, so floats to the last bit."""
    if isinstance(found, dict) and isinstance(wanted, dict) and list(found) == list(wanted):
        return [line for key in found for line in differences(found[key], wanted[key], f"{place}.{key}")]
    if isinstance(found, list) and isinstance(wanted, list) and len(found) == len(wanted):
        pairs = enumerate(zip(found, wanted, strict=True))
        return [line for n, (one, other) in pairs for line in differences(one, other, f"{place}.{n}")]
    as_found, as_wanted = json.dumps(found), json.dumps(wanted)
    return [] if as_found == as_wanted else [f"{place}: {as_found}, golden {as_wanted}"]


@pytest.mark.parametrize("name", CASES)
def test_a_what_if_answers_as_it_did(name: str, tmp_path: Path) -> None:
    assert differences(CASES[name](tmp_path), golden(name)) == []


def test_there_are_twelve_and_each_has_its_golden_answer() -> None:
    assert len(CASES) == 12
    assert {path.stem for path in GOLDEN.glob("*.json")} == set(CASES)


def test_the_cases_say_something() -> None:
    """Requests are preempted, cached, aborted by their clients, and lost with an engine; a clock is fitted."""
    first = {name: golden(name)["policies"][0] for name in CASES}
    busiest = {name: max(entry["preemptions"] for entry in golden(name)["policies"]) for name in CASES}
    assert min(busiest.values()) > 0
    assert first["fleet"]["finished"] < first["fleet"]["requests"]
    assert first["prefix_caching"]["cached_tokens"] > 0
    assert first["failure"]["failure"] is not None
    assert golden("fleet")["fleet"]["replicas"] == 3
    assert golden("recording")["self_check"]["clock"] == "fitted"
    assert golden("offload")["offload_gb_s"] > 0.0


def test_every_known_policy_is_in_a_case() -> None:
    from kvhorizon.sim.policies.registry import POLICIES

    named = {
        entry["policy"].partition("/")[0].partition(":")[0] for name in CASES for entry in golden(name)["policies"]
    }
    assert named == set(POLICIES)


def test_a_last_bit_is_a_difference() -> None:
    name = "default_policies"
    changed = golden(name)
    changed["policies"][1]["ttft_s"]["mean"] *= 1.0 + 2.0**-52
    (line,) = differences(changed, golden(name))
    assert line.startswith("results.policies.1.ttft_s.mean: ")
    assert differences({"a": 1}, {"a": 1, "b": 2})


if __name__ == "__main__":
    for case, answer in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            text = json.dumps(answer(Path(folder)), indent=1) + "\n"
        (GOLDEN / f"{case}.json").write_text(text, encoding="utf-8")
