"""Results know of which code they are: what a digest covers, which files are stale, and which documents quote them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from experiments._harness import Options, report
from experiments._sources import ROOT, Sources, digest_of, stale_results

from experiments import _harness
from experiments.__main__ import EXPERIMENTS, list_stale
from experiments._house.quoted import stale_results_quoted
from experiments._house.tree import Tree

Plant = Callable[[dict[str, str]], Tree]
COMMAND = "python -m experiments.speed"
FILES = {
    "kvhorizon/__init__.py": '__version__ = "1"\ndef __getattr__(name):\n    from kvhorizon.book import name\n',
    "kvhorizon/book.py": "",
    "kvhorizon/step.py": "from kvhorizon import __version__\nX = 1  # one\n",
    "kvhorizon/child.py": "X = 1\n",
    "kvhorizon/other.py": "X = 1\n",
    "kvhorizon/types_only.py": "X = 1\n",
    "kvhorizon/prices.csv": "a\n",
    "experiments/common/_harness.py": "X = 1\n",
    "experiments/_load.py": 'FILE = "prices.csv"\n',
    "experiments/speed.py": """from experiments.common._harness import main
from experiments._load import FILE
if TYPE_CHECKING:
    from kvhorizon.types_only import X
def measure():
    from kvhorizon.step import X
    start(["-m", "kvhorizon.child"])
""",
}


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Writes files, by path and text, over FILES, and returns their tree."""

    def write(files: dict[str, str]) -> Tree:
        for name, text in {**FILES, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Tree(tmp_path)

    return write


def test_an_experiment_measures_what_it_needs_by_import_by_text_and_by_file(plant: Plant) -> None:
    files = [path.as_posix() for path in Sources(plant({})).files("speed")]
    assert files == [
        "experiments/_load.py",
        "experiments/speed.py",
        "kvhorizon/__init__.py",
        "kvhorizon/child.py",
        "kvhorizon/prices.csv",
        "kvhorizon/step.py",
    ]


@pytest.mark.parametrize(
    "name", ["kvhorizon/step.py", "kvhorizon/child.py", "kvhorizon/prices.csv", "experiments/_load.py"]
)
def test_a_change_of_what_is_measured_changes_the_digest(plant: Plant, name: str) -> None:
    before = Sources(plant({})).digest("speed")
    assert Sources(plant({})).digest("speed") == before
    assert Sources(plant({name: FILES[name] + "Y = 2\n"})).digest("speed") != before


@pytest.mark.parametrize(
    "name", ["kvhorizon/other.py", "kvhorizon/book.py", "kvhorizon/types_only.py", "experiments/common/_harness.py"]
)
def test_a_change_elsewhere_does_not(plant: Plant, name: str) -> None:
    before = Sources(plant({})).digest("speed")
    assert Sources(plant({name: FILES[name] + "Y = 2\n"})).digest("speed") == before


def test_comments_and_docstrings_do_not_count(plant: Plant) -> None:
    before = Sources(plant({})).digest("speed")
    other = '"""Prose\n\nin two lines."""\n\nfrom kvhorizon import __version__\n\n# more\nX = 1  # two\n'
    assert Sources(plant({"kvhorizon/step.py": other})).digest("speed") == before
    assert Sources(plant({"kvhorizon/step.py": other.replace("X = 1", "X = '# two'")})).digest("speed") != before


def test_an_experiment_may_name_folders_that_it_measures(plant: Plant) -> None:
    tree = plant({"experiments/speed.py": 'MEASURES = ("docs",)\n', "docs/a.md": "a", "docs/b.svg": "b"})
    assert [path.as_posix() for path in Sources(tree).files("speed")] == ["docs/a.md"]


def kept(*digests: str | None, commands: tuple[str, ...] = (COMMAND,)) -> str:
    runs = [
        {"command": command, "seed": 0, "versions": {"vllm": n}, **({"sources": one} if one else {})}
        for n, one in enumerate(digests)
        for command in commands
    ]
    return json.dumps(runs)


def test_a_result_is_stale_unless_the_last_run_of_each_command_is_of_the_code_as_it_is(plant: Plant) -> None:
    digest = Sources(plant({})).digest("speed")
    path = "experiments/results/speed.json"
    for content, why in [
        (kept(None), "it does not say which sources it measured"),
        (kept(digest, None), "it does not say which sources it measured"),
        (kept("0" * 64), "its sources have changed"),
        (json.dumps({"command": COMMAND, "sources": "0"}), "its sources have changed"),
        (
            json.dumps([*json.loads(kept(digest)), {"command": "on a GPU", "seed": 0, "sources": "0"}]),
            "its sources have changed",
        ),
    ]:
        assert [(one.path.as_posix(), one.why) for one in stale_results(plant({path: content}))] == [(path, why)]
    for content in (kept(digest), kept(None, digest), json.dumps({"command": COMMAND, "sources": digest})):
        assert stale_results(plant({path: content})) == []
    assert len(stale_results(plant({path: kept(digest), "kvhorizon/step.py": "X = 2\n"}))) == 1


def test_a_result_without_its_experiment_is_stale(plant: Plant) -> None:
    (found,) = stale_results(plant({"experiments/results/gone.json": "[]"}))
    assert found.why == "there is no such experiment"


def test_an_experiment_is_found_in_a_folder_of_its_theme(plant: Plant) -> None:
    assert Sources(plant({"experiments/live/soak.py": ""})).module_of("soak") == "experiments.live.soak"


def test_stale_results_are_listed_and_make_the_exit_status(plant: Plant) -> None:
    said: list[str] = []
    tree = plant({"experiments/results/speed.json": kept(None)})
    assert list_stale(tree, said.append) == 1
    assert said == ["experiments/results/speed.json: it does not say which sources it measured"]
    digest = Sources(tree).digest("speed")
    assert list_stale(plant({"experiments/results/speed.json": kept(digest)}), said.append) == 0
    assert len(said) == 1


def test_documents_quote_a_result_where_a_section_names_it_and_holds_a_figure(plant: Plant) -> None:
    """Twice in README.md; the table of all experiments, the change log and sections without figures do not count."""
    index = (
        "| question | command | kept in |\n|---|---|---|\n| 3 things | `python -m experiments.speed` | `speed.json` |\n"
    )
    quoted = (
        "## Speed\n\n    python -m experiments.speed\n\nIt takes 3 s.\n\n## Again\n\nSee `results/speed.json`: 4 s.\n"
    )
    documents = {
        "README.md": quoted,
        "docs/a.md": "## How\n\n`python -m experiments.speed --runs 3` says how fast.\n",
        "experiments/README.md": index,
        "CHANGELOG.md": "Faster by 3 s (`experiments.speed`).\n",
    }
    tree = plant({**documents, "experiments/results/speed.json": kept(None)})
    assert [(str(one.path), one.line) for one in stale_results_quoted(tree)] == [("README.md", 1), ("README.md", 7)]
    fresh = kept(Sources(tree).digest("speed"))
    assert stale_results_quoted(plant({"experiments/results/speed.json": fresh})) == []
    (tree.root / "experiments/results/speed.json").unlink()
    assert {one.what for one in stale_results_quoted(Tree(tree.root))} == {"speed: no result of it is kept"}


def test_a_kept_run_holds_the_digest_and_a_smoke_run_keeps_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_harness, "RESULTS", tmp_path)
    report("bench_planner", 0, {"a": 1}, {}, Options(quick=True))
    assert not list(tmp_path.iterdir())
    report("bench_planner", 0, {"a": 1}, {}, Options(json=True))
    (run,) = json.loads((tmp_path / "bench_planner.json").read_text())
    assert (
        run["sources"] == digest_of("bench_planner") == json.loads(capsys.readouterr().out.splitlines()[-1])["sources"]
    )


def test_every_experiment_has_sources_of_its_own() -> None:
    """And those that drive the plugin in an engine have the service, which runs in a child process, among them."""
    sources = Sources(Tree(ROOT))
    for one in EXPERIMENTS:
        files = {path.as_posix() for path in sources.files(one.name)}
        assert any(path.startswith("experiments/") and path.endswith(f"/{one.name}.py") for path in files)
        assert len(files) > 20
    live = {path.as_posix() for path in sources.files("real_engine")}
    assert {"kvhorizon/service/main.py", "kvhorizon/adapter/scheduler.py"} <= live
