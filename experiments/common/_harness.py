"""The frame of every experiment: arguments, targets, versions, one object to print and to keep.

Each run says by a digest which sources it measured (`_sources`); `python -m experiments --stale` lists results that are
older than the code. An experiment is a module with `measure(options) -> (figures, targets)` that ends in

    if __name__ == "__main__":
        main("step_time", SEED, measure)

`python -m experiments.NAME` prints a table, `--json` one JSON object; both add the run to `results/NAME.json`.
`--quick` is a smoke run: smaller where the experiment says so, and not kept.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from experiments.common._sources import digest_of
from kvhorizon import __version__
from kvhorizon.errors import InputError

RESULTS = Path(__file__).resolve().parents[1] / "results"
_SIGNS = {"<=": operator.le, ">=": operator.ge}

Figures = Mapping[str, Any]
Targets = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Options:
    """How an experiment was called."""

    json: bool = False
    quick: bool = False


def data() -> Path:
    """The folder of measured data; raises InputError where KVHORIZON_DATA does not name one."""
    folder = os.environ.get("KVHORIZON_DATA", "")
    if not folder or not Path(folder).is_dir():
        raise InputError("KVHORIZON_DATA", folder, "must name the folder of the traces and calibration data")
    return Path(folder)


def target(value: float, limit: str) -> dict[str, Any]:
    """A value against its limit, such as "<=0.15" or ">=2"."""
    met = _SIGNS[limit[:2]](value, float(limit[2:]))
    return {"value": value, "target": limit, "met": bool(met)}


def versions() -> dict[str, str]:
    """Of what computes the figures; vLLM where it is installed."""
    found = {"python": platform.python_version(), "kvhorizon": __version__}
    for package in ("numpy", "numba", "scipy", "highspy", "vllm"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def report(name: str, seed: int, figures: Figures, targets: Targets, options: Options) -> dict[str, Any]:
    """Print the run, and keep it under its name unless it was a quick one; returns it."""
    command = f"python -m experiments.{name}" + (" --quick" if options.quick else "")
    about = {"command": command, "seed": seed, "versions": versions()}
    if not options.quick:
        about["sources"] = digest_of(name)
    run: dict[str, Any] = _plain({**about, "figures": figures, "targets": targets})
    print(json.dumps(run) if options.json else _table(run))
    if not options.quick:
        _keep(RESULTS / f"{name}.json", run)
    return run


def main(name: str, seed: int, measure: Callable[[Options], tuple[Figures, Targets]]) -> None:
    """Parse the arguments, measure, report; bad input ends in one line and exit status 2."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.{name}", description=sys.modules["__main__"].__doc__)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="a smoke run, not kept")
    options = Options(**vars(parser.parse_args()))
    if not options.quick:
        digest_of(name)  # of the sources as they are now, whatever happens to them while this measures
    try:
        report(name, seed, *measure(options), options)
    except InputError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None


def _keep(path: Path, run: dict[str, Any]) -> None:
    """Add the run to the list in `path`, in place of one with the same command, seed and versions."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    same = ("command", "seed", "versions")
    kept = [old for old in kept if any(old[key] != run[key] for key in same)]
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([*kept, run], indent=1) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    """JSON's own types, floats to six significant digits."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    value = value.item() if hasattr(value, "item") else value
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _without_rounds(value: Any) -> Any:
    """Single rounds are kept and in the JSON object, but make no line of a table."""
    if isinstance(value, dict):
        return {key: _without_rounds(part) for key, part in value.items() if key != "each_round"}
    return value


def _table(run: dict[str, Any]) -> str:
    width = max(len(key) for key in [*run["figures"], *run["targets"], ""])
    lines = [f"{run['command']}  seed {run['seed']}  " + " ".join(f"{k} {v}" for k, v in run["versions"].items())]
    lines += [f"  {key:<{width}}  {_without_rounds(value)}" for key, value in run["figures"].items()]
    for key, t in run["targets"].items():
        lines.append(f"  {key:<{width}}  {t['value']}  target {t['target']}  {'met' if t['met'] else 'MISSED'}")
    return "\n".join(lines)
