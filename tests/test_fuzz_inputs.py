"""A short run of `experiments.fuzz_inputs`: nothing but InputError or a usable result comes of mutated input."""

import pytest

from experiments.fuzz._fuzz_targets import TARGETS
from experiments.fuzz.fuzz_inputs import apart, fuzz

INPUTS = 150


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_crashes_a_reader(name: str) -> None:
    found = fuzz(name, batch=1000, inputs=INPUTS)
    assert found["crashes"] == 0, found["described"]
    assert found["inputs"] == found["accepted"] + found["refused"] == INPUTS
    assert found["accepted"] > 0


def test_the_end_of_the_process_is_a_crash() -> None:
    assert apart("no such reader", 0, 5)["crashes"] == 1
