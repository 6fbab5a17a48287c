"""Does an engine start, whatever of the plugin's start fails? As another user, on vLLM's real scheduler.

Each kind of trouble is one process of an unprivileged user without a home, from `/`, with a package that only root may
write. In it two engines start one after the other, a plain one and one of `data_parallel=2`, and serve requests.
`engines_started` is the share that served all of them; `tracebacks` counts those that reach a log or standard error.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common._harness import Figures, Options, Targets, main, target
from experiments.live._starts_site import OTHER, USER, Site, can_fill_a_disk
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.forecasting.keys import chains_of
from kvhorizon.adapter.planning.host import meeting_name
from kvhorizon.errors import InputError

SEED = 17
DAMAGED = 12  # state folders
PLAN_S = 200.0  # for a child that compiles all it needs
LIBRARIES = {"broken_wire": "grpc", "broken_compiler": "numba"}


def no_home(site: Site, _: ExitStack) -> dict[str, Any]:
    """Code is compiled and kept among the temporary files; the child does the same, and plans."""
    return site.start({"plan_within_s": PLAN_S}, {})


def read_only_package(site: Site, _: ExitStack) -> dict[str, Any]:
    """With a home that has the compiled code; nothing is among the temporary files."""
    home, temporary = site.folder_of("home", USER), site.folder_of("home-temporary", 0, 0o1777)
    site.copy_code(home / ".cache" / "kvhorizon")
    return site.start({}, {"HOME": str(home), "TMPDIR": str(temporary)})


def foreign_folders(site: Site, _: ExitStack) -> dict[str, Any]:
    """Another user has made all folders whose names can be known, and lets everyone write there."""
    temporary = site.folder_of("foreign", 0, 0o1777)
    for name in (f"kvhorizon-compiled-{USER}", meeting_name(site.package / "kvhorizon", USER, options_of_child())):
        site.folder_of(f"foreign/{name}", OTHER, 0o777)
    home = site.folder_of("foreign/home", OTHER, 0o777)
    named = site.folder_of("foreign/named", OTHER, 0o777)
    return site.start({}, {"TMPDIR": str(temporary), "HOME": str(home), "NUMBA_CACHE_DIR": str(named)})


def damaged_state(site: Site, _: ExitStack) -> dict[str, Any]:
    """Bytes of learned state are overwritten, at random."""
    rng = np.random.default_rng(SEED)
    states = []
    for number in range(DAMAGED):
        states.append(site.folder_of(f"state-{number}", USER))
        for folder in saved_state(states[-1]):
            damage(folder, rng)
    return site.start({"states": [str(one) for one in states]}, {})


def full_disk(site: Site, _: ExitStack) -> dict[str, Any]:
    """For temporary files, state and recording; where none can be mounted, no file can be written. (Compiled code on a
    full disk is `tests/models/test_compiled_folders.py`.)"""
    disk = site.folder_of("disk", USER)
    settings = {"state": str(disk / "state"), "record": str(disk / "record")}
    mounted = can_fill_a_disk()
    kind = {"settings": settings, "temporary": str(disk), "no_writes": not mounted}
    return site.start(kind, {"NUMBA_CACHE_DIR": str(site.code)}, disk if mounted else None)


def no_cache_folder(site: Site, _: ExitStack) -> dict[str, Any]:
    """Nowhere can anything be written."""
    return site.start({"temporary": str(site.folder_of("closed", 0, 0o755)), "settings": {}}, {})


def no_child(site: Site, _: ExitStack) -> dict[str, Any]:
    """The interpreter cannot be run again."""
    return site.start({"no_child": True}, {})


def port_taken(site: Site, stack: ExitStack) -> dict[str, Any]:
    """The port for metrics and explanations."""
    taken = stack.enter_context(socket.socket())
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return site.start({"settings": {"http_port": taken.getsockname()[1]}}, {})


def broken(library: str, site: Site, _: ExitStack) -> dict[str, Any]:
    """A library that cannot be imported."""
    folder = site.folder_of(f"broken-{library}", 0, 0o755)
    (folder / f"{library}.py").write_text(f"raise ImportError('{library} is broken')\n")
    return site.start({}, {"PYTHONPATH": f"{folder}:{site.package}"})


KINDS: dict[str, Callable[[Site, ExitStack], dict[str, Any]]] = {
    "no_home": no_home,
    "read_only_package": read_only_package,
    "foreign_folders": foreign_folders,
    "damaged_state": damaged_state,
    "full_disk": full_disk,
    "no_cache_folder": no_cache_folder,
    "no_child": no_child,
    "port_taken": port_taken,
    **{name: partial(broken, library) for name, library in LIBRARIES.items()},
}
QUICK = ("damaged_state", "no_child")


def options_of_child() -> list[str]:
    """As an engine with default settings starts its child."""
    from kvhorizon.adapter.planning.solvers import child_options
    from kvhorizon.adapter.settings import PluginSettings

    return child_options(PluginSettings())


def saved_state(folder: Path) -> list[Path]:
    """Files of a forecaster that has learned something, for an engine to find in its state folder."""
    forecaster = Forecaster()
    forecaster._history.learn(chains_of(np.arange(40) << 20), np.arange(1, 41) * 50)
    forecaster.save(folder / "saved")
    return sorted((folder / "saved").iterdir())


def damage(file: Path, rng: np.random.Generator) -> None:
    """One byte or a few."""
    content = bytearray(file.read_bytes())
    for place in rng.integers(0, len(content), int(rng.integers(1, 4))):
        content[place] ^= int(rng.integers(1, 256))
    file.write_bytes(content)


def measure(options: Options) -> tuple[Figures, Targets]:
    """All kinds, one after the other."""
    if os.geteuid() != 0:
        raise InputError("user", os.geteuid(), "must be root, to start engines as another user")
    site, found = Site(), {}
    for name in QUICK if options.quick else KINDS:
        began_s = time.monotonic()
        with ExitStack() as stack:
            found[name] = KINDS[name](site, stack) | {"seconds": 0.0}
        found[name]["seconds"] = time.monotonic() - began_s
        print(name, json.dumps(shown(found[name])), file=sys.stderr, flush=True)
    figures = {name: shown(one) for name, one in found.items()}
    started = min(started_share(one) for one in found.values())
    tracebacks = sum(one["tracebacks"] for one in found.values())
    return figures, {"engines_started": target(started, ">=1"), "tracebacks": target(tracebacks, "<=0")}


def started_share(one: dict[str, Any]) -> float:
    """Of the engines of a kind, that served all their requests without an error of the plugin's; none is none."""
    engines = one["engines"] if one["status"] == 0 else []
    return float(np.mean([engine["served"] and not engine["errors"] for engine in engines])) if engines else 0.0


def shown(one: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a kind."""
    engines = one["engines"]
    return {
        "engines": len(engines),
        "started": started_share(one),
        "with_the_plugin": sum(engine["plugin"] for engine in engines),
        "with_a_plan": sum(engine["planned"] for engine in engines),
        "lines": len(one["lines"]),
        "said": sorted({line.split(":")[0] for line in one["lines"]}),
        "tracebacks": one["tracebacks"],
        "seconds": round(one["seconds"], 1),
    }


if __name__ == "__main__":
    main("starts", SEED, measure)
