"""`kvhorizon record`: logs, results and metrics from elsewhere, and files of a live recording, as one recording."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Annotated

import typer

from kvhorizon.errors import InputError
from kvhorizon.recording.access_log import access_rows
from kvhorizon.recording.benchmark import benchmark_rows, is_benchmark
from kvhorizon.recording.read import is_recording, read_recording
from kvhorizon.recording.schema import Row, arrow
from kvhorizon.recording.scrape import is_scrape, scrape_rows
from kvhorizon.recording.write import write_rows
from kvhorizon.sim.workload.readers import read_trace
from kvhorizon.sim.workload.trace import Trace

HOW = """\
To record a live engine, start it with a folder to record to; decisions stay vLLM's own in mode observe:

    KVHORIZON_MODE=observe KVHORIZON_RECORD=DIR vllm serve MODEL --scheduler-cls kvhorizon.adapter.make_scheduler

Then, at any time:

    kvhorizon inspect DIR                   what is in it, and whether this product can help
    kvhorizon what-if DIR --out OUT         what each policy would have done
    kvhorizon record DIR --out ONE.parquet  its files as one
    kvhorizon record LOG --out ONE.parquet  an OpenAI-style access log, or a benchmark's result, as a recording

Where only the engine's metrics are at hand, two scrapes tell rates and lengths:

    curl -s http://ENGINE/metrics > one.prom; sleep 3600; curl -s http://ENGINE/metrics > two.prom
    kvhorizon record one.prom two.prom --out ONE.parquet
"""
Found = tuple[list[Row], dict[str, object]]


def record(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Recordings, access logs, vLLM or SGLang benchmark results, scrapes of /metrics, traces."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The recording to write, a .parquet file.")] = None,
    tenants: Annotated[str, typer.Option(help="Names in logs: hashed, or as given.")] = "hashed",
) -> None:
    """Turn logs and rotated recordings into one recording; without arguments, say how to record a live engine."""
    if not sources:
        typer.echo(HOW, nl=False)
        return
    if tenants not in ("hashed", "given"):
        raise InputError("tenants", tenants, "must be hashed or given")
    if out is None or out.suffix != ".parquet":
        raise InputError("out", None if out is None else str(out), "must name a .parquet file")
    arrow("out")
    salt = secrets.token_bytes(32) if tenants == "hashed" else None
    rows, facts = _read_all(sources, salt)
    try:
        write_rows(out, rows, facts)
    except OSError as error:
        raise InputError("out", str(out), f"must be writable ({error.strerror})") from None
    typer.echo(f"wrote {out}: {len(rows)} requests")


def _read_all(sources: list[Path], salt: bytes | None) -> Found:
    """Rows of all sources in order of arrival; the engine of the last that names one."""
    rows: list[Row] = []
    facts: dict[str, object] = {}
    scrapes = [source for source in sources if _is_scrape(source)]
    if len(scrapes) == 2:
        rows += _between(*sorted(scrapes, key=lambda source: source.stat().st_mtime))
        sources = [source for source in sources if source not in scrapes]
    for source in sources:
        more, described = _read(source, salt)
        rows += more
        facts = described or facts
    return sorted(rows, key=lambda row: row.arrival_s), facts


def _read(source: Path, salt: bytes | None) -> Found:
    """What a file or folder holds, by its content; tenants of recordings stay as they are."""
    if is_recording(source):
        recording = read_recording(source)
        return recording.rows(), recording.facts
    try:
        text = source.read_text(encoding="utf-8-sig", errors="strict")
    except FileNotFoundError:
        raise InputError("source", str(source), "must be an existing file or folder") from None
    except OSError as error:
        raise InputError("source", str(source), f"must be readable ({error.strerror})") from None
    except UnicodeDecodeError:
        text = ""  # gzipped, perhaps: a trace
    start = text.lstrip()[:1]
    if is_scrape(text):
        return scrape_rows(None, text, source.stat().st_mtime), {}
    if start == "{" and is_benchmark(text):
        return benchmark_rows(text), {}
    if start == "[" or (start == "{" and '"input_length"' not in text.splitlines()[0]):
        return [row._replace(tenant=_tenant(row.tenant, salt)) for row in access_rows(text)], {}
    return _trace_rows(source, salt), {}


def _is_scrape(source: Path) -> bool:
    """Whether a file holds an engine's `/metrics`."""
    try:
        return source.is_file() and not is_recording(source) and is_scrape(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return False


def _between(earlier: Path, later: Path) -> list[Row]:
    """Requests of the time between two scrapes, which the files' own times tell."""
    now_s = later.stat().st_mtime
    span_s = now_s - earlier.stat().st_mtime
    return scrape_rows(earlier.read_text(encoding="utf-8"), later.read_text(encoding="utf-8"), now_s, span_s)


def _trace_rows(source: Path, salt: bytes | None) -> list[Row]:
    trace = read_trace(source)
    hashes = trace.prefix_hashes
    return [
        Row(
            arrival_s=float(trace.arrival_s[n]),
            prompt_tokens=int(trace.prompt_tokens[n]),
            output_tokens=int(trace.output_tokens[n]),
            priority=0 if trace.priority is None else int(trace.priority[n]),
            tenant=_tenant(str(trace.key[n]), salt),
            prefix_hashes=() if hashes is None else tuple(hashes[n].tolist()),
            session=_session(trace, n),
            slo_class="" if trace.slo_class is None else trace.slo_class[n],
        )
        for n in range(len(trace))
    ]


def _session(trace: Trace, n: int) -> str:
    """A number, which needs no digest."""
    return "" if trace.session is None or trace.session[n] < 0 else str(trace.session[n])


def _tenant(name: str, salt: bytes | None) -> str:
    """The name, or a digest that differs from one conversion to the next."""
    if salt is None or not name:
        return name
    return hashlib.blake2b(name.encode(), key=salt, digest_size=8).hexdigest()
