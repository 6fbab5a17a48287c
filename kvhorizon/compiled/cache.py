"""numba's cache of compiled functions, made so that no failure of it stops what was to be computed.

What cannot be read is compiled afresh, and what cannot be kept is not. What the files are called is `compiled.files`,
where they may be `compiled.folders`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from pathlib import Path
from typing import Any

from numba.core import caching, dispatcher

from kvhorizon.compiled.files import PACKAGE, Locator, source_of
from kvhorizon.compiled.folders import Places, is_private
from kvhorizon.errors import in_a_line

logger = logging.getLogger(__name__)
_numba: Any = caching  # has types in some versions
_dispatcher: Any = dispatcher


class _Code(caching.CompileResultCacheImpl):  # type: ignore[misc, unused-ignore]
    _locator_classes: Any = [Locator]  # noqa: RUF012


class Cache(caching.FunctionCache):  # type: ignore[misc, unused-ignore]
    """numba's cache of one function. It never raises: without it there is only more to compile."""

    _impl_class = _Code

    def __init__(self, function: Any) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call, unused-ignore]
        locator = self._impl.locator
        path = Path(locator.get_cache_path())
        self._places = locator.places if isinstance(locator, Locator) else Places((path,), path)

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """Compiled code, or None where no private folder holds any that can be read."""
        target_context.refresh()
        key = self._index_key(sig, target_context.codegen())  # type: ignore[no-untyped-call, unused-ignore]
        for folder in self._places.read:
            try:
                if is_private(folder) and (found := self._in(folder).load(key)) is not None:
                    return self._impl.rebuild(target_context, found)
            except Exception as error:
                logger.debug("kvhorizon compiles afresh what it cannot read in %s: %r", folder, error)
                if not isinstance(error, OSError):  # damaged
                    self._forget(folder)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep compiled code, where there is a place for it."""
        if self._places.write is None:
            _say_once("kvhorizon compiles afresh at each start: no private folder for its code (set NUMBA_CACHE_DIR)")
            return
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call, unused-ignore]
        except Exception as error:  # a full disk, a folder that has changed hands
            logger.debug("kvhorizon cannot keep compiled code in %s", self._places.write, exc_info=error)
            why = getattr(error, "strerror", None) or in_a_line(error)
            _say_once(f"kvhorizon cannot keep compiled code: {why}")

    def flush(self) -> None:
        """Forget the function's code."""
        if self._places.write is not None:
            self._forget(self._places.write)

    def _in(self, folder: Path) -> Any:
        return _numba.IndexDataCacheFile(str(folder), self._impl.filename_base, self._impl.locator.get_source_stamp())

    def _forget(self, folder: Path) -> None:
        if folder == self._places.write and is_private(folder):
            with contextlib.suppress(Exception):
                self._in(folder).flush()


@functools.cache
def _say_once(line: str) -> None:
    logger.warning("%s", line)


def cache_of(function: Any) -> Any:
    """This package's cache for what is compiled as here, none where that fails; numba's own for all else."""
    try:
        file = Path(function.__code__.co_filename).resolve()
        ours = function.__module__.startswith(f"{PACKAGE.name}.") or (file.is_file() and source_of(file).compiles)
    except (AttributeError, OSError):
        ours = False
    if not ours:
        return _numba.FunctionCache(function)
    try:
        return Cache(function)
    except Exception as error:  # no file, as in an archive
        _say_once(f"kvhorizon compiles afresh at each start: {error}")
        return _numba.NullCache()


def install() -> bool:
    """Keep the code of this package's functions so from now on; False where this numba has no place for it, and
    nothing can be kept."""
    if getattr(_dispatcher, "FunctionCache", None) is caching.FunctionCache:
        _dispatcher.FunctionCache = cache_of
    return getattr(_dispatcher, "FunctionCache", None) is cache_of
