"""Private words: terms that no one outside knows, where the field has its own. The list is `private_words.txt`.

Names are split at underscores and capitals, so a word counts in `TheWord`, `the_word` and "the word" alike; two words
joined by an underscore in the list count in names only. Names of files and folders count once each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from experiments._house.tree import GENERATED, Finding, Tree

LIST = Path(__file__).with_name("private_words.txt")
FOLDERS = ("kvhorizon", "experiments", "tests", "docs", "proto", "deploy")
SUFFIXES = ("py", "pyi", "md", "proto", "js", "css", "yaml", "yml", "toml", "sh")
NAME = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")


def listed() -> tuple[str, ...]:
    """The private words."""
    return tuple(LIST.read_text(encoding="ascii").split())


def parts_of(name: str) -> list[str]:
    """A name split at underscores and capitals, in small letters."""
    return [part.lower() for part in PART.findall(name)]


def found_in(text: str, words: tuple[str, ...]) -> Iterator[str]:
    """Every private word of a text."""
    for name in NAME.findall(text):
        joined = f"_{'_'.join(parts_of(name))}_"
        for word in words:
            yield from [word] * _times(joined, word)


def _times(joined: str, word: str) -> int:
    return len(re.findall(f"(?<=_){word}(?=_)", joined))


def private_words(tree: Tree) -> list[Finding]:
    """Every use, in names, comments, messages and documents of package, experiments, tests and docs."""
    words = listed()
    quick = re.compile("|".join(word.replace("_", "_?") for word in words), re.IGNORECASE)
    patterns = [f"{folder}/**/*.{suffix}" for folder in FOLDERS for suffix in SUFFIXES]
    found: list[Finding] = []
    folders: set[Path] = set()
    for path in tree.files("*.md", *patterns):
        if GENERATED in path.name:
            continue
        folders.update(path.parents)
        found += [Finding(path, 0, f"{word}, in its name") for word in found_in(path.stem, words)]
        text = (tree.root / path).read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            if quick.search(line):
                found += [Finding(path, number, f"{word}: {line.strip()}") for word in found_in(line, words)]
    for folder in sorted(folders):
        found += [Finding(folder, 0, f"{word}, in its name") for word in found_in(folder.name, words)]
    return found
