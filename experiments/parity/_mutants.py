"""Faults planted in the simulated engine, each a change of its source text, to see whether lockstep finds them.

A mutant runs uncompiled: while its modules are built, what would compile its functions leaves them as they are.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from experiments.parity._our_side import Rules

# The modules that schedule, each built before those that import it.
MODULES = ("cache", "blocks", "queue", "async_scheduling", "step", "execute")
COMPILER = "kvhorizon.compiled.compiler"
ORIGIN = "<mutant>"  # file name of their code, so that an exception says where it arose

FREE_FINISHED = """                give_back(engine, engine.cache, n)
                lists.finished"""

# name -> (module, text, what stands there instead)
MUTANTS: dict[str, tuple[str, str, str]] = {
    "a block too many at block boundaries": (
        "blocks",
        "return (tokens + block_size - 1) // block_size",
        "return tokens // block_size + 1",
    ),
    "blocks rounded down": (
        "blocks",
        "return (tokens + block_size - 1) // block_size",
        "return max(1, tokens // block_size)",
    ),
    "the first is preempted, not the last": ("step", "        return count[RUNNING] - 1\n", "        return 0\n"),
    "priority is no reason to be preempted": (
        "step",
        "if not engine.limits.by_priority:\n        return",
        "if True:\n        return",
    ),
    "the preempted go to the end of the queue": (
        "queue",
        "        push_in_order(engine, n)\n    else:\n        push_front(engine, n)",
        "        push_in_order(engine, n)\n    else:\n        push_back(engine, n)",
    ),
    "priority is no reason to go first": ("queue", "return priority[n] < priority[m]", "return False"),
    "a preempted request keeps its tokens of the step": (
        "step",
        "                budget += lists.scheduled[place]\n",
        "",
    ),
    "no watermark": ("step", "margin = limits.watermark_blocks if count[RUNNING] > 0 else 0", "margin = 0"),
    "a watermark on an idle engine": (
        "step",
        "margin = limits.watermark_blocks if count[RUNNING] > 0 else 0",
        "margin = limits.watermark_blocks",
    ),
    "only the first chunk must fit": (
        "step",
        "return blocks_for(known, limits.block_size) - found",
        "return blocks_for(min(known, budget), limits.block_size) - found",
    ),
    "a seat too few": (
        "step",
        "if count[RUNNING] >= limits.max_seqs or",
        "if count[RUNNING] >= limits.max_seqs - 1 or",
    ),
    "a preemption forgets the output": (
        "step",
        "    columns.computed[n] = 0\n    columns.shared",
        "    columns.computed[n] = 0\n    columns.generated[n] = 0\n    columns.shared",
    ),
    "the preempted keep their blocks": (
        "step",
        "    give_back(engine, engine.cache, n)\n    columns.computed[n] = 0",
        "    columns.computed[n] = 0",
    ),
    "running requests cost no tokens": (
        "step",
        "        lists.scheduled[i] = tokens\n        budget -= charged\n",
        "        lists.scheduled[i] = tokens\n",
    ),
    "long prefills are not limited": ("step", "if 0 < limits.long_prefill_tokens < tokens and not alone:", "if False:"),
    "a lone long prefill is limited": ("step", "< tokens and not alone:", "< tokens:"),
    "prefills are chunked all the same": ("step", "if not limits.chunked and", "if False and"),
    "a token too many": ("execute", "columns.generated[n] >= live.output[n]", "columns.generated[n] > live.output[n]"),
    "the finished keep their blocks": ("execute", FREE_FINISHED, "                lists.finished"),
    "the aborted keep their blocks": (
        "step",
        "            take_out(engine, place)\n            give_back(engine, engine.cache, n)",
        "            take_out(engine, place)",
    ),
    "a hit is missed": ("cache", "        found += 1\n        if", "        found += 1 if i != 2 else 0\n        if"),
    "the last token is not computed": (
        "step",
        "find(engine, engine.cache, n, known - 1)",
        "find(engine, engine.cache, n, known)",
    ),
    "idle hits are free of charge": ("step", "- found + idle + margin", "- found + margin"),
    "the newest content is overwritten first": (
        "cache",
        "        block = marks[OLDEST]\n",
        "        block = marks[NEWEST]\n",
    ),
    "the head of a request is overwritten before its tail": (
        "cache",
        "for i in range(held - 1, -1, -1):",
        "for i in range(held):",
    ),
    "a full block is found a step late": (
        "blocks",
        "register(cache, n, tokens // engine.limits.block_size)",
        "register(cache, n, (tokens - 1) // engine.limits.block_size)",
    ),
    "of equal blocks the last is found": (
        "cache",
        "    cache.twin[last] = block\n",
        "    cache.twin[block] = cache.first[at]\n    cache.first[at] = block\n",
    ),
    "a step is decided that the limit makes useless": (
        "async_scheduling",
        "engine.columns.generated[n] + 1 >= engine.columns.limit[n]",
        "False",
    ),
    "the token of the preempted is lost": (
        "async_scheduling",
        "        engine.live.under_way[n] = -engine.live.under_way[n]\n",
        "        engine.live.under_way[n] = 0\n        drop(engine, n)\n",
    ),
    "who ends in the queue stays there": ("async_scheduling", "        remove(engine, n)\n", "        pass\n"),
    "a stop is seen too soon": (
        "async_scheduling",
        ">= live.output[n]:",
        ">= live.output[n] - (live.under_way[n] > 0):",
    ),
    "a block is found before its content is known": (
        "step",
        "min(columns.computed[n] + tokens, known_tokens(engine, n))",
        "columns.computed[n] + tokens",
    ),
    "a token under way is forgotten": ("step", " + tokens_under_way(engine, n) - computed", " - computed"),
}


@contextmanager
def replaced(modules: dict[str, ModuleType]) -> Iterator[None]:
    """Imports inside find `modules` in place of the real ones."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def uncompiled() -> ModuleType:
    """Stands where the compiler does."""

    def compiled(function: Any) -> Any:
        return function

    module = ModuleType(COMPILER)
    module.__dict__.update(compiled=compiled, inside=compiled)
    return module


def source_of(module: str) -> str:
    """The text of one of the simulator's modules."""
    found = importlib.util.find_spec(module)
    if found is None or found.origin is None:
        raise ValueError(f"there is no {module}")
    return Path(found.origin).read_text(encoding="utf-8")


def changed(name: str | None, module: str, source: str) -> str:
    """The source with the fault `name` in it, if it belongs to this module."""
    if name is None or f"kvhorizon.sim.engine.{MUTANTS[name][0]}" != module:
        return source
    _, before, after = MUTANTS[name]
    if before not in source:
        raise ValueError(f"mutant {name!r}: {module} has no {before!r}")
    return source.replace(before, after)


def mutant(name: str | None) -> Rules:
    """The modules with one fault in them, or uncompiled with none; each file's name is `ORIGIN`."""
    built = {COMPILER: uncompiled()}
    for module in MODULES:
        full = f"kvhorizon.sim.engine.{module}"
        source = changed(name, full, source_of(full))
        built[full] = ModuleType(full)
        with replaced(built):
            exec(compile(source, ORIGIN, "exec"), built[full].__dict__)
    return Rules(*(built[f"kvhorizon.sim.engine.{name}"] for name in Rules._fields))
