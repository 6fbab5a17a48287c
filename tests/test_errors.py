"""The one error for bad input."""

import pickle

import pytest

from kvhorizon.errors import InputError


@pytest.mark.parametrize("value", [0, "a name", None])
def test_it_comes_whole_out_of_another_process(value: object) -> None:
    error = pickle.loads(pickle.dumps(InputError("horizon_steps", value, "must be >= 1")))
    assert (error.field, error.value, error.rule) == ("horizon_steps", value, "must be >= 1")
    assert str(error) == str(InputError("horizon_steps", value, "must be >= 1"))
