"""The report says whether the forecast kept its promises, in a picture and in words."""

import numpy as np
import pytest
from engines import facts

from kvhorizon.report.calibration import _says, calibration
from kvhorizon.report.reliability import CHANCES, Reliability, reliability
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.sim.workload.trace import Trace, make_trace
from kvhorizon.whatif.question import Answer


def judged(trace: Trace, spec: str) -> Reliability | None:
    return reliability(trace, spec, 0, Setup(trace, facts(4000, 16, 64, 2048)))


@pytest.fixture(scope="module")
def chat() -> Trace:
    return synthesize("chat", 3000, 100)


@pytest.mark.parametrize("spec", ["history", "noisy:0.6", "hint:0.6"])
def test_calibrated_forecasts_look_so(chat: Trace, spec: str) -> None:
    found = judged(chat, spec)
    assert found is not None
    assert found.coverage(0.5) == pytest.approx(0.5, abs=0.04)
    assert found.coverage(0.8) == pytest.approx(0.8, abs=0.04)
    assert found.batches > 60
    assert found.exceeded[2] == pytest.approx(CHANCES[2], abs=0.12)
    assert (np.diff(found.exceeded) >= 0.0).all()


def test_a_better_predictor_loses_less(chat: Trace) -> None:
    losses = [judged(chat, spec).pinball_tokens for spec in ("noisy:0.2", "noisy:0.8", "history")]  # type: ignore[union-attr]
    assert losses == sorted(losses)


def test_lengths_that_grow_without_warning_show_on_the_right(chat: Trace) -> None:
    """From the tenth part on, which is where scoring begins, all outputs are three times as long; no time to learn."""
    output = chat.output_tokens.copy()
    output[300:] *= 3
    shifted = make_trace("shifted", np.arange(len(chat)) * 1e-3, chat.prompt_tokens, output)
    found = judged(shifted, "history")
    assert found is not None
    assert np.histogram(found.pit, bins=10, range=(0, 1))[0][-1] > 2 * len(found.pit) / 10


def test_there_is_nothing_to_see_of_known_lengths_or_of_few_requests(chat: Trace) -> None:
    assert judged(chat, "oracle") is None
    assert judged(synthesize("chat", 10, 0), "history") is None


def test_the_picture_is_described(chat: Trace) -> None:
    answer = Answer({"forecast": "history", "seed": 0}, chat, facts(4000, 16, 64, 2048), [])
    (picture,) = calibration(answer)
    assert "80 % bands held" in picture.says
    assert "batches" in picture.says
    assert len(picture.figure.data) == 5
    assert "<b>" not in _says("learned:<b>", reliability(chat, "history", 0, Setup(chat, answer.facts)), False)  # type: ignore[arg-type]
    assert calibration(Answer({"forecast": "oracle", "seed": 0}, chat, answer.facts, [])) == []
