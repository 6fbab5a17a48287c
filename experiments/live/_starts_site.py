"""A hardened container in small, for `starts`: another user, a package that only root may write, no home, cwd `/`.

Needs root, to become another user.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

import kvhorizon
from experiments.common._scratch import scratch

USER, OTHER = 65534, 65533
READ_ALL = "-all,+dac_read_search"  # where this interpreter lies in root's own folder: reading is not what is tested
PROBE = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import numba'], check=True)"
FULL_BYTES = 65536
LIMIT_S = 400.0


class Site:
    """Folders of one sandbox. `start` runs the engines of one kind in it."""

    def __init__(self) -> None:
        self.folder = scratch("starts")
        self.folder.chmod(0o755)
        self.package = self.folder / "package"
        root = Path(kvhorizon.__file__).parents[1]
        unwanted = shutil.ignore_patterns("__pycache__", "results")
        for name in ("kvhorizon", "experiments"):
            shutil.copytree(root / name, self.package / name, ignore=unwanted)
        for path in (self.package, *self.package.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        self.temporary = self.folder_of("temporary", 0, 0o1777)
        self.code = self.temporary / f"kvhorizon-compiled-{USER}"  # compiled by the first start, for those after it
        self.vllm = self.folder_of("vllm", USER)

    def folder_of(self, name: str, user: int, mode: int = 0o700) -> Path:
        """A new folder of a user."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        folder.chmod(mode)
        os.chown(folder, user, user)
        return folder

    def copy_code(self, place: Path) -> None:
        """What starts before have compiled, to another private folder of the user; nothing where there was none."""
        if self.code.exists():
            shutil.copytree(self.code, place)
            for path in (place.parent, place, *place.rglob("*")):
                os.chown(path, USER, USER)
                path.chmod(0o700 if path.is_dir() else 0o600)

    @cached_property
    def as_user(self) -> list[str]:
        """What runs a command as the user."""
        plain = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        capable = [f"--{which}={READ_ALL}" for which in ("inh-caps", "ambient-caps", "bounding-set")]
        for command in (plain, [*plain, *capable]):
            looked = [*command, sys.executable, "-c", PROBE]
            if subprocess.run(looked, cwd="/", env=self.environment({}), capture_output=True).returncode == 0:
                return command
        raise RuntimeError("no interpreter that another user can run")

    def environment(self, more: dict[str, str]) -> dict[str, str]:
        """Nothing of ours but the path; vLLM has its own folders, else it fills the log with tracebacks of its own."""
        own = {"VLLM_CACHE_ROOT": str(self.vllm), "VLLM_CONFIG_ROOT": str(self.vllm), "HF_HUB_OFFLINE": "1"}
        own |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TMPDIR": str(self.temporary)}
        return {"PATH": os.environ["PATH"], "PYTHONPATH": str(self.package), **own, **more}

    def start(self, kind: dict[str, Any], more: dict[str, str], full: Path | None = None) -> dict[str, Any]:
        """What the process of `_starts_engine` found, and the tracebacks of ours on its standard error.

        `full` is a folder that is a full disk meanwhile."""
        command = [*self.as_user, sys.executable, "-P", "-m", "experiments.live._starts_engine", json.dumps(kind)]
        if full is not None:
            mount = 'mount -t tmpfs -o size=%d,mode=1777 none "%s" && ! head -c %d /dev/zero > "%s/full" 2>&-'
            within = mount % (FULL_BYTES, full, 2 * FULL_BYTES, full) + ' && exec "$@"'
            command = ["unshare", "-m", "sh", "-c", within, "sh", *command]
        done = subprocess.run(
            command, cwd="/", env=self.environment(more), capture_output=True, text=True, timeout=LIMIT_S
        )
        last = (done.stdout.strip().splitlines() or [""])[-1]
        found = json.loads(last) if last.startswith("{") else {"engines": [], "lines": [], "traces": 0}
        tracebacks = found["traces"] + ours(done.stderr)
        return {**found, "tracebacks": tracebacks, "status": done.returncode, "stderr": done.stderr[-4000:]}


def ours(text: str) -> int:
    """Tracebacks that go through this package."""
    return sum("/kvhorizon/" in block for block in text.split("Traceback (most recent call last)")[1:])


def can_fill_a_disk() -> bool:
    """Whether a file system can be mounted here, apart from all others."""
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(probe, capture_output=True).returncode == 0
