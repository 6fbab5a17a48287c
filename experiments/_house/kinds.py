"""Which expressions are tuples, as far as the syntax alone tells: the part of type inference that `tuples` needs.

A kind is None where nothing is known, a `Fixed` for a tuple or named tuple of a known length, a `Many` for what is
iterated over, a `Table` for a mapping, and an `Instance` for the object that a method belongs to.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field

SEQUENCES = {"list", "set", "frozenset", "deque", "Sequence", "Iterable", "Iterator", "Collection", "Generator"}
MAPPINGS = {"dict", "Mapping", "defaultdict", "OrderedDict", "MutableMapping"}
WRAPPERS = {"Annotated", "Final", "ClassVar", "Optional"}


@dataclass(frozen=True)
class Fixed:
    """A tuple of so many parts, or a named one."""

    parts: tuple[Kind, ...] = ()


@dataclass(frozen=True)
class Many:
    """Something that is iterated over."""

    each: Kind = None


@dataclass(frozen=True)
class Table:
    """A mapping."""

    key: Kind = None
    value: Kind = None


@dataclass(frozen=True)
class Instance:
    """An object of a class of the package, by the class's name."""

    name: str


Kind = Fixed | Many | Table | Instance | None


@dataclass
class Known:
    """What the whole package declares: named tuples, aliases of types, results of functions, fields of classes."""

    named: set[str] = field(default_factory=set)
    aliases: dict[str, ast.expr] = field(default_factory=dict)
    results: dict[str, Kind] = field(default_factory=dict)
    fields: dict[str, Kind] = field(default_factory=dict)
    constants: dict[str, Kind] = field(default_factory=dict)  # of modules
    parameters: dict[tuple[str, str], Kind] = field(default_factory=dict)  # of functions that declare no type
    own: dict[tuple[str, str], Kind] = field(default_factory=dict)  # what methods assign, by class and name


def name_of(node: ast.expr) -> str:
    """The last part of a dotted name; empty for other expressions."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def declared(node: ast.expr | None, known: Known, depth: int = 0) -> Kind:
    """The kind that a type annotation declares."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    if isinstance(node, ast.BinOp):  # X | None
        return declared(node.left, known, depth) or declared(node.right, known, depth)
    if isinstance(node, ast.Subscript):
        return _generic(name_of(node.value), node.slice, known, depth)
    if isinstance(node, ast.Name | ast.Attribute):
        name = name_of(node)
        if name in known.named:
            return Fixed()
        if name in known.aliases and depth < 5:
            return declared(known.aliases[name], known, depth + 1)
    return None


def _generic(name: str, inside: ast.expr, known: Known, depth: int) -> Kind:
    parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
    if name in WRAPPERS:
        return declared(parts[0], known, depth)
    if name == "tuple":
        repeated = len(parts) == 2 and isinstance(parts[1], ast.Constant) and parts[1].value is Ellipsis
        is_record = name_of(parts[0]) in ("object", "Any")  # parts of several types, so each place has a meaning
        kinds = tuple(declared(part, known, depth) for part in parts)
        return Many(kinds[0]) if repeated and not is_record else Fixed(kinds)
    if name in MAPPINGS and len(parts) == 2:
        return Table(declared(parts[0], known, depth), declared(parts[1], known, depth))
    return Many(declared(parts[0], known, depth)) if name in SEQUENCES else None


def declarations(modules: list[ast.Module]) -> Known:
    """What modules declare. A name that is declared in two ways counts as unknown."""
    known = Known()
    nodes = [node for module in modules for node in ast.walk(module)]
    classes = [node for node in nodes if isinstance(node, ast.ClassDef)]
    known.named = {one.name for one in classes if any(name_of(base) == "NamedTuple" for base in one.bases)}
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.value, ast.Subscript):
            known.aliases[name_of(node.targets[0])] = node.value
    for module in modules:
        _add_constants(module, known)
    for one in classes:
        for part in one.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                _add(known.fields, part.target.id, declared(part.annotation, known))
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            _add(known.results, node.name, declared(node.returns, known))
            if any(name_of(mark) in ("property", "cached_property") for mark in node.decorator_list):
                _add(known.fields, node.name, declared(node.returns, known))
    return known


def _add_constants(module: ast.Module, known: Known) -> None:
    for node in module.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple) and len(node.targets) == 1:
            _add(known.constants, name_of(node.targets[0]), Fixed((None,) * len(node.value.elts)))


def _add(table: dict[str, Kind], name: str, kind: Kind) -> None:
    table[name] = kind if table.get(name, kind) == kind else None
