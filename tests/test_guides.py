"""The guides: commands that need no engine run, links lead somewhere, examples name settings that exist."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from kvhorizon.adapter.settings import PREFIX, PluginSettings
from kvhorizon.recording.schema import Row
from kvhorizon.recording.write import Folder

ROOT = Path(__file__).resolve().parents[1]
GUIDES = sorted((ROOT / "docs/guides").glob("*.md"))
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLES = [*sorted((ROOT / "deploy/kubernetes").glob("*.yaml")), ROOT / "deploy/Containerfile"]
WITH_COMMANDS = [path for path in GUIDES if BLOCK.search(path.read_text())]
PYTHON = shlex.quote(sys.executable)


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda path: path.stem)
def test_the_commands_of_a_guide_run(path: Path, tmp_path: Path) -> None:
    script = "\n".join(["set -euo pipefail", *BLOCK.findall(path.read_text())])
    here = f'kvhorizon() {{ {PYTHON} -m kvhorizon "$@"; }}\n'
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": search}
    done = subprocess.run(["bash", "-c", here + script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for folder in re.findall(r"--out (\w+)(?:\s|$)", script):
        assert any((tmp_path / folder).iterdir())


NEED_A_LIVE_ENGINE = {"kvhorizon top"}  # run by tests/test_top.py
UNMARKED = [
    (path, line.strip())
    for path in GUIDES
    for line in path.read_text().splitlines()
    if line.startswith("    kvhorizon ") and line.strip() not in NEED_A_LIVE_ENGINE
]


@pytest.mark.parametrize(("path", "line"), UNMARKED, ids=lambda part: part.stem if isinstance(part, Path) else part)
def test_commands_on_an_engine_s_recording_run_on_one(path: Path, line: str, tmp_path: Path) -> None:
    """Paths of the guides stand for folders here; the recording has forty requests."""
    rows = [
        Row(1e9 + 0.1 * n, 100, 50 + n, f"r{n}", ttft_s=0.5, tpot_s=0.01, e2e_s=2.5, finish="stop") for n in range(40)
    ]
    facts = {"model": "mine", "total_blocks": 200, "block_size": 16, "max_num_seqs": 64, "max_num_batched_tokens": 512}
    facts |= {"max_model_len": 4096, "cost": {"fixed_s": 0.01, "weights_s": 0.0}}
    Folder(tmp_path / "recording", "e", 10**9).write(rows, facts)
    here = shlex.split(line.replace("/var/lib/kvhorizon/", "").replace("/tmp/", ""))[1:]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "kvhorizon", *here], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_some_commands_need_a_recording() -> None:
    assert len(UNMARKED) >= 3
    assert {path.stem for path, _ in UNMARKED} == {"production", "ten-minutes"}


def test_most_guides_have_commands() -> None:
    assert len(WITH_COMMANDS) >= 5


@pytest.mark.parametrize("path", GUIDES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / link).exists(), link


def test_settings_in_guides_and_examples_exist() -> None:
    known = {PREFIX + name.upper() for name in PluginSettings.model_fields}
    for path in [*GUIDES, *EXAMPLES]:
        found = set(re.findall(rf"{PREFIX}[A-Z_]+", path.read_text()))
        assert found <= known, (path.name, found - known)


def test_options_of_the_service_in_the_examples_exist() -> None:
    command = [sys.executable, "-m", "kvhorizon", "serve", "--help"]
    told = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    asked = [re.findall(r'\["serve", ([^\]]*)\]|"serve"\]', path.read_text()) for path in EXAMPLES]
    options = {option for found in asked for line in found for option in re.findall(r'"(--[a-z-]+)"', line)}
    assert {"--listen", "--metrics-port", "--tls-ca"} <= options
    assert all(option in told for option in options)
