"""The solver service as a child process on a private Unix socket, for an engine or a simulation that has none.

It cannot outlive its parent: it exits when the pipe on its standard input ends, however the parent dies.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

import kvhorizon
from kvhorizon.wire.client import Client
from kvhorizon.wire.failures import SolverUnavailable

MODULE = "kvhorizon.service.main"
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)
_NICE = 5  # the engine beside it goes first
_POLL_S = 0.05


class SolverChild:
    """`with SolverChild(["--budget-s", "0.05"]) as child: Client(child.address) ...`

    Starting returns when the child serves, compiled and warm; raises SolverUnavailable where it does not within
    `start_timeout_s` (the first start on a machine compiles for some 20 s).
    """

    def __init__(self, options: list[str] | None = None, start_timeout_s: float = 120.0, module: str = MODULE) -> None:
        """`options` are further arguments of the service; `module` is what `python -m` runs."""
        self._options = options or []
        self._start_timeout_s = start_timeout_s
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._folder: Path | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """Of the process, once started."""
        return None if self._process is None else self._process.pid

    @property
    def address(self) -> str:
        """Where it listens; valid between start and stop."""
        if self._folder is None:
            raise SolverUnavailable("the solver child is not started")
        return f"unix:{self._folder}/solver.sock"

    def start(self) -> None:
        """Start the process and wait until it serves."""
        self.stop()
        self._folder = Path(tempfile.mkdtemp(prefix="kvhorizon-"))  # only its owner may enter
        try:
            self._process = self._spawn()
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the process, by force if it does not go within `timeout_s`, and remove its folder."""
        process, self._process = self._process, None
        if process is not None:
            end(process, timeout_s)
        folder, self._folder = self._folder, None
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def kill(self) -> None:
        """End the process by force, at once."""
        self.stop(timeout_s=0.0)

    def __enter__(self) -> "SolverChild":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _spawn(self) -> subprocess.Popen[bytes]:
        own = ["--listen", self.address, "--exit-on-stdin-eof", "--nice", str(_NICE)]
        return subprocess.Popen(
            [sys.executable, "-P", "-m", self._module, *own, *self._options],
            stdin=subprocess.PIPE,  # held open: its end is the child's signal to go
            stdout=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + self._start_timeout_s
        with Client(self.address) as client:
            while time.monotonic() < deadline_s:
                if self._process is None or self._process.poll() is not None:
                    status = None if self._process is None else self._process.returncode
                    raise SolverUnavailable(f"the solver child ended with status {status} before it served")
                if client.ready(timeout_s=1.0):
                    return
                time.sleep(_POLL_S)
        raise SolverUnavailable(f"the solver child did not serve within {self._start_timeout_s} s")


def _environment() -> dict[str, str]:
    """Ours, with no GPU, one thread per library, and this very package first on the path."""
    root = str(Path(kvhorizon.__file__).resolve().parents[1])
    inherited = os.environ.get("PYTHONPATH")
    path = root if not inherited else os.pathsep.join([root, inherited])
    return {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, "1"), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": path}


def end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Ask by SIGTERM, then by SIGKILL; closes the pipe last, so that a graceful stop is not cut short."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdin is not None:
        process.stdin.close()
