"""Hints are read or refused, never guessed at."""

import pytest

from kvhorizon.adapter.forecasting.hints import Hint, number_of_name, read_hint, read_tenant
from kvhorizon.errors import InputError


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        (218, Hint(218.0)),
        ("218", Hint(218.0)),
        ([100, 400], Hint(200.0, width=4)),
        ("[100, 400]", Hint(200.0, width=4)),
        ([50, 50], Hint(50.0)),
        ([1, 10_000_000], Hint(10**3.5, width=31)),
        ("summary", Hint(name=number_of_name("summary"))),
    ],
)
def test_good_hints(value: object, hint: Hint) -> None:
    found = read_hint({"pred_len": value})
    assert found is not None
    assert found == pytest.approx(hint)


@pytest.mark.parametrize("value", [0, -3, True, None, [1], [5, 4], [1, 2, 3], {}, "", "x" * 65, 1e12, float("nan")])
def test_bad_hints(value: object) -> None:
    with pytest.raises(InputError, match="pred_len"):
        read_hint({"pred_len": value})


def test_no_hint() -> None:
    assert read_hint(None) is None
    assert read_hint({"other": 1}) is None


def test_tenants() -> None:
    assert read_tenant(None) == read_tenant({"pred_len": 3}) == ""
    assert read_tenant({"tenant": "acme"}) == "acme"
    for value in (7, None, "x" * 65):
        with pytest.raises(InputError, match="tenant"):
            read_tenant({"tenant": value})


def test_names_have_the_same_number_everywhere() -> None:
    assert number_of_name("summary") == 3458754147
    assert number_of_name("") == 0
