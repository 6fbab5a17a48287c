"""Faults planted in the simulated engine, each a change of its source text, to see whether lockstep finds them.

A mutant runs uncompiled: set NUMBA_DISABLE_JIT=1 before numba is imported.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from experiments._our_side import Rules

# The modules that schedule, each built before those that import it.
MODULES = ("cache", "blocks", "queue", "step")

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
        "    columns.computed[n] = 0\n    columns.overtaker",
        "    columns.computed[n] = 0\n    columns.generated[n] = 0\n    columns.overtaker",
    ),
    "a preemption keeps half the KV": (
        "step",
        "    columns.computed[n] = 0\n    columns.overtaker",
        "    columns.computed[n] //= 2\n    columns.overtaker",
    ),
    "running requests cost no tokens": (
        "step",
        "        lists.scheduled[i] = tokens\n        budget -= charged\n",
        "        lists.scheduled[i] = tokens\n",
    ),
    "long prefills are not limited": ("step", "if 0 < limits.long_prefill_tokens < tokens and not alone:", "if False:"),
    "a lone long prefill is limited": ("step", "< tokens and not alone:", "< tokens:"),
    "prefills are chunked all the same": ("step", "if not limits.chunked and", "if False and"),
    "a token too many": ("step", "columns.generated[n] >= live.output[n]", "columns.generated[n] > live.output[n]"),
    "the finished keep their blocks": ("step", FREE_FINISHED, "                lists.finished"),
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
    "equal blocks are forgotten together": (
        "cache",
        "        if after == NONE:\n            close_gap",
        "        if True:\n            close_gap",
    ),
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


def mutant(name: str) -> Rules:
    """The modules with one fault in them; raises ValueError where the source no longer has the text to change."""
    where, before, after = MUTANTS[name]
    built: dict[str, ModuleType] = {}
    for module in MODULES:
        full = f"kvhorizon.sim.{module}"
        found = importlib.util.find_spec(full)
        if found is None or found.origin is None:
            raise ValueError(f"mutant {name!r}: there is no {full}")
        source = Path(found.origin).read_text(encoding="utf-8")
        if module == where:
            if before not in source:
                raise ValueError(f"mutant {name!r}: {full} has no {before!r}")
            source = source.replace(before, after)
        built[full] = ModuleType(full)
        with replaced(built):
            exec(compile(source, name, "exec"), built[full].__dict__)
    return Rules(built["kvhorizon.sim.queue"], built["kvhorizon.sim.step"])
