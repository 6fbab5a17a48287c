"""Faults: each plants itself in a live engine and returns how to lift it (`nothing`: it heals by itself)."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.live.faults._live_bench import Bench
from kvhorizon.adapter.accounting.recomputation import Accounting

Lift = Callable[[], None]
HOUR_S = 3600.0
_MEMORY_LEFT_BYTES = 256 * 2**20


class Fault(NamedTuple):
    """`name` is the issue's; `healed`, where given, says that whatever broke has been replaced."""

    name: str
    plant: Callable[[Bench], Lift]
    part: str = ""  # of several of one name
    healed: Callable[[Bench], bool] | None = None
    same_for_plain: bool = False  # plain vLLM meets it too: it is part of the load
    counts: bool = False  # it adds to `Bench.met` when it strikes


def nothing() -> None:
    """It heals by itself."""


def killed(bench: Bench) -> Lift:
    """The solver child, by force."""
    os.kill(_child(bench), signal.SIGKILL)
    return nothing


def stopped(bench: Bench) -> Lift:
    """The solver child hangs as a whole."""
    os.kill(_child(bench), signal.SIGSTOP)
    return nothing


def starved(bench: Bench) -> Lift:
    """The solver child wants more memory than it may have."""
    pid = _child(bench)
    size = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (size + _MEMORY_LEFT_BYTES, resource.RLIM_INFINITY))
    return _mood(bench, "hungry")


def slow(bench: Bench) -> Lift:
    """Plans take longer than they stay fresh."""
    return _mood(bench, "slow")


def garbage(bench: Bench) -> Lift:
    """Plans that are nonsense."""
    return _mood(bench, "garbage")


def foreign(bench: Bench) -> Lift:
    """Plans for another engine."""
    return _mood(bench, "foreign")


def unlinked(bench: Bench) -> Lift:
    """The child's socket is deleted, and then the child is lost: nothing could reach it."""
    child = bench.child.child if bench.child is not None else None
    assert child is not None
    Path(child.address.removeprefix("unix:")).unlink()
    os.kill(_child(bench), signal.SIGKILL)
    return nothing


def restarted(bench: Bench) -> Lift:
    """The shared service dies, and is started again."""
    bench.kill_service()
    return bench.start_service


def frozen(bench: Bench) -> Lift:
    """The shared service hangs as a whole, until the plugin has given it up; then it goes on."""
    shared = bench.shared
    assert shared is not None
    part = shared.stop

    def parted() -> None:
        bench.met += 1
        part()

    def lift() -> None:
        del shared.stop
        bench.signal_service(signal.SIGCONT)

    shared.stop = parted  # type: ignore[method-assign]
    bench.signal_service(signal.SIGSTOP)
    return lift


def expired(bench: Bench) -> Lift:
    """The connection is lost, and the next one is refused: our certificate has expired. It is renewed in place."""
    bench.authority.write(bench.folder / "client", expired=True)
    assert bench.shared is not None
    bench.shared.stop()

    def renew() -> None:
        bench.authority.write(bench.folder / "client")

    return renew


def disk_full(bench: Bench) -> Lift:
    """No file of this process may grow."""
    telemetry = bench.live.plugin.telemetry
    assert telemetry is not None
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    telemetry.once(last=True)

    def lift() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        telemetry.once(last=True)

    return lift


def wall_clock(ahead_s: float) -> Callable[[Bench], Lift]:
    """The time of day, on which requests are stamped, jumps."""

    def plant(bench: Bench) -> Lift:
        bench.wall_ahead_s = ahead_s

        def lift() -> None:
            bench.wall_ahead_s = 0.0

        return lift

    return plant


def steady_clock(bench: Bench) -> Lift:
    """The steady clock leaps ahead, as after a machine was suspended; it cannot go back."""
    bench.steady_ahead_s += HOUR_S
    return nothing


def flood(bench: Bench) -> Lift:
    """FLOOD short requests at once."""
    bench.live.flood()
    return nothing


def raising(owner: Callable[[Bench], Any], method: str) -> Callable[[Bench], Lift]:
    """Our own code fails each time, until the plugin retires; then it is told to go on."""

    def plant(bench: Bench) -> Lift:
        target = owner(bench)
        whole, own = getattr(target, method), method in vars(target)

        def broken(*_: object, **__: object) -> None:
            bench.met += 1
            raise RuntimeError("planted")

        setattr(target, method, broken)

        def lift() -> None:
            if own:
                setattr(target, method, whole)
            else:
                delattr(target, method)
            bench.live.plugin.recall()

        return lift

    return plant


def _hook(part: str, owner: Callable[[Bench], Any], method: str) -> Fault:
    return Fault("our code raising", raising(owner, method), part, counts=True)


def _replaced(bench: Bench) -> bool:
    return bench.child is not None and bench.child.child is not None


CHILD_FAULTS = (
    Fault("solver killed", killed, healed=_replaced),
    Fault("solver stopped", stopped, healed=_replaced),
    Fault("solver slow", slow),
    Fault("solver out of memory", starved, healed=_replaced),
    Fault("solver answers garbage", garbage, healed=_replaced),
    Fault("solver answers for another epoch", foreign, healed=_replaced),
    Fault("socket deleted", unlinked, healed=_replaced),
)
SERVICE_FAULTS = (
    Fault("service restarted", restarted),
    Fault("service stopped", frozen, counts=True),
    Fault("certificate expired", expired),
)
ENGINE_FAULTS = (
    Fault("clock jump", wall_clock(HOUR_S), "time of day, an hour ahead"),
    Fault("clock jump", wall_clock(-HOUR_S), "time of day, an hour back"),
    Fault("clock jump", steady_clock, "steady clock, an hour ahead"),
    _hook("before_schedule", lambda bench: bench.live.plugin.control, "act"),
    _hook("after_schedule", lambda bench: bench.live.plugin.admitted, "take"),
    _hook("added", lambda bench: bench.live.plugin.intake, "add"),
    _hook("preempted", lambda bench: bench.live.plugin.rows, "wait"),
    _hook("released", lambda bench: bench.live.plugin.rows, "release"),
    _hook("account_preempting", lambda _: Accounting, "preempting"),
    _hook("account_scheduled", lambda _: Accounting, "scheduled"),
    _hook("account_release", lambda _: Accounting, "release"),
    _hook("telemetry", lambda bench: bench.live.plugin.telemetry, "collect"),
    _hook("learning", lambda bench: bench.live.plugin.forecaster, "learn"),
    Fault("disk full for the recorder", disk_full),
    Fault("flood of 5 000 arrivals", flood, same_for_plain=True),
)


def _mood(bench: Bench, mood: str) -> Lift:
    bench.mood.write_text(mood, encoding="utf-8")
    return lambda: bench.mood.unlink(missing_ok=True)


def _child(bench: Bench) -> int:
    child = bench.child.child if bench.child is not None else None
    assert child is not None
    assert child.pid is not None
    return child.pid
