"""Paths and symbols that documents name, in code spans and links, and whether they exist."""

from __future__ import annotations

import ast
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from experiments._house.imports import Modules
from experiments._house.kinds import name_of
from experiments._house.tree import EXPERIMENTS, PACKAGE, Finding, Tree

SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")
DEFINED_IN = re.compile(r"`(\w+)` in \[[^\]]*\]\(([^)#]+\.py)\)")
PATH = re.compile(r"\w[\w.*-]*(/[\w.*-]+)*/?")
SYMBOL = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
FILES = {"py", "md", "toml", "json", "jsonl", "svg", "proto", "yaml", "yml", "csv", "txt", "html", "js", "key", "crt"}
PRESETS = {"means", "balanced", "strict"}  # `kvhorizon/means` is a policy, not a path


def dangling_symbols(tree: Tree) -> list[Finding]:
    """Every path and `module.symbol` in README and documentation that leads nowhere, and "`symbol` in [file](path)".

    A path is a span with a slash whose first part is a folder of the repository or the package, and every `.py` file.
    It may be given from the root, from the package or from any folder, and may hold `*`. A symbol is a dotted name that
    begins with a package, a module or a class of ours; it resolves to a definition, or to texts of the package, such as
    fields of results and names on the wire. NAME and DIR are placeholders.
    """
    paths, symbols = Paths(tree), Symbols(tree)
    found = []
    for document, text in tree.documents():
        for number, line in enumerate(text.splitlines(), 1):
            spans = [span.strip().removesuffix("()") for span in SPAN.findall(line)]
            missing = [span for span in spans if paths.lacks(span) or symbols.lacks(span)]
            missing += [link for link in LINK.findall(line) if paths.lacks_link(document, link)]
            for symbol, link in DEFINED_IN.findall(line):
                path = Path(os.path.normpath(document.parent / link))
                missing += [f"{symbol} in {link}"] if symbols.lacks_in(path, symbol) else []
            found += [Finding(document, number, name) for name in missing]
    return found


class Paths:
    """Files and folders of the repository, and any way of naming them."""

    def __init__(self, tree: Tree) -> None:
        self._root = tree.root
        folders = (PACKAGE, EXPERIMENTS, "tests", "docs", "proto", "deploy", "requirements")
        files = tree.files("*", *(f"{folder}/**/*" for folder in folders))
        self._known = {PurePosixPath(path) for path in files} | {PurePosixPath(p) for f in files for p in f.parents}
        self._folders = {path.name for path in self._known if path.suffix == ""}
        self._ends = {"/".join(path.parts[first:]) for path in self._known for first in range(len(path.parts))}

    def lacks(self, span: str) -> bool:
        """Whether a span is a path of ours that does not exist."""
        if not PATH.fullmatch(span) or "NAME" in span:
            return False
        steps = PurePosixPath(span).parts
        is_file = PurePosixPath(span).suffix == ".py"
        if not is_file and ("/" not in span or steps[0] not in self._folders):
            return False
        if steps[0] == PACKAGE and steps[-1] in PRESETS:
            return False
        if "*" in span:
            return not any(path.match(span) for path in self._known)
        return span.rstrip("/") not in self._ends

    def lacks_link(self, document: Path, link: str) -> bool:
        """Whether a link leads to no file."""
        return ":" not in link and not (self._root / document.parent / link).exists()


class Symbols:
    """Definitions of the package and the experiments, by module and by class."""

    def __init__(self, tree: Tree) -> None:
        self._modules = Modules(tree, PACKAGE, EXPERIMENTS)
        self._classes: dict[str, set[str]] = {}
        self._bases: dict[str, set[str]] = {}
        self._texts: set[str] = set()
        self._stems: dict[str, set[str]] = {}  # last part of a module's name, to whole names
        for module, source in self._modules.by_name.items():
            self._stems.setdefault(module.rpartition(".")[2], set()).add(module)
            for node in ast.walk(source.syntax):
                if isinstance(node, ast.ClassDef):
                    self._classes.setdefault(node.name, set()).update(_members(node))
                    self._bases.setdefault(node.name, set()).update(map(name_of, node.bases))
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    self._texts.add(node.value)

    def lacks(self, span: str) -> bool:
        """Whether a span is a symbol of ours that is defined nowhere."""
        if not SYMBOL.fullmatch(span) or "NAME" in span or span.rpartition(".")[2] in FILES:
            return False
        steps = span.split(".")
        if steps[0] in self._classes:
            known = self._has(steps[0], steps[1])
        elif steps[0] in self._stems:
            known = any(self._defines(module, steps[1:]) for module in self._stems[steps[0]])
        else:
            return False
        return not known and span not in self._texts and not all(step in self._texts for step in steps)

    def lacks_in(self, path: Path, symbol: str) -> bool:
        """Whether a file of ours does not define a symbol; False for files that are not there."""
        module = ".".join(path.with_suffix("").parts)
        return module in self._modules.by_name and symbol not in self._names(module)

    def _defines(self, module: str, steps: list[str]) -> bool:
        if not steps:
            return True
        inner = f"{module}.{steps[0]}"
        if inner in self._modules.by_name:
            return self._defines(inner, steps[1:])
        if steps[0] not in self._names(module):
            return False
        return len(steps) == 1 or steps[0] not in self._classes or self._has(steps[0], steps[1])

    @functools.cache  # noqa: B019
    def _names(self, module: str) -> set[str]:
        return set(_members(self._modules.by_name[module].syntax))

    def _has(self, name: str, member: str) -> bool:
        """Whether a class or one of its bases has a member."""
        if name not in self._classes:
            return False
        return member in self._classes[name] or any(self._has(base, member) for base in self._bases[name])


def _members(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    """Names that a module or a class defines; of a class also what its methods assign to `self`."""
    for part in ast.walk(node):
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield part.name
        elif isinstance(part, ast.Assign):
            yield from (name_of(one) for target in part.targets for one in _leaves(target))
        elif isinstance(part, ast.AnnAssign):
            yield name_of(part.target)
        elif isinstance(part, ast.ImportFrom | ast.Import):
            yield from (alias.asname or alias.name for alias in part.names)


def _leaves(target: ast.expr) -> list[ast.expr]:
    return target.elts if isinstance(target, ast.Tuple) else [target]
