"""Classes of service are read from wherever they stand, and refused with field, value and rule."""

import json
from pathlib import Path

import numpy as np
import pytest

from kvhorizon.errors import InputError
from kvhorizon.models.slo.classes import MOST_CLASSES, NONE, SloClass, read_classes, weights_of

GIVEN = {"interactive": {"weight": 4, "ttft_s": 1.0}, "batch": {"weight": 0.25}}
TOML = "[interactive]\nweight = 4\nttft_s = 1.0\n[batch]\nweight = 0.25\n"


def test_a_mapping_text_and_files_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps(GIVEN))
    (tmp_path / "c.toml").write_text(TOML)
    for told in (GIVEN, json.dumps(GIVEN), str(tmp_path / "c.json"), tmp_path / "c.toml"):
        classes = read_classes(told)
        assert classes.of == {
            "interactive": SloClass(weight=4.0, ttft_s=1.0),
            "batch": SloClass(weight=0.25),
            "default": SloClass(),
        }
        assert read_classes(classes.text()).of == classes.of


def test_whoever_names_no_known_class_is_of_the_default_one() -> None:
    classes = read_classes({"batch": {"weight": 0.25}})
    assert weights_of(["batch", "", "bulk"], classes).tolist() == [0.25, 1.0, 1.0]
    heavy = read_classes({"default": {"weight": 2.0}})
    assert heavy.weight("bulk") == 2.0
    assert not NONE.given
    assert NONE.text() == ""
    assert read_classes("").of == NONE.of


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"a": {"weight": 0}}, "classes.a.weight=0, Input should be greater than or equal to 0.001"),
        ({"a": {"weight": "4"}}, "classes.a.weight='4', Input should be a valid number"),
        ({"a": {"weight": float("nan")}}, "classes.a.weight=nan, Input should be less than or equal to 1000"),
        ({"a": {"ttft_s": -1.0}}, "classes.a.ttft_s=-1.0, Input should be greater than 0"),
        ({"a": {"ttft": 1.0}}, "classes.a.ttft=1.0, Extra inputs are not permitted"),
        ({"a": 4}, "classes.a=4, Input should be a valid dictionary or instance of SloClass"),
        ({"": {}}, "classes.='', String should have at least 1 character"),
        ("[1]", "classes='[1]', must be JSON or a readable file (No such file or directory)"),
        ('{"a": ', "must be JSON"),
        (7, "classes=7, must be an object with a class for each name"),
        ({str(n): {} for n in range(MOST_CLASSES + 1)}, "should have at most 32 items"),
    ],
)
def test_what_makes_no_sense_is_refused(told: object, error: str) -> None:
    with pytest.raises(InputError) as refused:
        read_classes(told)
    assert error in str(refused.value)


def test_tenants_stand_beside_classes_or_alone() -> None:
    alone = read_classes({"tenants": {"a": {"share": 0.5}}})
    assert alone.tenants == {"a": 0.5}
    assert not alone.given
    both = read_classes({**GIVEN, "tenants": {"a": {"share": 0.5}, "b": {"share": 0.5}}})
    again = read_classes(both.text())
    assert (again.of, again.tenants) == (both.of, both.tenants)


@pytest.mark.parametrize(
    ("told", "error"),
    [
        ({"a": {"share": 0}}, "classes.tenants.a.share=0, Input should be greater than 0"),
        ({"a": {}}, "classes.tenants.a.share: Field required"),
        ({"a": {"share": 0.6}, "b": {"share": 0.6}}, "classes.tenants=1.2, shares must add up to at most 1"),
        ({"weight": 4}, "classes.tenants.weight=4, Input should be a valid dictionary or instance of Tenant"),
    ],
)
def test_shares_that_make_no_sense_are_refused(told: object, error: str) -> None:
    with pytest.raises(InputError) as refused:
        read_classes({"tenants": told})
    assert error in str(refused.value)


def test_every_target_that_there_is_must_be_kept() -> None:
    """Both just in time, a single token, the first too late, the others too slow, no token at all."""
    times = np.array([1.0, 0.5, 1.1, 0.5, np.nan]), np.array([0.1, np.nan, 0.05, 0.2, np.nan])
    assert SloClass(ttft_s=1.0, tpot_s=0.1).met(*times).tolist() == [True, True, False, False, False]
    assert SloClass().met(*times).tolist() == [True, True, True, True, False]
    assert not SloClass().promises
