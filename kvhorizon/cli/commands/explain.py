"""`kvhorizon explain`: what the plugin in a running engine did to one request, and why."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from kvhorizon.errors import InputError
from kvhorizon.wire.client import Client
from kvhorizon.wire.failures import SolverError
from kvhorizon.wire.local import ask, local_addresses

_DONE = {"held": "held back", "victim": "chosen to go first, should blocks lack", "evicted": "evicted"}
_BY = {"program": "the program's plan", "greedy": "the service's greedy plan", "local": "the rule beside the engine"}


def explain(
    request: Annotated[str, typer.Argument(help="A request's id, as the engine's answer has it.")],
    at: Annotated[
        str | None, typer.Option(help="http://host:port of the plugin; without it, all engines of this machine.")
    ] = None,
    solver: Annotated[
        str | None, typer.Option(help="host:port or unix:/path of a shared solver service; the engine's own is known.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As data.")] = False,
) -> None:
    """Say what was decided about a request, by which part, against what, and what stands now."""
    found = find(request, [at] if at is not None else local_addresses())
    found["plan"] = planned(found, solver)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    typer.echo(f"{found['request']}: {found['now']}")
    if found["plan"] is not None:
        typer.echo(f"The solver's newest plan: {found['plan']}")
    for one in found["decisions"]:
        typer.echo(sentence(one))


def find(request: str, addresses: list[str]) -> dict[str, Any]:
    """The first answer of an engine that knows the request. Raises InputError where none does."""
    if not addresses:
        raise InputError("at", None, "must be given: no engine with a plugin of ours runs here")
    silent = []
    for address in addresses:
        try:
            body = ask(address, f"/explain?request={quote(request, safe='')}")
            if body is not None:
                return dict(json.loads(body))
        except (OSError, ValueError) as error:
            silent.append(f"{address.strip(chr(0))}: {error}")
    if len(silent) == len(addresses):
        raise InputError("at", silent[0], "must answer")
    raise InputError("request", request, "must be live, or among the last few thousand decisions")


def planned(found: dict[str, Any], solver: str | None) -> str | None:
    """What the newest plan of the engine's session says of a live request; None where there is none."""
    address = solver or found["solver"]
    if address is None or found["handle"] is None:
        return None
    try:
        with Client(address) as client:
            reply = client.explain_session(found["engine_id"], [found["handle"]])
    except SolverError:
        return None  # the plan may be older than the request
    return str(reply.explanations[0].text)


def sentence(one: dict[str, Any]) -> str:
    """One decision in one line."""
    when = datetime.fromtimestamp(one["at_s"]).strftime("%H:%M:%S.%f")[:-3]
    times = f" ({one['times']} times, lately)" if one["times"] > 1 else ""
    by = _BY.get(one["by"], "vLLM" if one["by"] == "vllm" else one["by"])
    return f"{when} step {one['step']}: {_DONE.get(one['what'], one['what'])} by {by}{times}: {one['why']}"
