"""Results that documents quote and that are not of the code as it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

from experiments._house.tree import Finding, Tree
from experiments.common._sources import RESULTS, stale_results

NAMED = re.compile(r"experiments\.([a-z]\w*)|results/([a-z]\w*)\.json")
CODE_SPAN = re.compile(r"`[^`\n]*`")
PAST = ("CHANGELOG.md", "experiments/notes/")  # tell what was measured in their time
INDEX = "kept in"  # a column of the table that lists all experiments; it quotes nothing
KEEPS = re.compile(r"^from experiments\.common\._harness import .*\b(main|report|versions)\b", re.MULTILINE)


def stale_results_quoted(tree: Tree) -> list[Finding]:
    """Each stale result in each section of a document that quotes it.

    A section, from one heading to the next, quotes the results of every experiment that it names, if it holds a figure
    outside code; the change log and notes of trials tell of the past and do not count. An experiment whose results are
    not kept at all, though it makes some, counts as stale.
    """
    stale = {one.experiment: one.why for one in stale_results(tree)}
    stale |= dict.fromkeys(_unkept(tree), "no result of it is kept")
    found = []
    documents = [(path, text) for path, text in tree.documents() if not path.as_posix().startswith(PAST)]
    for path, text in documents:
        for first, section in sections(text):
            for name in sorted(quoted(section) & set(stale)):
                found.append(Finding(path, first, f"{name}: {stale[name]}"))
    return found


def sections(text: str) -> Iterator[tuple[int, str]]:
    """Number of the first line, and text, of each section; the table that lists all experiments is left out."""
    lines, first, is_index = [""], 1, False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            yield first, "\n".join(lines)
            lines, first = [], number
        is_index = line.startswith("|") and (is_index or INDEX in line)
        if not is_index:
            lines.append(line)
    yield first, "\n".join(lines)


def quoted(section: str) -> set[str]:
    """Experiments whose results a section quotes."""
    names = {one or other for one, other in NAMED.findall(section)}
    prose = "\n".join(line for line in section.splitlines() if not line.startswith(("    ", "#")))
    return names if re.search(r"\d", CODE_SPAN.sub("", prose)) else set()


def _unkept(tree: Tree) -> set[str]:
    """Experiments that report figures of which no file is there."""
    kept = {path.stem for path in tree.files(f"{RESULTS.as_posix()}/*.json")}
    runnable = (source for source in tree.python("experiments") if not source.path.stem.startswith("_"))
    return {source.path.stem for source in runnable if KEEPS.search(source.text)} - kept
