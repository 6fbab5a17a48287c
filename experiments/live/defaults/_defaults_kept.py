"""Rounds kept one by one as JSON lines, so that the parts of a long experiment add up to one result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from experiments.live.defaults._defaults_measure import Row

ROOT = Path(__file__).resolve().parents[3]


class Cell(NamedTuple):
    """One load on one model, with so many requests a round."""

    model: str
    load: str
    requests: int

    def __str__(self) -> str:
        return f"{self.model} {self.load}"


def _code() -> str:
    found = hashlib.sha256()
    for path in [*sorted((ROOT / "kvhorizon").rglob("*.py")), *sorted((ROOT / "experiments").rglob("_defaults_*.py"))]:
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


CODE = _code()  # of what is measured, the product and the loads, as this process began; other states are not mixed in


class Rounds:
    """Kept rounds, cell by cell: contender -> row. With no `path` they are only remembered."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._rounds: dict[Cell, list[dict[str, Row]]] = {}
        if path is not None and path.exists():
            lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
            for line in lines:
                if line["code"] == CODE:
                    self._rounds.setdefault(Cell(*line["cell"]), []).append(line["rows"])

    def of(self, cell: Cell) -> list[dict[str, Row]]:
        """All rounds of a cell so far."""
        return self._rounds.get(cell, [])

    def add(self, cell: Cell, rows: dict[str, Row], load_average: float) -> None:
        """One more, measured while the machine had this load average."""
        self._rounds.setdefault(cell, []).append(rows)
        line: dict[str, Any] = {"code": CODE, "cell": cell, "load_average": load_average, "rows": rows}
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    def lacking(self, cells: Iterable[Cell], rounds: int) -> list[Cell]:
        """Those with fewer rounds."""
        return [cell for cell in cells if len(self.of(cell)) < rounds]
