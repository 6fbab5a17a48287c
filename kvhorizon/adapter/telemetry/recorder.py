"""The recording of a live engine. It runs beside the step; a full or missing disk costs rows, never the engine."""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kvhorizon.adapter.telemetry.observer import Ended
from kvhorizon.errors import InputError
from kvhorizon.recording.schema import Row, arrow
from kvhorizon.recording.write import Folder

logger = logging.getLogger(__name__)

FILE_ROWS = 20_000
FILE_S = 60.0  # a killed engine loses no more than this
IDLE_FILE_S = 10.0  # where it was idle, no more than this
KEPT_ROWS = 100_000  # while the disk refuses them
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # no wrong setting
_HASH_BITS = 2**63 - 1


class Recorder:
    """`take` rows, and `flush` when it is time. `written` and `lost` count requests."""

    def __init__(
        self,
        path: Path,
        name: str,
        facts: Mapping[str, Any],
        most_bytes: int,
        given_tenants: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises InputError where the folder cannot be used or pyarrow is missing, OSError where a disk is full or
        broken, ImportError for a pyarrow that is."""
        arrow("record")
        try:
            self._folder = Folder(path, name, most_bytes)
            self._salt = b"" if given_tenants else _salt(path)
        except OSError as error:
            if error.errno in _DISK:
                raise
            raise InputError("record", str(path), f"must be a writable folder ({error.strerror})") from None
        self.written = self.lost = 0
        self._given_tenants = given_tenants
        self._facts = dict(facts)
        self._clock = clock
        self._rows: list[Row] = []
        self._last_s = clock()  # when a file was last tried
        self._failing = False

    def take(self, ended: list[Ended]) -> None:
        """Keep them until the next file."""
        self._rows += [self._row(one) for one in ended]
        surplus = len(self._rows) - KEPT_ROWS
        if surplus > 0:
            del self._rows[:surplus]
            self.lost += surplus

    def flush(self, idle: bool = False, now: bool = False) -> None:
        """Write a file if one is due. After an error the rows are tried again when the next is due."""
        full = len(self._rows) >= FILE_ROWS and not self._failing
        due = self._clock() >= self._last_s + (IDLE_FILE_S if idle else FILE_S)
        if not self._rows or not (now or full or due):
            return
        self._last_s = self._clock()
        try:
            self._folder.write(self._rows, self._facts)
        except Exception as error:  # whatever it is, the engine goes on
            if not self._failing:
                logger.warning("kvhorizon cannot write its recording now: %s", error)
            self._failing = True
            return
        self._failing = False
        self.written += len(self._rows)
        self._rows = []

    def _row(self, one: Ended) -> Row:
        tally = one.tally
        return Row(
            arrival_s=one.arrival_s,
            prompt_tokens=one.prompt_tokens,
            output_tokens=one.output_tokens,
            request_id=one.request_id,
            max_tokens=one.max_tokens,
            priority=one.priority,
            tenant=one.tenant if self._given_tenants else self._digest(one.tenant),
            preemptions=tally.preemptions,
            recompute_tokens=tally.recompute_tokens,
            restored_tokens=tally.restored_tokens,
            wasted_flops=tally.wasted_flops,
            recompute_s=tally.recompute_s,
            ttft_s=one.ttft_s,
            tpot_s=one.tpot_s,
            e2e_s=max(one.end_s - one.arrival_s, 0.0) if math.isfinite(one.arrival_s) else None,
            finish=one.finish,
            mode=one.mode,
            prefix_hashes=tuple(int.from_bytes(_bytes(block)[:8], "big") & _HASH_BITS for block in one.block_hashes),
            session=self._digest(f"{one.tenant}\n{one.session}") if one.session else "",
            sampling=one.sampling,
            slo_class=one.slo_class,
        )

    def _digest(self, name: str) -> str:
        """Of a name, means nothing outside this folder unless tenants are there as given; of no name, none."""
        if not name:
            return ""
        return hashlib.blake2b(name.encode(), key=self._salt, digest_size=8).hexdigest()


def _bytes(block_hash: Any) -> bytes:
    """vLLM's block hashes are bytes, or numbers with some of its hash functions."""
    return block_hash if isinstance(block_hash, bytes) else (int(block_hash) & (2**64 - 1)).to_bytes(8, "big")


def _salt(folder: Path) -> bytes:
    """The folder's own, so that a tenant keeps its digest when the engine restarts."""
    path = folder / "tenants.salt"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    return path.read_bytes()[:32].ljust(32, b"\0")
