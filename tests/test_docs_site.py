"""The documentation as a site: it builds without a warning, and every page can be reached."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def named(entries: list[object]) -> list[str]:
    """All pages of a navigation."""
    found: list[str] = []
    for entry in entries:
        inner = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += named(inner) if isinstance(inner, list) else [str(inner)]
    return found


def test_every_page_is_in_the_navigation_once() -> None:
    entries = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(named(entries)) == PAGES


def test_every_page_is_built(site: Path) -> None:
    for page in PAGES:
        built = site / (page.removesuffix(".md").replace("README", "index") + ".html")
        assert "<h1" in built.read_text(encoding="utf-8"), page


def test_links_out_of_the_documentation_become_names(site: Path) -> None:
    page = (site / "reference/metrics.html").read_text(encoding="utf-8")
    assert "deploy/prometheus/kvhorizon.rules.yml" in page
    assert not [
        one
        for one in site.rglob("*.html")
        if 'deploy/prometheus/kvhorizon.rules.yml"' in one.read_text(encoding="utf-8")
    ]
    assert not list(site.rglob("*.py"))
