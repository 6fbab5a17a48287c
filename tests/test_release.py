"""What is released: the wheel and the source archive hold what they should, and the wheel works on its own."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from kvhorizon import __version__

ROOT = Path(__file__).resolve().parents[1]
MOST_DEPENDENCIES = 10


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    for target in ("wheel", "sdist"):
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return built / f"kvhorizon-{__version__}-py3-none-any.whl"


def sources() -> set[str]:
    """Files of the package that are not made by running it."""
    found = (path for path in (ROOT / "kvhorizon").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(ROOT)) for path in found}


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {name for name in names if not name.startswith(f"kvhorizon-{__version__}.dist-info/")}
    assert inside == sources()
    assert f"kvhorizon-{__version__}.dist-info/licenses/LICENSE" in names


def test_the_core_needs_few_packages(wheel: Path) -> None:
    told = zipfile.ZipFile(wheel).read(f"kvhorizon-{__version__}.dist-info/METADATA").decode()
    needed = [line for line in told.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert 0 < len(needed) <= MOST_DEPENDENCIES


def test_the_archive_can_be_built_and_tested(built: Path) -> None:
    with tarfile.open(built / f"kvhorizon-{__version__}.tar.gz") as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {
        "pyproject.toml",
        "README.md",
        "Makefile",
        "requirements/lock.txt",
        "CHANGELOG.md",
        "LICENSE",
        "proto/kvhorizon/v1/scheduler.proto",
    }
    assert wanted | sources() | {"tests/test_release.py"} <= names


def test_the_wheel_alone_plans(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    command = "import sys; sys.path.insert(0, sys.argv.pop(1)); from kvhorizon.cli import main; main()"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-c", command, str(tmp_path), *arguments], capture_output=True, text=True
        )

    assert run("--version").stdout.strip() == f"kvhorizon {__version__}"
    wrong = run("plan", str(tmp_path / "nothing.json"))
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1
