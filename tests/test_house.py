"""Each counter of `experiments.house` on a small planted tree whose answer is known."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from experiments.house import COUNTERS, largest, median, places

from experiments._house import blocks, documents, imports, shape, tuples, words
from experiments._house.tree import Finding, Tree
from kvhorizon.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
Plant = Callable[[dict[str, str]], Tree]


@pytest.fixture
def plant(tmp_path: Path) -> Plant:
    """Writes files, by path and text, and returns their tree."""

    def write(files: dict[str, str]) -> Tree:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return Tree(tmp_path)

    return write


def found(findings: list[Finding]) -> list[str]:
    return [one.what for one in findings]


def test_files_in_a_folder_are_counted_without_init_and_generated_ones(plant: Plant) -> None:
    names = ("a.py", "b.py", "__init__.py", "x_pb2.py", "deep/c.py", "notes.md")
    tree = plant({f"kvhorizon/{name}": "" for name in names})
    assert largest(shape.files_per_folder(tree)) == 2


def test_the_median_is_of_files_that_hold_code(plant: Plant) -> None:
    tree = plant(
        {"kvhorizon/__init__.py": '"""Empty."""\n', "kvhorizon/a.py": "x = 1\n", "experiments/b.py": "y = 1\n" * 9}
    )
    assert median(shape.file_lines(tree)) == 5


def test_a_function_is_as_long_as_from_def_to_its_end(plant: Plant) -> None:
    method = "class A:\n    def long(self):\n        x = 1\n\n        return x\n"
    tree = plant({"kvhorizon/a.py": "@mark\ndef short():\n    pass\n\n\n" + method})
    assert largest(shape.function_lines(tree)) == 4


def test_parameters_of_every_kind_count_but_self_and_options(plant: Plant) -> None:
    """b, c, d, e and f; a command's only parameter is an option."""
    method = "class A:\n    def f(self, b, /, c, *d, e, **f): ...\n"
    command = "def g(\n    x: Annotated[int, typer.Option()] = 1,\n) -> None: ...\n"
    tree = plant({"kvhorizon/a.py": method + command})
    assert sorted(one.value for one in shape.parameters(tree)) == [0, 5]
    assert sorted(one.value for one in shape.function_lines(tree)) == [1, 2]


def test_a_cycle_is_found_also_through_an_import_in_a_function(plant: Plant) -> None:
    files = {
        "kvhorizon/__init__.py": "def __getattr__(name):\n    from kvhorizon.a import x\n    return x\n",
        "kvhorizon/a.py": "from kvhorizon.deep import b\nfrom kvhorizon import __version__\n",
        "kvhorizon/deep/__init__.py": "",
        "kvhorizon/deep/b.py": "def f():\n    import kvhorizon.c\n",
        "kvhorizon/c.py": "from kvhorizon.a import x\n",
    }
    assert found(imports.import_cycles(plant(files))) == ["kvhorizon.a <-> kvhorizon.c <-> kvhorizon.deep.b"]
    files["kvhorizon/c.py"] = "if TYPE_CHECKING:\n    from kvhorizon.a import x\n"
    assert found(imports.import_cycles(plant(files))) == []


INDEXED = {
    "a parameter": ("def f(pair: tuple[int, int]): return pair[0]", "pair[0]"),
    "perhaps absent": ("def f(pair: tuple[int, int] | None): return pair[-1]", "pair[-1]"),
    "a named tuple": ("class P(NamedTuple):\n    x: int\ndef f(p: P): return p[0]", "p[0]"),
    "a literal": ("def f(a, b):\n    both = (a, b)\n    return both[1]", "both[1]"),
    "a constant": ("SHIFTS = (1, 2)\ndef f(): return SHIFTS[1]", "SHIFTS[1]"),
    "a result": ("def g() -> tuple[int, str]: ...\ndef f(): return g()[1]", "g()[1]"),
    "an attribute": ("class A:\n    def __init__(self): self.x = 1, 2\n    def f(self): return self.x[0]", "self.x[0]"),
    "a field": ("class A:\n    parts: tuple[int, int]\ndef f(a): return a.parts[1]", "a.parts[1]"),
    "an alias": ("Pair = tuple[int, int]\ndef f(p: Pair): return p[0]", "p[0]"),
    "an element": ("def f(all: list[tuple[int, int]]): return [one[1] for one in all]", "one[1]"),
    "items": ("def f(d: dict[str, int]): return max(d.items(), key=lambda one: one[1])", "one[1]"),
    "zip": ("def f(a, b):\n    for one in zip(a, b):\n        print(one[0])", "one[0]"),
    "a call's argument": ("def g(pair): return pair[1]\ndef f(): return g((1, 2))", "pair[1]"),
    "partition": ("def f(text): return text.partition('/')[2]", "text.partition('/')[2]"),
}


@pytest.mark.parametrize(("text", "what"), INDEXED.values(), ids=INDEXED)
def test_a_tuple_indexed_by_a_number_is_found(plant: Plant, text: str, what: str) -> None:
    assert found(tuples.tuple_indices(plant({"kvhorizon/a.py": text + "\n"}))) == [what]


@pytest.mark.parametrize(
    "text",
    [
        "def f(x): return x[0]",
        "def f(x: list[int]): return x[0]",
        "def f(names: tuple[str, ...]): return names[0]",
        "def f(x: tuple[int, int]): return x[1:]",
        "def f(x: tuple[int, int], n): return x[n]",
        "def f(array): return array.shape[1]",
        "def f(d: dict[int, tuple[int, int]]): return d[0]",
        "def f(x: tuple[int, int]):\n    x = [1]\n    return x[0]",
    ],
)
def test_what_is_no_tuple_is_not_found(plant: Plant, text: str) -> None:
    assert found(tuples.tuple_indices(plant({"kvhorizon/a.py": text + "\n"}))) == []


def test_private_words_are_found_in_names_comments_messages_and_documents(plant: Plant) -> None:
    """Eight of the first word of the list, and one of the first that is two words joined."""
    word = words.listed()[0]
    joined = next(one for one in words.listed() if "_" in one)
    spaced = joined.replace("_", " ")
    capital = word.capitalize()
    code = f"def {word}_of(): ...\nclass My{capital}:\n    'not {word}x but {word}'\n"
    code += f"# {capital}, {word.upper()}\n{joined}s = f_{joined}\n"
    tree = plant({f"kvhorizon/{word}s/{word}.py": code, "docs/a.md": f"For {word}'s and {spaced}.\n", "x.json": word})
    assert len(words.private_words(tree)) == 8
    assert [one for one in found(words.private_words(tree)) if one.startswith(joined)] == [
        f"{joined}: {joined}s = f_{joined}"
    ]


def test_names_are_split_at_underscores_and_capitals() -> None:
    assert words.parts_of("_HTTPServer_nameOf2things") == ["http", "server", "name", "of", "2", "things"]


DOCUMENTED = {
    "kvhorizon/__init__.py": "",
    "kvhorizon/sim/__init__.py": "",
    "kvhorizon/sim/step.py": "LIMIT = 1\nclass Base:\n    x: int = 0\n"
    "class Step(Base):\n    def run(self):\n        self.y = 1\n",
    "kvhorizon/report.py": 'FIELDS = ("engine", "step")\n',
    "docs/other.md": "",
}
FINE = (
    "`sim/step.py` `kvhorizon/sim` `step.py` `step.Step.run` `kvhorizon.sim.step.LIMIT` `Step.x` `Step.y` `step.engine`"
)
FINE += (
    " `kvhorizon/means` `out/results.json` `./sim` `numpy.nothing` `sim/*.py` `LIMIT` in [it](../kvhorizon/sim/step.py)"
)
WRONG = (
    "`sim/gone.py` `gone.py` `kvhorizon/gone` `step.gone` `Step.gone` `kvhorizon.sim.gone` [it](gone.md) `tests/*.py`"
)
WRONG += " `GONE` in [it](../kvhorizon/sim/step.py)"


def test_paths_and_symbols_of_documents_must_exist(plant: Plant) -> None:
    tree = plant({**DOCUMENTED, "tests/a.txt": "", "docs/a.md": FINE + " [it](other.md) [out](https://x.y/z)\n"})
    assert found(documents.dangling_symbols(tree)) == []
    tree = plant({"docs/a.md": WRONG + "\n"})
    assert len(documents.dangling_symbols(tree)) == 9


def test_blocks_of_six_equal_lines_are_found_once(plant: Plant) -> None:
    """Eight equal lines are one block, five are none; indentation and comments do not count, nor do imports."""
    eight = [f"x{n} = {n}" for n in range(8)]
    one = "\n".join(eight)
    other = "def f():\n" + "\n".join(f"    {line}  # {n}\n" for n, line in enumerate(eight))
    assert len(blocks.duplicate_blocks(plant({"kvhorizon/a.py": one + "\n", "experiments/b.py": other}))) == 1
    five = "\n".join([*eight[:5], "y = 1", *eight[5:]])
    assert blocks.duplicate_blocks(plant({"experiments/b.py": five + "\n"})) == []
    same = "\n".join(f"import m{n}" for n in range(8)) + "\n"
    assert blocks.duplicate_blocks(plant({"kvhorizon/a.py": same, "experiments/b.py": same})) == []


def test_places_are_told(plant: Plant) -> None:
    tree = plant({"kvhorizon/a.py": "def f(a, b, c, d, e, f, g, h, i): ...\ndef g(a): ...\n"})
    assert places("parameters_max", tree) == ["kvhorizon/a.py:1: f: 9 parameters"]
    with pytest.raises(InputError, match="must be one of files_per_folder_max"):
        places("rooms", tree)


def test_the_command_lists_places() -> None:
    command = [sys.executable, "-m", "experiments.house", "--list"]
    done = subprocess.run([*command, "import_cycles"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "")
    done = subprocess.run([*command, "rooms"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("list='rooms', must be one of")
    assert len(COUNTERS) >= 9
