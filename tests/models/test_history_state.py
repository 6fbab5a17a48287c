"""A history survives its file, and a file that makes no sense is refused."""

from pathlib import Path

import numpy as np
import pytest

from kvhorizon.errors import InputError
from kvhorizon.models.chains import length_chain
from kvhorizon.models.history import LengthHistory
from kvhorizon.models.history_state import load_history, save_history


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
