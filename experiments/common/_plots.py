"""Pictures of the experiments: one house style, and files that repeat byte for byte.

figure, axes = canvas(columns=2)
...
save(figure, "victims")      # results/img/victims.svg
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from experiments.common._harness import RESULTS

FOLDER = RESULTS / "img"
OURS, THEIRS, ALARM = "#0b6bcb", "#8a94a0", "#c2410c"  # kvhorizon, references, what hurts
COLOURS = (OURS, ALARM, "#4d7c0f", "#7c3aed", "#eab308", "#0e7490", "#be185d", "#44403c", THEIRS)
STYLE: dict[str, Any] = {
    "svg.hashsalt": "kvhorizon",  # element names do not depend on the run
    "svg.fonttype": "none",  # text stays text: small files
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.6,
    "axes.prop_cycle": mpl.cycler(color=COLOURS),
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def canvas(columns: int = 1, rows: int = 1, width: float = 8.0, height: float = 3.0, **options: Any) -> tuple[Any, Any]:
    """A figure in the house style and its axes as `plt.subplots` gives them; sizes in inches."""
    mpl.use("Agg")
    mpl.rcParams.update(STYLE)
    return plt.subplots(rows, columns, figsize=(width, height), layout="constrained", **options)


def save(figure: Figure, name: str, folder: Path = FOLDER) -> Path:
    """Write `NAME.svg` without dates or random names; returns its path and closes the figure."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return path
