"""How rules, plans and simulator are compiled: so that they cost what they compute.

numba counts a reference to each array of a named tuple whenever the tuple is taken apart or handed on, atomically and
outside the compiled function. That keeps arrays alive which compiled code makes itself; most of ours makes none, and
whoever calls it holds all others. Counting took three quarters of a replay's time, and half of a step's choice.

numba also makes each function callable from Python, which for large tuples takes longer than compiling it. Of the
simulator's only a few are called from there; the others, marked `inside`, run uncompiled if they are.

All of it is kept on disk (`compiled.cache`) where there is a private place (`compiled.folders`).
"""

from typing import Any

from numba import njit
from numba.extending import register_jitable

from kvhorizon.compiled.cache import install

KEPT = install()
UNCOUNTED: dict[str, Any] = {"cache": KEPT, "_nrt": False}
COUNTED: dict[str, Any] = {"cache": KEPT, "_nrt": True}

compiled: Any = njit(**UNCOUNTED)
unlocked: Any = njit(**UNCOUNTED, nogil=True)  # the planner's: other threads run meanwhile
counting: Any = njit(**COUNTED)  # functions that make arrays, or are handed some that no other holds
counting_unlocked: Any = njit(**COUNTED, nogil=True)
inside: Any = register_jitable(**UNCOUNTED)
making_arrays: Any = register_jitable(**COUNTED)  # one that returns them is called only by another of these
