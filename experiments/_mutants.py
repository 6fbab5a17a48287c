"""Faults planted in the simulated engine's step, each a change of its source text, to see whether lockstep finds them.

A mutant runs uncompiled: set NUMBA_DISABLE_JIT=1 before numba is imported.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from kvhorizon.sim import step

FREE_FINISHED = """                count[FREE] += columns.blocks[n]
                columns.blocks[n] = 0
                lists.finished"""

MUTANTS: dict[str, tuple[str, str]] = {
    "a block too many at block boundaries": (
        "return (tokens + block_size - 1) // block_size",
        "return tokens // block_size + 1",
    ),
    "blocks rounded down": ("return (tokens + block_size - 1) // block_size", "return max(1, tokens // block_size)"),
    "the first is preempted, not the last": (
        "    n = lists.running[count[RUNNING]]\n",
        "    n = lists.running[0]\n"
        "    lists.running[: count[RUNNING]] = lists.running[1 : count[RUNNING] + 1].copy()\n",
    ),
    "the preempted go to the end of the queue": (
        "import push_front, remove",
        "import push_back as push_front, remove",
    ),
    "no watermark": ("margin = limits.watermark_blocks if count[RUNNING] > 0 else 0", "margin = 0"),
    "a watermark on an idle engine": (
        "margin = limits.watermark_blocks if count[RUNNING] > 0 else 0",
        "margin = limits.watermark_blocks",
    ),
    "only the first chunk must fit": (
        "return blocks_for(known_tokens(engine, n), limits.block_size) + margin",
        "return blocks_for(min(known_tokens(engine, n), budget), limits.block_size) + margin",
    ),
    "a seat too few": ("if count[RUNNING] >= limits.max_seqs or", "if count[RUNNING] >= limits.max_seqs - 1 or"),
    "a preemption forgets the output": (
        "    columns.computed[n] = 0\n    columns.overtaker",
        "    columns.computed[n] = 0\n    columns.generated[n] = 0\n    columns.overtaker",
    ),
    "a preemption keeps half the KV": (
        "    columns.computed[n] = 0\n    columns.overtaker",
        "    columns.computed[n] //= 2\n    columns.overtaker",
    ),
    "running requests cost no tokens": (
        "        lists.scheduled[i] = tokens\n        budget -= charged\n",
        "        lists.scheduled[i] = tokens\n",
    ),
    "long prefills are not limited": ("if 0 < limits.long_prefill_tokens < tokens and not alone:", "if False:"),
    "a lone long prefill is limited": ("< tokens and not alone:", "< tokens:"),
    "prefills are chunked all the same": ("if not limits.chunked and", "if False and"),
    "a token too many": ("columns.generated[n] >= live.output[n]", "columns.generated[n] > live.output[n]"),
    "the finished keep their blocks": (FREE_FINISHED, "                lists.finished"),
}


def mutant(name: str) -> ModuleType:
    """The step's module with one fault; raises ValueError where the source no longer has the text to change."""
    before, after = MUTANTS[name]
    source = Path(step.__file__).read_text(encoding="utf-8")
    if source.count(before) < 1:
        raise ValueError(f"mutant {name!r}: the step's source has no {before!r}")
    module = ModuleType("mutant")
    exec(compile(source.replace(before, after), name, "exec"), module.__dict__)
    return module
