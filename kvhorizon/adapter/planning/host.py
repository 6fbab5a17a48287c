"""One solver child for all data-parallel engines of a host: whoever comes first starts it, the others use it.

The engines meet in a folder that only their user may enter. A lock in it belongs to the engine whose child serves, and
goes with that engine, however it ends; the child goes as well, and the next engine that wants a plan takes its place.
"""

from __future__ import annotations

import fcntl
import os
import stat
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import kvhorizon
from kvhorizon.adapter.planning.shared import SharedSolver
from kvhorizon.errors import InputError
from kvhorizon.state import Plan, Snapshot
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.resilient import ResilientSolver

LOOK_S = 1.0  # between two looks at the lock and the address, while another engine's child serves


class AnnouncedChild(SolverChild):
    """A child that tells the other engines where it listens."""

    def __init__(self, options: list[str], place: Path) -> None:
        super().__init__(options)
        self._place = place

    def start(self) -> None:
        """As any child, and announced once it serves."""
        super().start()
        beside = self._place.with_suffix(".new")
        beside.write_text(self.address, encoding="utf-8")
        beside.replace(self._place)


class HostSolver:
    """A `SolverLike`. `owns` tells whether the child is ours; `counts` are those of whichever way plans came."""

    def __init__(
        self,
        folder: Path,
        make_child: Callable[[Path], SolverChild],
        deadline_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`make_child` takes the file in which its address is to be announced."""
        self.counts: Counter[str] = Counter()
        self._folder, self._place = folder, folder / "address"
        self._make_child, self._deadline_s, self._clock = make_child, deadline_s, clock
        self._lock: int | None = None  # file descriptor, ours while it is open
        self._own: ResilientSolver | None = None
        self._other: SharedSolver | None = None
        self._address = ""
        self._look_at_s = 0.0
        self._stopped = False

    @property
    def owns(self) -> bool:
        """Whether this engine's child serves the host."""
        return self._own is not None

    @property
    def child(self) -> SolverChild | None:
        """Ours, where there is one to ask."""
        return self._own.child if self._own is not None else None

    def start(self) -> None:
        """Start a child unless another process has one; raises SolverUnavailable where ours does not serve."""
        self._look()

    def plan(self, snapshot: Snapshot) -> Plan | None:
        """A plan within the deadline, or None; never raises."""
        try:
            if not self.owns and self._clock() >= self._look_at_s:
                self._look()
        except Exception:  # tried again at the next look
            self.counts["failed_starts"] += 1
        solver = self._own or self._other
        if solver is None:
            self.counts["absent"] += 1
            return None
        return solver.plan(snapshot)

    def stop(self) -> None:
        """End the child if it is ours, and make room for the next engine."""
        self._stopped = True
        for solver in (self._own, self._other):
            if solver is not None:
                solver.stop()
        self._release()

    def _look(self) -> None:
        self._look_at_s = self._clock() + LOOK_S
        if self._stopped:
            return
        if self._take_lock():
            own = ResilientSolver(lambda: self._make_child(self._place), self._deadline_s)
            try:
                own.start()
            except BaseException:
                own.stop()
                self._release()
                raise
            self._follow(None)
            own.counts = self.counts
            self._own = own
            if self._stopped:  # meanwhile, by another thread
                self.stop()
            return
        address = self._announced()
        if address != self._address:
            self._follow(address)

    def _follow(self, address: str | None) -> None:
        """Use another engine's child, or none."""
        before, self._other, self._address = self._other, None, address or ""
        if before is not None:
            before.stop()
        if address:
            self._other = SharedSolver(address, None, self._deadline_s)
            self._other.counts = self.counts

    def _announced(self) -> str:
        try:
            return self._place.read_text(encoding="utf-8")
        except OSError:
            return ""

    def _take_lock(self) -> bool:
        lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        self._lock = lock
        return True

    def _release(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def meeting_name(package: Path, user: int, options: Sequence[str]) -> str:
    """The name of the folder: the same for all engines of a user, a package and a child's options."""
    which = zlib.crc32("\n".join([str(package), kvhorizon.__version__, *options]).encode())
    return f"kvhorizon-host-{user}-{which:08x}"


def meeting_place(options: Sequence[str], root: Path | None = None) -> Path:
    """The folder of all engines of this user, this package and these options of the child.

    Raises InputError where it is another user's or open to others, OSError where it cannot be made.
    """
    package = Path(kvhorizon.__file__).resolve().parent
    folder = (root or Path(tempfile.gettempdir())) / meeting_name(package, os.getuid(), options)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise InputError("solver", str(folder), "must be a folder that only its owner may enter")
    return folder
