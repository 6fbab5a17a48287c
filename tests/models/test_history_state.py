"""A history survives its file, and a file that makes no sense is refused."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.forecasting.keys import chains_of
from kvhorizon.errors import InputError
from kvhorizon.models.forecast.history.chains import length_chain
from kvhorizon.models.forecast.history.history import LengthHistory
from kvhorizon.models.forecast.history.state import MOST_BYTES, load_history, save_history


def taught(rows: int = 32) -> tuple[LengthHistory, np.ndarray]:
    rng = np.random.default_rng(5)
    tenant = rng.integers(0, 6, 2000)
    chains = length_chain(tenant, rng.integers(1, 9000, 2000))
    history = LengthHistory(rows)
    lengths = np.maximum(1, rng.lognormal(3 + tenant, 0.5)).astype(np.int64)
    for some in np.array_split(np.arange(2000), 100):
        history.learn(chains[some], lengths[some])
    return history, chains


def test_curves_are_the_same_after_a_restart(tmp_path: Path) -> None:
    history, chains = taught()
    save_history(history, tmp_path / "state.npz")
    again = LengthHistory(32)
    load_history(again, tmp_path / "state.npz")
    history.forget(1.0)  # renews the curves that were not due yet, as reading does
    assert again.known()[0].tolist() == history.known()[0].tolist()
    before, after = (one.evidence.alive[one.known()[1]] for one in (history, again))
    assert after == pytest.approx(before, abs=1e-9)
    again.learn(chains[:50], np.full(50, 100))


def test_a_smaller_history_keeps_the_keys_used_last(tmp_path: Path) -> None:
    history, chains = taught()
    save_history(history, tmp_path / "state.npz")
    small = LengthHistory(4)
    load_history(small, tmp_path / "state.npz")
    keys, _ = small.known()
    assert len(keys) <= 15
    assert small.survival[0] == pytest.approx(history.survival[0], abs=0.02)
    small.learn(chains, np.full(len(chains), 77))


@pytest.mark.parametrize(
    ("name", "change", "rule"),
    [
        ("version", lambda part: part + 1, "version 1"),
        ("ended", lambda part: part[:, 1:], "ended of shape"),
        ("ended", lambda part: -part - 1, "ended >= 0"),
        ("total", lambda part: part * np.nan, "finite numbers in total"),
        ("parent", lambda part: part + 7, "tree of keys"),
        ("level", lambda part: part * 0, "tree of keys"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, name: str, change: object, rule: str) -> None:
    history, _ = taught()
    path = tmp_path / "state.npz"
    save_history(history, path)
    with np.load(path) as archive:
        parts = {key: archive[key] for key in archive.files}
    parts[name] = change(parts[name])
    np.savez(path, **parts)
    with pytest.raises(InputError, match=rule):
        load_history(LengthHistory(32), path)


def test_pickles_and_junk_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    np.savez(path, version=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="readable history file"):
        load_history(LengthHistory(), path)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match="readable history file"):
        load_history(LengthHistory(), path)
    with pytest.raises(InputError, match="readable history file"):
        load_history(LengthHistory(), tmp_path / "absent.npz")


def test_an_empty_history_survives_its_file(tmp_path: Path) -> None:
    save_history(LengthHistory(4), tmp_path / "state.npz")
    load_history(LengthHistory(4), tmp_path / "state.npz")
    assert list(tmp_path.iterdir()) == [tmp_path / "state.npz"]


def small_file(path: Path) -> bytes:
    history = LengthHistory(2)
    history.learn(np.array([[1, 10], [2, 20]]), np.array([50, 900]))
    save_history(history, path)
    return path.read_bytes()


def load_or_refuse(path: Path) -> bool:
    """Whether the file was refused; any other error fails the test. What was taken in can be learned from."""
    history = LengthHistory(2)
    try:
        load_history(history, path)
    except InputError:
        return True
    assert np.isfinite(history.survival).all()
    history.learn(np.array([[1, 10], [3, 30]]), np.array([70, 80]))
    return False


def test_whatever_byte_is_damaged_the_file_is_refused_or_whole(tmp_path: Path) -> None:
    """Each byte in turn, one bit of it or all; what the archive does not check (times, attributes) changes nothing."""
    path = tmp_path / "state.npz"
    whole = small_file(path)
    refused = 0
    for place in range(len(whole)):
        flipped = 0xFF if place % 2 else 1 << (place // 2 % 8)
        path.write_bytes(whole[:place] + bytes([whole[place] ^ flipped]) + whole[place + 1 :])
        refused += load_or_refuse(path)
    assert refused > len(whole) / 2


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_cut_or_overwritten_the_file_is_refused_or_whole(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "state.npz"
    whole = small_file(path)
    place = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:place] + data.draw(st.binary(max_size=64)) + whole[place + data.draw(st.integers(0, 64)) :])
    load_or_refuse(path)
    path.write_bytes(whole[: len(whole) * place // (len(whole) + 1)])
    assert load_or_refuse(path)


def test_a_file_that_unpacks_to_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "state.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("keys.npy", "w") as out:
        for _ in range(MOST_BYTES // 2**20 + 1):
            out.write(bytes(2**20))
    with pytest.raises(InputError, match="must unpack to at most"):
        load_history(LengthHistory(2), path)


def test_a_header_that_promises_terabytes_costs_nothing(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"shape": (2**40,), "fortran_order": False, "descr": "<f8"})
    path = tmp_path / "state.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version.npy", header.getvalue())
    with pytest.raises(InputError, match="readable history file"):
        load_history(LengthHistory(2), path)


@pytest.mark.parametrize("damaged", ["history.npz", "hints.npz"])
def test_a_forecaster_takes_in_all_of_its_state_or_nothing(tmp_path: Path, damaged: str) -> None:
    taught = Forecaster()
    taught._history.learn(chains_of(np.full(400, 1 << 20)), np.full(400, 3000))
    taught.save(tmp_path)
    again, fresh = Forecaster(), Forecaster()
    again.restore(tmp_path)
    assert not np.array_equal(again.tables.survival, fresh.tables.survival)
    (tmp_path / damaged).write_bytes((tmp_path / damaged).read_bytes()[:-9])
    again = Forecaster()
    with pytest.raises(InputError):
        again.restore(tmp_path)
    assert np.array_equal(again.tables.survival, fresh.tables.survival)
    assert again._publish(1).survival == pytest.approx(fresh.tables.survival)
